"""A training run whose directory is in a bucket: interrupted anywhere, it continues on an empty machine."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ine_jax.errors import InputError
from ine_jax.storage.bucket import client, mirror
from ine_jax.storage.bucket.address import Address, parse
from ine_jax.training import loop
from ine_jax.training.finished import write_hashes
from tests.support import stores

SETTINGS = {"steps": 12, "save_every": 3, "log_every": 2, "config": {"rate": 0.5}}


@pytest.fixture(scope="module")
def server() -> Iterator[stores.Store]:
    with stores.s3() as store:
        yield store


def step(state: np.ndarray, i: int) -> tuple[np.ndarray, dict[str, float]]:
    return state * 0.5 + i, {"loss": float(state.sum())}


def train(directory: Path) -> np.ndarray:
    found = loop.run(step, np.ones(3), directory=directory, **SETTINGS)  # type: ignore[arg-type]
    write_hashes(directory, [])
    return found


def log(address: Address) -> bytes | None:
    return client.read(address.join("log.jsonl"))


@pytest.mark.thorough
def test_a_cut_at_any_commit_changes_nothing(
    server: stores.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole")
    wanted = (tmp_path / "whole" / "log.jsonl").read_bytes()
    address, machine, done = parse(f"{server.root}/training/run"), 0, 0
    seen = 0

    def cut(method: str, path: str) -> bool:
        nonlocal seen
        seen += method == "PUT" and "/DONE/" in path
        return method == "PUT" and "/DONE/" in path and seen > 3 + 2 * machine

    while True:
        machine += 1
        assert machine < 9
        stores.use(server, monkeypatch, tmp_path / f"machine-{machine}")
        seen, server.refuse = 0, cut
        try:
            with mirror.working(address) as folder:
                found = train(folder)
            break
        except InputError as error:
            assert "permission" in str(error)
        finally:
            server.refuse = None
        steps = {name.split("/")[2] for name in client.find(address) if name.startswith("DONE/checkpoints/")}
        assert max(map(int, steps), default=0) >= done
        done = max(map(int, steps), default=0)
    assert machine > 2
    np.testing.assert_array_equal(found, whole)
    assert log(address) == wanted
    kept = {name for name in client.find(address) if name.startswith("DONE/checkpoints/")}
    assert kept == {"DONE/checkpoints/6", "DONE/checkpoints/9", "DONE/checkpoints/12"}
    assert not [name for name in client.find(address) if name.startswith("checkpoints/3/")]
