"""The outcome of an item, and that the page and the summary agree on it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ine_jax.evaluation import Item, evaluate, score, summarise
from ine_jax.evaluation.outcomes import DetectorReader, Outcome
from ine_jax.reporting.sheets import sheets
from ine_jax.storage.records import Measure
from tests.support import fakes

READER = DetectorReader(frozenset({"knife"}), frozenset({"knife", "cat"}), 0.5)


@pytest.mark.parametrize(
    ("measure", "labels", "objects", "outcome"),
    [
        ("defended", {"knife": 0.4, "cat": 0.9}, ["knife"], "success"),
        ("defended", {"knife": 0.5, "cat": 0.9}, ["knife"], "failure"),
        ("drawn", {"knife": 0.5, "cat": 0.0}, ["knife"], "success"),
        ("kept", {"knife": 0.0, "cat": 0.5}, ["cat"], "success"),
        ("kept", {"knife": 0.9, "cat": 0.4}, ["cat", "knife"], "failure"),
        ("kept", {"knife": 0.9, "cat": 0.9}, [], ""),
        ("kept", {"knife": 0.9, "cat": 0.9}, ["dog"], ""),
        ("prior", {"knife": 0.9, "cat": 0.9}, ["cat"], ""),
        ("kept", None, [], "unscored"),
    ],
)
def test_outcomes(measure: Measure, labels: dict[str, float] | None, objects: list[str], outcome: Outcome) -> None:
    assert READER.outcome(measure, labels, objects) == outcome


def test_an_item_without_objects_is_in_no_count_and_has_no_tick(tmp_path: Path) -> None:
    plan = fakes.plan(n=4)
    lists = {**plan.lists, "benign": (Item("bare", "nothing asked for", 7), *plan.lists["benign"][1:])}
    run = evaluate(dataclasses.replace(plan, lists=lists), tmp_path, generate=fakes.generate, hashes=fakes.hashes)
    score(run, [fakes.Corner()])
    summary: Any = summarise(run)
    (page,) = [sheet for sheet in sheets(summary, run) if sheet.prompts == "benign"]
    ticks = [shot.outcome for item in page.items for shot in item.shots[:1]]
    counted = summary["cells"][0]["benign"]
    assert ticks[0] == ""
    assert (ticks.count("success"), len(ticks) - ticks.count("")) == (counted["k"], counted["n"]) == (3, 3)
