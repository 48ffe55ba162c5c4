"""kill -9 on the bundled model: nothing lost, nothing doubled, the same bytes."""

from pathlib import Path

import pytest

from tests.support import bucket_soak, kill_soak, stores


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    found = kill_soak.soak(tmp_path, images=200, block=10, kills=20)
    assert found["kills"] == 20


@pytest.mark.thorough
def test_a_kill_before_a_commit_to_a_bucket_changes_nothing(tmp_path: Path) -> None:
    with stores.s3() as store:
        found = bucket_soak.soak(tmp_path, store, kills=1)
        assert found["before DONE"] == 1


@pytest.mark.slow
def test_kills_of_commands_that_write_into_a_bucket_change_nothing(tmp_path: Path) -> None:
    for name in ("stand-ins", "ine"):
        (tmp_path / name).mkdir()
    with stores.s3() as store:
        assert bucket_soak.soak(tmp_path / "stand-ins", store, kills=40)["kills"] == 40
    with stores.s3() as store:
        bucket_soak.soak(tmp_path / "ine", store, 10, kill_soak.command(80, 4), 80)
        bucket_soak.invert(tmp_path / "ine", store, steps=12, kills=3)
