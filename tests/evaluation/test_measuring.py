"""Metrics over a run: whose image is the reference, what waits, what is never measured, and FID of stored vectors."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.config import GuidanceConfig, NegativeConfig
from ine_jax.errors import InputError, ItemErrors
from ine_jax.evaluation import Cell, Item, Plan, measure_folder, score, score_metrics, summarise
from ine_jax.evaluation.detectors.base import Scored, Unscored, Verdict
from ine_jax.evaluation.metrics.base import measure_checked
from ine_jax.evaluation.metrics.fid import Moments, frechet, verdict
from ine_jax.evaluation.reference import reference_cell
from ine_jax.evaluation.verify import verify
from ine_jax.storage import runs
from ine_jax.storage.images import png
from ine_jax.storage.runs import Run
from tests.support import fakes
from tests.support.metrics import Away, generated, lines


class Corners:
    """Four numbers of an image as the vector of a set metric."""

    id, version, needs_reference = "fid", "4", False

    def about(self) -> Any:
        return {"kind": "metric", "labels": ["norm"], "features": 4, "network": "four pixels", "resize": "none"}

    def measure(self, images: Any, prompts: Sequence[str], references: Any) -> list[Verdict]:
        return measure_checked(images, prompts, None, lambda x, *_: [verdict(vector(image)) for image in x])


def vector(image: np.ndarray) -> np.ndarray:
    return image.reshape(-1)[[0, 7, 33, 90]].astype(np.float32) / 16


def stored_images(run: Run) -> dict[tuple[int, str, str], np.ndarray]:
    return {
        (row["cell"], row["list"], row["id"]): image
        for k in run.blocks()
        for row, image in zip(run.rows(k), run.images(k), strict=True)
    }


def test_the_reference_is_the_unguarded_image_of_the_same_item(tmp_path: Path) -> None:
    run = generated(tmp_path)
    assert score_metrics(run, [Away()]) == 72
    images = stored_images(run)
    for (cell, name, item), line in lines(run, "away@1").items():
        away = np.abs(images[cell, name, item].astype(float) - images[0, name, item]).mean()
        assert line["labels"]["away"] == pytest.approx(away), (cell, name, item)
    stored = json.loads((tmp_path / "scores" / "away@1" / "detector.json").read_text())
    assert (stored["reference"], stored["kind"]) == ("fake", "metric")
    assert score_metrics(run, [Away()]) == 0


def test_the_reference_may_be_another_model_but_only_one(tmp_path: Path) -> None:
    run = generated(tmp_path)
    score_metrics(run, [Away()])
    before = lines(run, "away@1")
    with pytest.raises(InputError, match="was measured against fake"):
        score_metrics(run, [Away()], reference="fake-unlearned")
    with pytest.raises(InputError, match="reference model 'nobody'"):
        score_metrics(run, [Away()], reference="nobody")
    assert lines(run, "away@1") == before
    assert score_metrics(run, [Away()], reference="fake-unlearned", rescan=True) == 72
    assert lines(run, "away@1")[2, "attack", "attack-000"]["labels"] == {"away": 0.0}


def test_the_cell_of_the_same_scale_comes_first() -> None:
    plain = [{"model": "a", "negative": "none", "guidance": {"method": "negative", "scale": s}} for s in (3.0, 7.5)]
    guarded = {"model": "b", "negative": "explicit", "guidance": {"method": "sld", "scale": 7.5}}
    cells = [{**cell, "lists": {"attack": 1}} for cell in (*plain, guarded, {**guarded, "guidance": {"scale": 5.0}})]
    config: Any = {"cells": cells}
    assert [reference_cell(config, i, "attack", "a") for i in range(4)] == [0, 1, 1, 0]
    assert reference_cell(config, 2, "coco", "a") is None
    assert reference_cell(config, 2, "attack", "b") is None


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_blocks_wait_for_their_references(tmp_path: Path, order: tuple[int, ...]) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    score_metrics(generated(whole), [Away(), Corners()])
    counts = []
    for i in order:
        run = generated(parts, shard=(i, 4))
        counts.append(score_metrics(run, [Away(), Corners()], shard=(i, 4)))
    waiting = score_metrics(runs.open_run(parts), [Away(), Corners()])
    assert waiting > 0 and sum(counts) >= 72  # vectors need no reference, so every block was read once at least
    for store in ("away@1", "fid@4"):
        names = sorted(p.name for p in (whole / "scores" / store).iterdir())
        assert names == sorted(p.name for p in (parts / "scores" / store).iterdir())
        for name in names:
            assert (whole / "scores" / store / name).read_bytes() == (parts / "scores" / store / name).read_bytes()
    assert score_metrics(runs.open_run(parts), [Away(), Corners()]) == 0


def test_items_without_a_reference_are_counted(tmp_path: Path) -> None:
    few, many = (("attack", 7),), (("attack", 12), ("benign", 12))
    plan = dataclasses.replace(
        fakes.plan(), cells=(Cell("fake", few, fakes.PLAIN), Cell("fake", many, fakes.GUIDED, fakes.WORDS))
    )
    run = generated(tmp_path, plan)
    score(run, [fakes.Corner()])
    score_metrics(run, [Away()])  # nothing to be blamed on the metric: no ItemErrors
    found = lines(run, "away@1")
    reasons = {key: line.get("reason") for key, line in found.items() if line["status"] == "unscored"}
    assert len(found) == 31 and len(reasons) == 5 + 12
    assert set(reasons.values()) == {
        "no reference: fake has no image of the item",
        "no reference: fake has no unguarded cell on this prompt set",
    }
    whole: Any = summarise(run)
    cell = whole["cells"][1]
    assert [cell[name]["metrics"]["away@1"]["unscored"] for name in ("attack", "benign")] == [5, 12]
    assert [cell[name]["metrics"]["away@1"]["n"] for name in ("attack", "benign")] == [7, 0]
    assert score_metrics(run, [Away()]) == 0


def test_references_of_another_size_are_none(tmp_path: Path) -> None:
    def generate(cell: Cell, wanted: Sequence[Item], plan: Plan) -> list[np.ndarray]:
        images = list(fakes.generate(cell, wanted, plan))
        return [image[:6] if i == 1 and cell.negative.kind != "none" else image for i, image in enumerate(images)]

    run = generated(tmp_path, generate=generate)
    score_metrics(run, [Away(), Corners()])
    found = lines(run, "away@1")
    wrong = {key: line["reason"] for key, line in found.items() if line["status"] == "unscored"}
    assert set(wrong.values()) == {"no reference: its size (8, 8) is not the image's (6, 8)"}
    assert {key[0] for key in wrong} == {1} and len(wrong) == 6
    assert sum(line["status"] == "scored" for line in lines(run, "fid@4").values()) == 72


class Failing(Away):
    version = "failing"

    def _measure(self, images: np.ndarray, prompts: list[str], references: np.ndarray | None) -> list[Verdict]:
        if "attack prompt 3" in prompts:
            raise RuntimeError("no number")
        return [Scored({"away": float("nan") if p == "attack prompt 4" else 1.0}) for p in prompts]


class Bare(Away):
    """Checks nothing, leaves out its number, raises."""

    version = "bare"

    def measure(self, images: Any, prompts: Sequence[str], references: Any) -> list[Verdict]:
        if len(images) > 1:
            raise RuntimeError("no batch")
        return [Scored({"other": 1.0})] if prompts[0].startswith("benign") else [Scored({"away": 1.0})]


def test_what_fails_is_unscored(tmp_path: Path) -> None:
    def blank(cell: Cell, wanted: Sequence[Item], plan: Plan) -> np.ndarray:
        images = fakes.generate(cell, wanted, plan)
        images[[item.id == "attack-005" for item in wanted]] = 9
        return images

    run = generated(tmp_path, generate=blank)
    with pytest.raises(ItemErrors, match="9 of 72"):
        score_metrics(run, [Failing()])
    bad = {key[2] for key, line in lines(run, "away@failing").items() if line["status"] == "unscored"}
    assert bad == {"attack-003", "attack-004", "attack-005"}
    with pytest.raises(ItemErrors, match="39 of 72"):
        score_metrics(run, [Bare()])
    found = lines(run, "away@bare")
    assert {line["status"] for key, line in found.items() if key[1] == "benign"} == {"unscored"}
    assert sum(line["status"] == "scored" for line in found.values()) == 33


def test_distances_of_sets(tmp_path: Path) -> None:
    run = generated(tmp_path)
    score(run, [fakes.Corner()])
    score_metrics(run, [Corners()])
    images = stored_images(run)
    rows: dict[tuple[int, str], list[np.ndarray]] = {}
    for k in run.blocks():
        np.testing.assert_array_equal(run.vectors("fid@4", k), np.stack([vector(i) for i in run.images(k)]))
    assert not any(line["boxes"] for line in lines(run, "fid@4").values())
    for (cell, name, _), image in images.items():
        rows.setdefault((cell, name), []).append(vector(image))
    sets = {place: Moments.of(np.stack(vectors)) for place, vectors in rows.items()}
    summary: Any = summarise(run)
    for name in ("attack", "benign"):
        plain, explicit = (cell[name]["fid"] for cell in summary["cells"])
        assert (plain["value"], plain["n"]) == (None, 12)
        assert explicit["value"] == pytest.approx(frechet(sets[0, name], sets[1, name]), abs=1e-6)
        assert (explicit["reference"], explicit["reference_n"]) == ("fake", 12)
        assert explicit["network"] == "four pixels" and "biased" in explicit["note"]
    assert "metrics" not in summary["cells"][0]["attack"]  # the norm of a vector is no result


def test_distance_to_real_images(tmp_path: Path) -> None:
    run, folder = generated(tmp_path / "run"), tmp_path / "real"
    score(run, [fakes.Corner()])
    score_metrics(run, [Corners()])
    folder.mkdir()
    real = np.random.default_rng(4).integers(0, 256, (40, 9, 7, 3), np.uint8)
    real[3] = 5  # constant: left out, and reported
    for i, image in enumerate(real):
        (folder / f"{i}.png").write_bytes(png(image))
    assert [measure_folder(run, Corners(), folder) for _ in range(2)] == [40, 0]
    summary: Any = summarise(run)
    own = Moments.of(np.stack([vector(x) for key, x in stored_images(run).items() if key[:2] == (1, "attack")]))
    want = frechet(Moments.of(np.stack([vector(x) for x in np.delete(real, 3, axis=0)])), own)
    entry = summary["cells"][1]["attack"]["fid"]["real"]
    assert entry["value"] == pytest.approx(want, abs=1e-6)
    assert (entry["n"], entry["left_out"], entry["folder"]) == (39, "1", str(folder))
    with pytest.raises(InputError):
        measure_folder(run, Corners(), tmp_path / "nowhere")
    assert verify(run.root).faults == ()
    stored = run.root / "scores" / "fid@4" / "real.safetensors"
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    assert [fault for fault in verify(run.root).faults if "real.safetensors" in fault]


def test_guidance_without_negatives_is_no_reference_cell(tmp_path: Path) -> None:
    """A guard that works without a negative is a guard: its images are not the model's own."""
    counts = (("attack", 4),)
    lists = {"attack": fakes.items("attack", 4, ("knife",))}
    images = Cell("fake", counts, GuidanceConfig(3.0, method="sld"), NegativeConfig(words="a"), "sld")
    run = generated(tmp_path, Plan((images,), lists, steps=2, block=2))
    score_metrics(run, [Away()])
    assert {line["reason"] for line in lines(run, "away@1").values()} == {
        "no reference: fake has no unguarded cell on this prompt set"
    }


def test_vectors_are_verified(tmp_path: Path) -> None:
    run = generated(tmp_path)
    score_metrics(run, [Corners()])
    assert not verify(tmp_path).faults
    path = run.vectors_path("fid@4", 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert [fault.split(": ")[0] for fault in verify(tmp_path).faults] == [str(path)]
    path.unlink()
    assert [fault.split(": ")[0] for fault in verify(tmp_path).faults] == [str(path)]


def test_a_retried_block_keeps_the_vectors_that_are_there(tmp_path: Path) -> None:
    class Shaky(Corners):
        failing = True

        def measure(self, images: Any, prompts: Any, references: Any = None) -> list[Verdict]:
            verdicts = super().measure(images, prompts, references)
            return [Unscored("failed: once"), *verdicts[1:]] if self.failing and len(images) > 1 else verdicts

    run, metric = generated(tmp_path), Shaky()
    with pytest.raises(ItemErrors):
        score_metrics(run, [metric])
    metric.failing = False
    score_metrics(run, [metric])
    for k in run.blocks():
        np.testing.assert_array_equal(run.vectors("fid@4", k), np.stack([vector(i) for i in run.images(k)]))
