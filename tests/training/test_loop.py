"""The training loop: what it computes, what it leaves on disk, and what survives a kill."""

import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ine_jax.errors import CorruptRunError, InputError, Interrupted, NumericalError
from ine_jax.pipeline.mesh import device_mesh, replicated
from ine_jax.training import loop
from ine_jax.training.checkpoint import Checkpoints
from ine_jax.training.curves import read_log
from ine_jax.training.finished import write_hashes
from tests.support.flips import flip
from tests.support.locks import elsewhere_locked

OPTIMIZER = optax.adam(0.05)


def start() -> dict[str, Any]:
    params = {"w": jnp.arange(4.0), "b": jnp.ones((2, 3), jnp.bfloat16)}
    return {"params": params, "opt": OPTIMIZER.init(params), "key": jax.random.key(7), "done": jnp.int32(0)}


@jax.jit
def step(state: dict[str, Any], i: jax.Array) -> tuple[dict[str, Any], dict[str, jax.Array]]:
    noise = jax.random.normal(jax.random.fold_in(state["key"], i), (4,))

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        return jnp.mean((params["w"] - noise) ** 2) + jnp.mean(params["b"].astype(jnp.float32) ** 2)

    value, gradient = jax.value_and_grad(loss)(state["params"])
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes: decay ** count, a norm over bf16 and f32
        updates, opt = OPTIMIZER.update(gradient, state["opt"], state["params"])
        norm = optax.tree.norm(gradient)
    params = optax.apply_updates(state["params"], updates)
    return {**state, "params": params, "opt": opt, "done": i + 1}, {"loss": value, "norm": norm}


def train(directory: Path, steps: int = 12, **options: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "save_every": 4,
        "log_every": 3,
        "config": {"rate": 0.05, "nested": {"a": 1, "b": [1, 2]}},
    }
    return loop.run(step, start(), steps=steps, directory=directory, **{**settings, **options})


def same(left: Any, right: Any) -> None:
    def plain(tree: Any) -> Any:
        return {**tree, "key": jax.random.key_data(tree["key"])}

    chex.assert_trees_all_equal(plain(left), plain(right))


def test_equals_a_plain_loop(tmp_path: Path) -> None:
    state, losses = start(), []
    for i in range(12):
        state, metrics = step(state, i)
        losses.append(float(metrics["loss"]))
    same(train(tmp_path), state)
    log = read_log(tmp_path)
    np.testing.assert_array_equal(log["step"], [3, 6, 9, 12])
    np.testing.assert_allclose(log["loss"], np.mean(np.reshape(losses, (4, 3)), axis=1), rtol=1e-12)
    assert set(json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])) == {"step", "loss", "norm"}


def test_keeps_three_checkpoints_and_a_finished_run_does_nothing(tmp_path: Path) -> None:
    first = train(tmp_path, steps=18)
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [12, 16, 18]
    log = (tmp_path / "log.jsonl").read_bytes()

    def forbidden(state: Any, i: int) -> Any:
        raise AssertionError("a finished run took a step")

    config = json.loads((tmp_path / "config.json").read_text())
    again = loop.run(forbidden, start(), steps=18, directory=tmp_path, save_every=4, log_every=3, config=config)
    same(first, again)
    assert (tmp_path / "log.jsonl").read_bytes() == log


@pytest.mark.parametrize("stop_at", [0, 1, 4, 5, 11])
def test_an_exception_at_any_step_then_resume_is_exact(tmp_path: Path, stop_at: int) -> None:
    whole = train(tmp_path / "whole")

    def failing(state: Any, i: int) -> Any:
        if i == stop_at:
            raise RuntimeError("power cut")
        return step(state, i)

    with pytest.raises(RuntimeError):
        config = {"rate": 0.05, "nested": {"a": 1, "b": [1, 2]}}
        loop.run(failing, start(), steps=12, directory=tmp_path / "cut", save_every=4, log_every=3, config=config)
    same(train(tmp_path / "cut"), whole)
    assert (tmp_path / "cut/log.jsonl").read_bytes() == (tmp_path / "whole/log.jsonl").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_rerun_is_exact(tmp_path: Path, number: signal.Signals) -> None:
    whole = train(tmp_path / "whole")

    class Sender:
        def update(self, done: int, metrics: Mapping[str, float]) -> None:
            if done == 5:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="after step"):
        train(tmp_path / "cut", progress=Sender())
    assert signal.getsignal(number) == before
    saved = max(int(path.name) for path in (tmp_path / "cut/checkpoints").iterdir())
    assert saved in (6, 7)  # the numbers of step 5 are fetched while step 6 runs
    same(train(tmp_path / "cut"), whole)
    assert (tmp_path / "cut/log.jsonl").read_bytes() == (tmp_path / "whole/log.jsonl").read_bytes()


def test_log_is_cut_back_and_torn_lines_go(tmp_path: Path) -> None:
    train(tmp_path)
    good = (tmp_path / "log.jsonl").read_bytes()
    (tmp_path / "log.jsonl").write_bytes(good + b'{"step": 15, "loss": 1.0, "norm": 1.0}\n{"step": 18, "lo')
    train(tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == good


def test_another_config_is_rejected_by_field(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(InputError) as caught:
        train(tmp_path, config={"rate": 0.1, "nested": {"a": 1, "b": [1, 3]}, "new": 5})
    message = str(caught.value)
    assert "rate: 0.05 -> 0.1" in message
    assert "nested.b[1]: 2 -> 3" in message
    assert "new: null -> 5" in message
    assert "nested.a" not in message


def test_other_arrays_are_rejected_by_name(tmp_path: Path) -> None:
    train(tmp_path)
    other = {**start(), "done": jnp.zeros(3)}
    with pytest.raises(InputError, match="done: int32"):
        config = json.loads((tmp_path / "config.json").read_text())
        loop.run(step, other, steps=20, directory=tmp_path, save_every=4, log_every=3, config=config)


def test_a_damaged_checkpoint_falls_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = train(tmp_path / "whole", steps=15)
    train(tmp_path / "cut")
    damage(tmp_path / "cut/checkpoints/12")
    same(train(tmp_path / "cut", steps=15), whole)
    assert [record.getMessage() for record in caplog.records if "checkpoint 12" in record.getMessage()]
    assert (tmp_path / "cut/damaged/12").is_dir()
    assert (tmp_path / "cut/log.jsonl").read_bytes() == (tmp_path / "whole/log.jsonl").read_bytes()


def finish(directory: Path) -> None:
    train(directory)
    write_hashes(directory, [])


@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "timing.jsonl", "SHA256SUMS", "SHA256SUMS.times"])
def test_a_finished_run_with_a_changed_record_is_not_continued(tmp_path: Path, name: str) -> None:
    finish(tmp_path)
    before = flip(tmp_path / name)
    for steps in (12, 15):
        with pytest.raises(CorruptRunError):
            train(tmp_path, steps=steps)
    (tmp_path / name).write_bytes(before)
    with pytest.raises(InputError, match="other settings"):
        train(tmp_path, steps=15, config={"rate": 0.1})
    assert (tmp_path / "SHA256SUMS").is_file()  # nothing is lost by wrong settings
    train(tmp_path, steps=15)
    assert not list(tmp_path.glob("SHA256SUMS*"))


def test_a_flip_in_any_file_of_a_finished_checkpoint_falls_back(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", steps=15)
    finish(tmp_path / "run")
    files = [path for path in (tmp_path / "run/checkpoints/12").rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 5
    for i in range(0, len(files), 3):
        copy = Path(shutil.copytree(tmp_path / "run", tmp_path / f"{i}"))
        flip(copy / files[i].relative_to(tmp_path / "run"))
        same(train(copy, steps=15), whole)
        assert (copy / "damaged/12").is_dir()


def test_all_damaged_is_a_corrupt_run(tmp_path: Path) -> None:
    train(tmp_path)
    for folder in (tmp_path / "checkpoints").iterdir():
        damage(folder)
    with pytest.raises(CorruptRunError):
        train(tmp_path)


def damage(checkpoint: Path) -> None:
    """Replace the arrays by others that orbax reads without complaint: only the stored hash can tell."""
    zeros = jax.tree.map(jnp.zeros_like, {**start(), "key": jnp.uint32(0)}) | {"key": jax.random.key(0)}
    other = checkpoint.parent.parent / f"other{checkpoint.name}"
    with Checkpoints(other) as store:
        store.save(int(checkpoint.name), zeros, {})
    (checkpoint / "state").rename(checkpoint.parent.parent / f"old{checkpoint.name}")
    (other / checkpoint.name / "state").rename(checkpoint / "state")


def test_non_finite_losses_end_the_run_at_a_good_checkpoint(tmp_path: Path) -> None:
    def poisoned(state: dict[str, Any], i: int) -> Any:
        state, metrics = step(state, i)
        return state, {**metrics, "loss": metrics["loss"] * (jnp.nan if i >= 6 else 1.0)}

    with pytest.raises(NumericalError, match="steps 7 to 9"):
        loop.run(poisoned, start(), steps=20, directory=tmp_path, save_every=1, log_every=1, config={})
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == 6
    assert np.isnan(read_log(tmp_path)["loss"][6:]).all()


def test_one_non_finite_loss_is_survived(tmp_path: Path) -> None:
    def poisoned(state: dict[str, Any], i: int) -> Any:
        state, metrics = step(state, i)
        return state, {**metrics, "loss": metrics["loss"] * (jnp.inf if i in (3, 4) else 1.0)}

    loop.run(poisoned, start(), steps=8, directory=tmp_path, save_every=4, log_every=1, config={})
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[3])["loss"] is None


def test_a_non_finite_state_is_never_saved(tmp_path: Path) -> None:
    def poisoned(state: dict[str, Any], i: int) -> Any:
        state, metrics = step(state, i)
        return {**state, "done": jnp.float32(jnp.nan)}, metrics

    begin = {**start(), "done": jnp.float32(0)}
    with pytest.raises(NumericalError, match="done"):
        loop.run(poisoned, begin, steps=4, directory=tmp_path, save_every=2, log_every=1, config={})
    assert not list((tmp_path / "checkpoints").iterdir())


def test_two_runs_in_one_directory_are_rejected(tmp_path: Path) -> None:
    with elsewhere_locked(tmp_path), pytest.raises(InputError, match="another process"):
        train(tmp_path)


def test_on_save_sees_the_state_before_it_is_donated(tmp_path: Path) -> None:
    donating = jax.jit(step, donate_argnums=0)
    seen: dict[int, float] = {}
    logged: list[int] = []
    options: dict[str, Any] = {"steps": 8, "directory": tmp_path, "save_every": 2, "log_every": 4, "config": {}}
    loop.run(
        donating,
        start(),
        **options,
        on_save=lambda done, state: seen.update({done: float(state["done"])}),
        on_log=lambda done, means: logged.append(done),
    )
    assert seen == {2: 2, 4: 4, 6: 6, 8: 8}
    assert logged == [4, 8]


@pytest.mark.parametrize("bad", [{"steps": -1}, {"save_every": 0}, {"log_every": 0}])
def test_wrong_numbers_are_rejected(tmp_path: Path, bad: dict[str, int]) -> None:
    with pytest.raises(InputError):
        train(tmp_path / "new", **{"steps": 3, **bad})
    assert not (tmp_path / "new").exists()


def test_restored_leaves_are_what_and_where_they_were(tmp_path: Path) -> None:
    mesh = device_mesh(jax.devices())
    state = {**jax.device_put(start(), replicated(mesh)), "plain": np.arange(3)}
    with Checkpoints(tmp_path / "checkpoints") as store:
        store.save(1, state, {"sums": {"loss": 0.5}, "count": 1})
    with Checkpoints(tmp_path / "checkpoints") as store:
        back = store.restore(jax.tree.map(lambda leaf: leaf.copy(), state))
    assert back is not None and (back.step, back.extra) == (1, {"sums": {"loss": 0.5}, "count": 1})
    same(back.state, state)
    chex.assert_trees_all_equal_structs(back.state, state)
    assert isinstance(back.state["plain"], np.ndarray)
    assert jnp.issubdtype(back.state["key"].dtype, jax.dtypes.prng_key)
    assert back.state["params"]["w"].sharding == replicated(mesh)
