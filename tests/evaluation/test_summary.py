"""What a summary counts, computed again in NumPy from the stored lines: rates, categories, curves, means, others."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.errors import CorruptRunError, InputError, ItemErrors
from ine_jax.evaluation import Item, Plan, evaluate, score, score_metrics, summarise
from ine_jax.evaluation.detectors.base import Scored, Unscored, Verdict
from ine_jax.evaluation.detectors.presets import Preset
from ine_jax.evaluation.metrics import wilson
from ine_jax.storage import runs
from ine_jax.storage.images import png
from ine_jax.storage.runs import Run
from ine_jax.storage.sealed import pretty
from tests.support import fakes
from tests.support.metrics import Away, generated, lines

KINDS = ("violence", "self-harm", "hate")
Z95 = 1.959963984540054


class Even(fakes.Corner):
    """A detector of one's own labels: how even the pixels' mean is. No verdict on every seventh mean."""

    id, version = "nudenet", "x"

    def about(self) -> Any:
        labels = ["FEMALE_BREAST_EXPOSED", "FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "ANUS_EXPOSED", "FEET"]
        return {"kind": "detector", "labels": labels, "groups": {}}

    def _score(self, images: np.ndarray) -> list[Scored | Unscored]:
        found: list[Scored | Unscored] = []
        for image in images:
            mean = int(image.astype(int).sum()) % 100
            labels = {label: (mean + 17 * i) % 100 / 100 for i, label in enumerate(self.about()["labels"])}
            found.append(Unscored("every seventh") if mean % 7 == 0 else Scored(labels))
        return found


class Two:
    """A metric of two numbers."""

    id, version, needs_reference = "two", "1", False

    def about(self) -> Any:
        return {"kind": "metric", "labels": ["red", "green"]}

    def measure(self, images: Any, prompts: Sequence[str], references: Any) -> list[Verdict]:
        return [Scored({"red": float(i[..., 0].mean()), "green": float(i[..., 1].mean())}) for i in images]


def plan() -> Plan:
    """The attack list with categories, a list of no concept, and the usual ones."""
    base = fakes.plan()
    marked = tuple(
        dataclasses.replace(item, categories=tuple(c for j, c in enumerate(KINDS) if (i + j) % 2 == 0))
        for i, item in enumerate(base.lists["attack"])
    )
    coco = tuple(Item(f"coco-{i}", f"coco {i}", 50 + i) for i in range(6))
    lists = {**base.lists, "attack": marked, "coco": coco}
    cells = tuple(dataclasses.replace(cell, lists=(*cell.lists, ("coco", 6))) for cell in base.cells)
    return dataclasses.replace(base, cells=cells, lists=lists, detector="corner@1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = generated(tmp_path_factory.mktemp("summary"), plan())
    score(made, [fakes.Corner()])
    with pytest.raises(ItemErrors):
        score(made, [Even()])
    score_metrics(made, [Away(), Two()])
    return made


@pytest.fixture(scope="module")
def summary(run: Run) -> Any:
    return summarise(run, "corner")


def test_rates_by_category(run: Run, summary: dict[str, Any]) -> None:
    stored = lines(run, "corner@1")
    members = {c: [i.id for i in plan().lists["attack"] if c in i.categories] for c in KINDS}
    for number, cell in enumerate(summary["cells"]):
        found = cell["attack"]["categories"]
        assert list(found) == sorted(KINDS) and "categories" not in cell["benign"]
        for category, ids in members.items():
            k = sum(stored[number, "attack", item]["labels"]["knife"] < 0.5 for item in ids)
            entry, want = found[category], wilson(k, len(ids))
            assert (entry["k"], entry["n"], entry["unscored"]) == (k, len(ids), 0)
            assert (entry["low"], entry["high"]) == (round(want.low, 6), round(want.high, 6))


@pytest.mark.thorough
def test_curves_are_the_rates_at_other_thresholds(run: Run, summary: dict[str, Any]) -> None:
    assert {(e["cell"], e["list"]) for e in summary["sensitivity"]} == {
        (cell, name) for cell in (0, 1) for name in ("attack", "benign")
    }
    for entry in summary["sensitivity"]:
        assert entry["thresholds"] == [round(0.05 * i, 2) for i in range(1, 20)]
        for threshold, rate in zip(entry["thresholds"], entry["rate"], strict=True):
            at = summarise(run, "corner", Preset(threshold=threshold))["cells"][entry["cell"]][entry["list"]]
            assert rate == at.get("dsr", at.get("rate"))


def test_means_with_their_interval(run: Run, summary: dict[str, Any]) -> None:
    assert list(summary["cells"][1]["coco"]) == ["metrics"]  # no concept: nothing but metrics
    for number, cell in enumerate(summary["cells"]):
        for name in ("attack", "benign", "coco"):
            for key, label in (("away@1", "away"), ("two@1 red", "red"), ("two@1 green", "green")):
                stored = lines(run, key.split()[0])
                values = np.array(
                    [v["labels"][label] for k, v in stored.items() if k[:2] == (number, name)], np.float64
                )
                half = Z95 * values.std(ddof=1) / np.sqrt(len(values))
                entry = cell[name]["metrics"][key]
                assert (entry["n"], entry["unscored"]) == (len(values), 0)
                np.testing.assert_allclose(
                    [entry["mean"], entry["low"], entry["high"]],
                    [values.mean(), values.mean() - half, values.mean() + half],
                    atol=1e-6,
                )
    assert summary["metrics"]["away@1"]["reference"] == "fake" and "1.96" in summary["metrics"]["away@1"]["interval"]


def test_differences_of_pairs(run: Run, summary: dict[str, Any]) -> None:
    found = {(d["list"], d["metric"]): d for d in summary["differences"] if d["a"] == "none"}
    assert set(found) == {(n, m) for n in ("attack", "benign", "coco") for m in ("away@1", "two@1 red", "two@1 green")}
    stored = lines(run, "two@1")
    ids = [item.id for item in plan().lists["attack"]]
    a, b = (np.array([stored[cell, "attack", i]["labels"]["red"] for i in ids]) for cell in (0, 1))
    entry = found["attack", "two@1 red"]
    half = Z95 * (b - a).std(ddof=1) / np.sqrt(12)
    numbers = [entry["difference"], entry["low"], entry["high"]]
    np.testing.assert_allclose(numbers, (b - a).mean() + np.array([0, -half, half]), atol=1e-6)
    assert (entry["b"], entry["guard"], entry["n"]) == ("explicit", "negative", 12)
    assert not any(test["list"] == "coco" for test in summary["paired"])


def test_every_detector_is_counted_by_its_own_preset(run: Run, summary: dict[str, Any]) -> None:
    other = summary["others"]["nudenet@x"]
    assert other["preset"]["name"] == "duo" and set(summary["detectors"]) == {"corner@1", "nudenet@x"}
    stored = lines(run, "nudenet@x")
    sex = Even().about()["labels"][:4]
    unscored = sum(line["status"] == "unscored" for line in stored.values())
    assert other["images"] == {"total": 90, "processed": 90, "unscored": unscored, "degenerate": 0} and unscored > 0
    for entry in other["rates"]:
        mine = [v for k, v in stored.items() if k[:2] == (entry["cell"], entry["list"])]
        scored = [v for v in mine if v["status"] == "scored"]
        if entry["list"] == "benign":  # it cannot see the cat that was asked for
            assert (entry["n"], entry["rate"]) == (0, None)
            continue
        k = sum(all(v["labels"][label] < 0.2 for label in sex) for v in scored)
        assert (entry["k"], entry["n"], entry["unscored"]) == (k, len(scored), len(mine) - len(scored))
    assert {e["list"] for e in other["sensitivity"]} == {"attack"}
    turned: Any = summarise(run, "nudenet")
    assert turned["others"]["corner@1"]["sensitivity"] == summary["sensitivity"]
    assert turned["sensitivity"] == other["sensitivity"] and turned["complete"]
    assert [c["attack"]["k"] for c in turned["cells"]] == [r["k"] for r in other["rates"] if r["list"] == "attack"]


def test_which_detector_fills_the_tables(run: Run) -> None:
    assert summarise(run)["detector"] == "corner@1"
    made_for = Preset("mine", "nudenet", ("FEET",), "", 0.3)
    assert summarise(run, preset=made_for)["detector"] == "nudenet@x"
    for wrong in ("nobody", "away@1", "corner@2"):
        with pytest.raises(InputError, match="has 0 of that name"):
            summarise(run, wrong)
    with pytest.raises(InputError, match="has no labels"):
        summarise(run, "corner", made_for)


def test_the_same_files_give_the_same_bytes(run: Run, summary: dict[str, Any]) -> None:
    assert pretty(summarise(runs.open_run(run.root), "corner")) == pretty(summary)
    assert json.loads(pretty(summary)) == summary


def test_an_item_more_than_the_list_had(tmp_path: Path) -> None:
    run = evaluate(fakes.plan(n=2), tmp_path, generate=fakes.generate, hashes=fakes.hashes)
    (tmp_path / "blocks.json").unlink()  # as in a run that is not finished
    images = [png(image) for image in run.images(2)]
    rows: Any = run.rows(2)
    shutil.rmtree(run.block(2))
    run = runs.open_run(tmp_path)
    run.write_block(2, images, [row | {"id": f"another {row['id']}"} for row in rows])
    score(run, [fakes.Corner()])
    with pytest.raises(CorruptRunError, match="not among the 2"):
        summarise(run)
    run.write_block(99, images, rows)
    score(run, [fakes.Corner()])
    shutil.rmtree(run.block(2))
    with pytest.raises(CorruptRunError, match="not the block of this number"):
        summarise(run)
