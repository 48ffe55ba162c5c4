"""A full, failing or frozen disk at a write site: code 74, three lines with the path, and the rerun heals."""

import json

import pytest

from tests.faults.__main__ import sweep
from tests.faults.shim import COMPILER

SAMPLE = ("--every", "401", "--commands", "evaluate", "report", "invert", "convert-model")


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
@pytest.mark.parametrize("words", [SAMPLE, pytest.param((), marks=pytest.mark.slow)], ids=["sample", "all"])
def test_a_disk_that_fails_at_any_write(words: tuple[str, ...]) -> None:
    done = sweep(*words)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert records, "the sweep died before its first site"
    total = records.pop()
    assert [record for record in records if record["wrong"]] == []
    assert total == {"sites": len(records), "broken": 0}
    assert {record["command"] for record in records} >= {"evaluate", "invert", "convert-model"}
    assert done.returncode == 0
