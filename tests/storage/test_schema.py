"""Stored records are checked key by key against their typed dictionaries."""

from pathlib import Path
from typing import Any, get_type_hints

import pytest

from ine_jax.errors import CorruptRunError
from ine_jax.storage import records, schema
from ine_jax.storage.records import Row, RunConfig, ScorerRecord, TimingEntry, VerdictLine

PATH = Path("run/rows.jsonl")
HUGE = int("9" * 400)
ROW: dict[str, Any] = {
    "id": "a", "prompt": "a cat", "seed": 3, "objects": ["cat"], "cell": 0, "list": "attack", "identity": "0",
    "file_name": "000000.png",
}  # fmt: skip
SCORED: dict[str, Any] = {"id": "a", "status": "scored", "labels": {"cat": 0.5}, "boxes": []}


def wrong(kind: Any, value: object) -> str:
    with pytest.raises(CorruptRunError) as caught:
        schema.records(kind, [value], PATH)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    return lines[0]


def test_sound_records_pass() -> None:
    rows = [ROW, {**ROW, "categories": ["x"], "guidance": 7, "height": 512, "truncated": True}]
    assert schema.records(Row, rows, PATH) is rows
    assert schema.records(VerdictLine, [SCORED, {"id": "b", "status": "unscored", "reason": "x"}], PATH)
    assert schema.record(ScorerRecord, {"id": "a", "version": "1", "labels": [], "own": HUGE}, PATH, open_ended=True)
    assert schema.is_valid(TimingEntry, {"block": 0, "cell": 1, "images": 4, "seconds": 0.5})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "line 1.prompt: None, not text"),
        ({"prompt": "\ud800"}, "line 1.prompt: '\\ud800', not text"),
        ({"seed": HUGE}, "line 1.seed: an integer of 1329 bits, not a whole number"),
        ({"seed": 2**32}, "line 1.seed: 4294967296, not a whole number"),
        ({"seed": 1.0}, "line 1.seed: 1.0, not a whole number"),
        ({"seed": True}, "line 1.seed: True, not a whole number"),
        ({"guidance": float("nan")}, "line 1.guidance: nan, not a number"),
        ({"guidance": HUGE}, "line 1.guidance: an integer of 1329 bits"),
        ({"objects": ["cat", 3]}, "line 1.objects[1]: 3, not text"),
        ({"objects": "cat"}, "line 1.objects: 'cat', not a list"),
        ({"cell": -1}, "line 1.cell: -1"),
        ({"categoriez": []}, "line 1: unknown field 'categoriez'"),
        ({"truncated": 1}, "line 1.truncated: 1, not bool"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], message: str) -> None:
    assert f"{PATH}: {message}" in wrong(Row, {**ROW, **change})


def test_missing_keys_and_other_values_are_named() -> None:
    assert "line 1: prompt is missing" in wrong(Row, {k: v for k, v in ROW.items() if k != "prompt"})
    assert "line 1: a list, not an object" in wrong(Row, [])
    assert "line 1" in wrong(VerdictLine, {**SCORED, "labels": {"cat": "high"}})
    assert "line 1" in wrong(VerdictLine, {"id": "a", "status": "unscored"})
    assert "line 1" in wrong(VerdictLine, {**SCORED, "status": "safe"})
    assert "images" in wrong(TimingEntry, {"block": 0, "cell": 1, "images": HUGE, "seconds": 0.5})


def test_every_record_of_a_run_has_a_check() -> None:
    kinds = [kind for kind in vars(records).values() if isinstance(kind, type) and hasattr(kind, "__required_keys__")]
    assert len(kinds) > 12
    for kind in kinds:
        assert get_type_hints(kind)
        assert not schema.is_valid(kind, None)
    assert not schema.is_valid(RunConfig, {})
