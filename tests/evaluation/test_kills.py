"""kill -9 on the bundled model: nothing lost, nothing doubled, the same bytes."""

from pathlib import Path

import pytest

from tests.support import kill_soak


def test_a_kill_changes_nothing(tmp_path: Path) -> None:
    found = kill_soak.soak(tmp_path, images=24, block=4, kills=1)
    assert found["kills"] == 1


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    found = kill_soak.soak(tmp_path, images=200, block=10, kills=20)
    assert found["kills"] == 20
