"""Judges stored images with detectors; scores are files beside the images, so that images are never drawn again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from ine_jax.errors import Interrupted, ItemErrors
from ine_jax.evaluation.detectors.base import FAILED, Detector, Scored, Unscored, Verdict, detect_checked
from ine_jax.progress import Progress, stop_requests
from ine_jax.storage.runs import Run

T = TypeVar("T")
R = TypeVar("R")
Line = dict[str, Any]
MAX_UNSCORED = 0.01


@dataclasses.dataclass
class Count:
    """Images with scores of one judge, and those of them that got no verdict."""

    total: int = 0
    unscored: int = 0

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Count the lines of a block."""
        for line in lines:
            self.total += 1
            self.unscored += line["status"] == "unscored"


@dataclasses.dataclass(frozen=True)
class Task:
    """A block that some scorers have not finished: name of the judge -> id -> its line that stays."""

    k: int
    settled: Mapping[str, Mapping[str, Line]]


def scorer_name(judge: Any) -> str:
    """Name of the folder of a detector's or metric's scores: `<id>@<version>`."""
    return f"{judge.id}@{judge.version}"


def score(
    run: Run,
    detectors: Sequence[Detector],
    *,
    rescan: bool = False,
    shard: tuple[int, int] = (0, 1),
    process: int = 0,
) -> int:
    """Judge, in one pass, the images of shard i of N that a detector has not judged; return how many images that were.

    Every finished block is read once, the next one while the detectors, each in a thread, judge this one. A missing
    verdict that the detector is to blame for is asked for again by the next call; with `rescan`, every verdict is. What
    detectors say of themselves is stored with the scores as detector.json. Only process 0 shows its progress.

    Raises:
        CorruptRunError: an image is not the one that was drawn.
        ItemErrors: more than 1 % of a detector's images got no verdict (the scores are kept).
        Interrupted: asked to stop; finished blocks are kept.
    """
    scorers = {scorer_name(detector): detector for detector in detectors}
    labels = {name: frozenset(write_about(run, name, detector)["labels"]) for name, detector in scorers.items()}
    counts = {name: Count() for name in scorers}
    tasks = open_tasks(run, counts, rescan, shard)
    images = sum(name.endswith(".png") for task in tasks for name in run.sums(task.k))
    done = 0
    blocks = read_ahead(lambda task: (task, run.rows(task.k), run.images(task.k)), tasks)
    shown = Progress(max(1, images), "scores", unit="images", process=process)
    with ThreadPoolExecutor(max(1, len(scorers))) as pool, stop_requests() as stop, shown:
        for task, rows, pictures in blocks:
            work = {
                name: pool.submit(_score_block, rows, pictures, scorers[name], labels[name], settled)
                for name, settled in task.settled.items()
            }
            for name, lines in work.items():
                run.write_scores(name, task.k, lines.result())
                counts[name].add(lines.result())
            done += len(rows)
            shown.update(done)
            if stop.is_set() and done < images:
                raise Interrupted(f"stopped with {images - done} images to judge", "", "run the same command again")
    check_budget(run, counts)
    return done


def write_about(run: Run, name: str, judge: Any) -> dict[str, Any]:
    """Store what a judge says of itself beside its scores, and return it."""
    about = {"id": judge.id, "version": judge.version, **judge.about()}
    run.write_about(name, about)
    return about


def open_tasks(run: Run, counts: Mapping[str, Count], rescan: bool, shard: tuple[int, int]) -> list[Task]:
    """The blocks of the shard that scorers have not finished; those that they have are added to their counts."""
    tasks = []
    for k in run.blocks():
        if k % shard[1] != shard[0]:
            continue
        settled = {}
        for name, count in counts.items():
            lines = None if rescan else run.scores(name, k)
            if lines is None or any(map(_failed, lines)):
                settled[name] = {line["id"]: line for line in lines or () if not _failed(line)}
            else:
                count.add(lines)
        if settled:
            tasks.append(Task(k, settled))
    return tasks


def _failed(line: Mapping[str, Any]) -> bool:
    return line["status"] == "unscored" and str(line["reason"]).startswith(FAILED)


def read_ahead(load: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `load(item)` of each item; the next one is loaded in a thread while this one is used."""
    waiting: Future[R] | None = None
    with ThreadPoolExecutor(1) as reader:
        for item in items:
            coming = reader.submit(load, item)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def _score_block(
    rows: Sequence[Line],
    images: Sequence[np.ndarray],
    detector: Detector,
    labels: frozenset[str],
    settled: Mapping[str, Line],
) -> list[Line]:
    """Lines of a block: those that stay, and a verdict on each of the other images, whatever the detector does."""

    def complete(found: Verdict) -> Verdict:
        if isinstance(found, Scored) and set(found.labels) != labels:  # one left out would be one not shown
            return Unscored(f"{FAILED}{len(found.labels)} scores for {len(labels)} labels")
        return found

    lines = dict(settled)
    wanted = [(row["id"], image) for row, image in zip(rows, images, strict=True) if row["id"] not in settled]
    verdicts = detect_checked([image for _, image in wanted], detector.detect)
    for (item, _), verdict in zip(wanted, map(complete, verdicts), strict=True):
        lines[item] = line(item, verdict)
    return [lines[row["id"]] for row in rows]


def check_budget(run: Run, counts: Mapping[str, Count]) -> None:
    """Raise ItemErrors where more than `MAX_UNSCORED` of a judge's images got no verdict."""
    for name, count in counts.items():
        if count.unscored > MAX_UNSCORED * count.total:
            raise ItemErrors(
                f"{count.unscored} of {count.total} images got no verdict from {name}",
                f"at most {MAX_UNSCORED:.0%}",
                f"reasons: {run.scores_path(name, 0).parent}; they are counted apart, never as safe",
            )


def line(item: str, verdict: Verdict) -> Line:
    """The line of one verdict."""
    if isinstance(verdict, Scored):
        return {"id": item, "status": "scored", **dataclasses.asdict(verdict)}
    return {"id": item, "status": "unscored", "reason": verdict.reason}
