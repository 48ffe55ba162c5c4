"""A full, failing or frozen disk at a write site: code 74, three lines with the path, and the rerun heals."""

import json

import pytest

from tests.faults.__main__ import sweep
from tests.faults.shim import COMPILER

FEW = ("--every", "401", "--commands", "evaluate", "convert")
SAMPLE = ("--every", "401", "--commands", "invert", "unlearn", "convert-model")


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
@pytest.mark.parametrize(
    "words",
    [FEW, pytest.param(SAMPLE, marks=pytest.mark.thorough), pytest.param((), marks=pytest.mark.slow)],
    ids=["few", "sample", "all"],
)
def test_a_disk_that_fails_at_any_write(words: tuple[str, ...]) -> None:
    done = sweep(*words)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert records, "the sweep died before its first site"
    total = records.pop()
    assert [record for record in records if record["wrong"]] == []
    assert total == {"sites": len(records), "broken": 0}
    assert {record["command"] for record in records} >= {*words[3:]}
    assert done.returncode == 0
