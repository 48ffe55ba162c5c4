"""Scoring: several detectors in one pass, what is retried, what is never safe, and when too much is missing."""

import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.errors import CorruptRunError, Interrupted, ItemErrors
from ine_jax.evaluation import evaluate, score, summarise
from ine_jax.evaluation.detectors.base import Scored, Verdict, detect_checked
from ine_jax.evaluation.scoring import read_ahead, scorer_name
from ine_jax.storage.runs import Run
from tests.support import fakes
from tests.support.cases import sample


class Counting(fakes.Corner):
    """The corner's scores, under another name, and how many images each call had."""

    def __init__(self, version: str = "1", name: str = "detector") -> None:
        self.id, self.version = name, version
        self.calls: list[int] = []

    def detect(self, images: Any) -> list[Verdict]:
        self.calls.append(len(images))
        return super().detect(images)


PLAN = fakes.plan(4, 3)
IMAGES = 24  # of three cells, two lists each


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return evaluate(PLAN, tmp_path, generate=fakes.generate, hashes=fakes.hashes)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that several tests score, each by a detector of another version."""
    return evaluate(PLAN, tmp_path_factory.mktemp("generated"), generate=fakes.generate, hashes=fakes.hashes)


def lines(run: Run, name: str) -> list[Any]:
    return [line for k in run.blocks() for line in run.scores(name, k) or ()]


def test_several_detectors_read_every_block_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    images = Run.images

    def noted(self: Run, k: int) -> list[np.ndarray]:
        read.append(k)
        return images(self, k)

    monkeypatch.setattr(Run, "images", noted)
    detectors = [Counting(name="one"), Counting(name="two"), Counting(name="two")]
    assert score(run, detectors) == IMAGES
    assert sorted(read) == run.blocks()
    assert lines(run, "one@1") == lines(run, "two@1") and len(lines(run, "one@1")) == IMAGES
    assert sum(detectors[0].calls) == IMAGES
    assert score(run, detectors) == 0 and sum(detectors[0].calls) == IMAGES
    assert score(run, [detectors[0]], rescan=True) == IMAGES and sum(detectors[0].calls) == 2 * IMAGES
    assert run.about("one@1") == {"id": "one", "version": "1", "kind": "detector", **fakes.ABOUT}


def test_a_new_detector_scores_what_it_has_not_seen(run: Run) -> None:
    old = Counting(name="old")
    assert score(run, [old], shard=(0, 2)) < IMAGES
    seen = sum(old.calls)
    new = Counting(name="new")
    assert score(run, [old, new]) == IMAGES
    assert sum(old.calls) == IMAGES and sum(new.calls) == IMAGES and 0 < seen < IMAGES


def test_shards_judge_every_image_once(run: Run) -> None:
    detector = Counting()
    assert sum(score(run, [detector], shard=(i, 3)) for i in (2, 0, 1)) == IMAGES == sum(detector.calls)
    assert len(lines(run, "detector@1")) == IMAGES


class Recovering(Counting):
    """Fails on images without a knife until it is fixed."""

    broken = True

    def _score(self, images: np.ndarray) -> list[Verdict]:
        if self.broken and (images[:, 0, 0, 0] == 10).any():
            raise RuntimeError("as asked")
        return super()._score(images)


def test_failures_are_asked_for_again_and_verdicts_stay(run: Run) -> None:
    whole, detector = Counting(), Recovering(name="recovering")
    score(run, [whole])
    with pytest.raises(ItemErrors, match=rf"\d+ of {IMAGES} images got no verdict from recovering@1"):
        score(run, [detector])
    first = lines(run, "recovering@1")
    failed = [line["id"] for line in first if line["status"] == "unscored"]
    assert 0 < len(failed) < IMAGES and all(
        line["reason"] == "failed: RuntimeError: as asked" for line in first if "reason" in line
    )
    detector.calls.clear()
    with pytest.raises(ItemErrors, match=f"{len(failed)} of {IMAGES}"):  # still broken: the same budget, of all images
        score(run, [detector])
    assert lines(run, "recovering@1") == first
    detector.broken = False
    detector.calls.clear()
    assert score(run, [detector]) <= IMAGES
    assert sum(detector.calls) == len(failed)
    assert lines(run, "recovering@1") == lines(run, "detector@1")
    assert score(run, [detector]) == 0


def test_bad_images_are_not_asked_for_again(tmp_path: Path) -> None:
    def some_blank(cell: Any, wanted: Sequence[Any], plan: Any) -> np.ndarray:
        images = fakes.generate(cell, wanted, plan)
        images[[item.id == "attack-003" for item in wanted]] = 0
        return images

    run, detector = evaluate(PLAN, tmp_path, generate=some_blank, hashes=fakes.hashes), Counting()
    for _ in range(2):  # reported by every call, scored by the first
        with pytest.raises(ItemErrors, match=f"3 of {IMAGES}"):
            score(run, [detector])
        assert sum(detector.calls) == IMAGES - 3
    assert {line["id"] for line in lines(run, "detector@1") if line["status"] == "unscored"} == {"attack-003"}


class Mute(BaseException):
    def __str__(self) -> str:
        raise SystemExit


def _raise(error: BaseException) -> Any:
    raise error


WRONG: dict[str, Any] = {
    "too few": lambda scores: scores[:-1],
    "too many": lambda scores: [*scores, scores[0]],
    "none": lambda scores: None,
    "raises": lambda scores: 1 / 0,
    "nan": lambda scores: [Scored({"knife": float("nan"), "cat": 0.0}) for _ in scores],
    "infinite": lambda scores: [Scored({"knife": 0.0, "cat": float("inf")}) for _ in scores],
    "empty": lambda scores: [Scored({}) for _ in scores],
    "a label left out": lambda scores: [Scored({"cat": 0.0}) for _ in scores],
    "a label too many": lambda scores: [Scored({"knife": 0.0, "cat": 0.0, "dog": 0.0}) for _ in scores],
    "text": lambda scores: [Scored({"knife": "low", "cat": 0.0}) for _ in scores],  # type: ignore[dict-item]
    "nothing": lambda scores: [Scored({"knife": None, "cat": 0.0}) for _ in scores],  # type: ignore[dict-item]
    "no verdicts": lambda scores: [None for _ in scores],
    "boxes that JSON cannot hold": lambda scores: [Scored(s.labels, ({"score": float("nan")},)) for s in scores],
    "boxes of arrays": lambda scores: [
        Scored(s.labels, ({"box": np.zeros(4)},))  # type: ignore[typeddict-item]
        for s in scores
    ],
    "a score above 1": lambda scores: [Scored({"knife": 1.0001, "cat": 0.0}) for _ in scores],
    "a score below 0": lambda scores: [Scored({"knife": -1e-9, "cat": 0.0}) for _ in scores],
    "exits": lambda scores: sys.exit("enough"),
    "interrupts": lambda scores: _raise(KeyboardInterrupt()),
    "an error without a text": lambda scores: _raise(Mute()),
    "escapes": lambda scores: (_ for _ in ()).throw(RuntimeError("\x1b[31m\udcff\n" * 99)),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("checked", sample([True, False], (True,)))
def test_whatever_a_detector_does_is_unscored(generated: Run, wrong: str, checked: bool) -> None:
    class Wrong(fakes.Corner):
        version = f"{wrong.replace(' ', '-')}-{checked}"

        def detect(self, images: Any) -> list[Verdict]:
            change = WRONG[wrong]
            if checked:
                return detect_checked(images, lambda rows: change(self._score(rows)))
            found: list[Verdict] = change(self._score(np.asarray(images)))
            return found

    with pytest.raises(ItemErrors, match=f"{IMAGES} of {IMAGES}"):
        score(generated, [Wrong()])
    name = scorer_name(Wrong())
    stored = lines(generated, name)
    assert len(stored) == IMAGES and all(line["status"] == "unscored" for line in stored)
    assert all(line["reason"].startswith("failed: ") and len(line["reason"]) <= 200 for line in stored)
    summary: Any = summarise(generated, name)
    assert summary["images"]["unscored"] == IMAGES
    assert all((c["attack"]["k"], c["attack"]["n"], c["attack"]["unscored"]) == (0, 0, 4) for c in summary["cells"])


def test_ctrl_c_of_the_user_is_not_a_verdict() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    with pytest.raises(KeyboardInterrupt):
        detect_checked(images, lambda rows: _raise(KeyboardInterrupt()))


def test_images_of_several_sizes_are_scored_together() -> None:
    sizes = [(8, 8), (4, 6), (8, 8), (4, 6), (2, 2)]
    images = [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(sizes)]
    seen: list[tuple[int, ...]] = []

    def score(rows: np.ndarray) -> list[Verdict]:
        seen.append(rows.shape)
        return [Scored({"mean": float(row.mean()) / 255}) for row in rows]

    verdicts = detect_checked(images, score)
    assert verdicts == [Scored({"mean": float(image.mean()) / 255}) for image in images]
    assert seen == [(2, 8, 8, 3), (2, 4, 6, 3), (1, 2, 2, 3)]


def test_numbers_of_numpy_are_stored_as_numbers() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    verdicts = detect_checked(images, lambda rows: [Scored({"a": np.float64(0.5)}) for _ in rows])
    assert verdicts == [Scored({"a": 0.5})] * 2 and type(verdicts[0].labels["a"]) is float  # type: ignore[union-attr]


def test_a_request_to_stop_keeps_what_is_done(run: Run) -> None:
    class Stopping(Counting):
        def _score(self, images: np.ndarray) -> list[Verdict]:
            signal.raise_signal(signal.SIGTERM) if not self.calls[1:] else None
            return super()._score(images)

    detector = Stopping()
    with pytest.raises(Interrupted, match="images to score"):
        score(run, [detector])
    done = len(lines(run, "detector@1"))
    assert 0 < done < IMAGES
    assert score(run, [detector]) == IMAGES - done


def test_the_next_block_is_read_while_this_one_is_scored() -> None:
    log: list[str] = []
    read = {i: threading.Event() for i in range(4)}

    def load(i: int) -> int:
        log.append(f"read {i}")
        read[i].set()
        return i

    for i in read_ahead(load, range(4)):
        if i < 3:
            assert read[i + 1].wait(10)
        log.append(f"scored {i}")
    assert log == [
        "read 0",
        *(f"{what} {i + (what == 'read')}" for i in range(3) for what in ("read", "scored")),
        "scored 3",
    ]
    assert list(read_ahead(load, [])) == []


def test_a_fault_in_reading_ends_the_scoring(run: Run) -> None:
    (run.block(4) / "000001.png").write_bytes(b"not the image")
    with pytest.raises(CorruptRunError):
        score(run, [Counting()])
    assert len(lines(run, "detector@1")) < IMAGES


def test_detectors_work_at_the_same_time(run: Run) -> None:
    meet = threading.Barrier(2, timeout=300)  # one after the other, they would wait for ever

    class Meeting(Counting):
        def _score(self, images: np.ndarray) -> list[Verdict]:
            meet.wait()
            return super()._score(images)

    assert score(run, [Meeting(name="one"), Meeting(name="two")]) == IMAGES
    assert all(line["status"] == "scored" for line in lines(run, "one@1"))
