"""Whole runs against diffusers' StableDiffusionPipelineSafe: same random weights, same initial latents, fp32.

The golden file holds what it computed; where torch and diffusers are installed it computes it again. On equal network
outputs the two loops are equal. Over a whole run they are equal as far as the reference is to itself: its threshold
turns a difference in the last bit into a jump, so every bound has the reference's own `rounding` in it.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.guidance import SLD_PRESETS, Cfg, Guidance, Moment, Sld, sld_preset
from ine_jax.pipeline import pipeline
from ine_jax.schedulers.base import Scheduler
from tests.support import paths
from tests.support.cases import sample
from tests.support.sld_reference import CASES, NEGATIVE, PROMPTS, SCALE, load, noise, quiet_model, reference, run

GOLDEN = paths.GOLDEN / "sld.npz"
TOLERANCE = 1e-3  # of a whole run
LOOP_TOLERANCE = 1e-4  # on equal network outputs
GUARDS = {name: sld_preset(name, SCALE) for name in SLD_PRESETS} | {
    "off": sld_preset("max", SCALE, safety_scale=1.0),
    "medium-pndm": sld_preset("medium", SCALE),
    "medium-25": sld_preset("medium", SCALE),
    "medium-25-share": sld_preset("medium", SCALE, "fraction"),
}


@functools.cache
def loaded(folder: Path, scheduler: str) -> pipeline.Pipeline:
    return pipeline.load(folder, scheduler=scheduler, batch_size=2, compile_cache=False)


def scheduler_name(case: str) -> str:
    return CASES[case].scheduler.removesuffix("Scheduler").lower()


def bound(found: Mapping[str, np.ndarray], name: str) -> float:
    """The largest difference of a whole run from the reference's in `found`."""
    return TOLERANCE + 2 * float(found[f"{name}/rounding"])


def replayed(guard: Sld, scheduler: Scheduler[Any, Any], steps: int, outputs: np.ndarray) -> np.ndarray:
    """Final latents of our loop where the network returns `outputs`, [call, prompt, branch, h, w, c]."""
    tables = scheduler.tables(steps)
    latents, memory = scheduler.initial(jnp.asarray(noise()), tables)
    calls = len(outputs)

    def body(carry: Any, row: Any) -> Any:
        latents, memory, state = carry
        step, numbers, eps = row
        at = Moment(step, numbers.timestep, latents, *scheduler.level(numbers), calls, "epsilon")
        guided, state = guard.combine(state, eps, at)
        return (*scheduler.step(memory, latents, guided, numbers), state), None

    start = (latents, memory, jnp.zeros_like(latents))
    rows = (jnp.arange(calls, dtype=jnp.int32), tables, jnp.asarray(outputs))
    return np.asarray(jax.lax.scan(body, start, rows)[0][0])


def ours(folder: Path, guard: Guidance, name: str = "max", negative: str | None = NEGATIVE) -> np.ndarray:
    pipe = loaded(folder, scheduler_name(name))
    return pipe(
        PROMPTS, guidance=guard, negative=negative, noise=noise(), steps=CASES[name].steps, output="latents"
    ).latents


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quiet_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


# Those that run another's program with other numbers, and those that only compile another length.
REPEATS = ("weak", "weak-200", "strong", "max", "medium-25", "medium-25-share")


@pytest.mark.parametrize("name", sample(CASES, set(CASES) - {*REPEATS}))
def test_final_latents_are_the_reference_s(name: str, golden: dict[str, np.ndarray], model: Path) -> None:
    assert golden[name].std() > 0.1
    assert np.abs(ours(model, GUARDS[name], name) - golden[name]).max() <= bound(golden, name)


@pytest.mark.thorough
def test_the_cases_tell_the_presets_apart(golden: dict[str, np.ndarray], model: Path) -> None:
    assert np.abs(ours(model, Cfg(SCALE), negative=None) - golden["off"]).max() <= bound(golden, "off")
    names = ("off", "weak", "weak-200", "medium", "strong", "max")
    for i, name in enumerate(names):
        for other in names[:i]:
            assert np.abs(golden[name] - golden[other]).max() > 5 * max(bound(golden, name), bound(golden, other))


@pytest.mark.thorough
def test_two_presets_in_one_batch(golden: dict[str, np.ndarray], model: Path) -> None:
    """Numbers per item: each item is what the reference makes of it under its own preset."""
    pair = [jax.tree.leaves(GUARDS[name]) for name in ("medium", "max")]
    numbers: Any = [jnp.asarray(both, jnp.float32) for both in zip(*pair, strict=True)]
    mixed = Sld(*numbers)
    got = ours(model, mixed)
    for i, name in enumerate(("medium", "max")):
        assert np.abs(got[i] - golden[name][i]).max() <= bound(golden, name)


@pytest.mark.slow  # minutes: every preset of the reference again
@pytest.mark.oracle
def test_the_golden_file_is_what_the_reference_computes(golden: dict[str, np.ndarray], model: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("diffusers.pipelines.deprecated.stable_diffusion_safe")
    found = reference(model)
    assert found.keys() == golden.keys() == CASES.keys() | {f"{name}/rounding" for name in CASES}
    for name in CASES:
        limit = max(bound(golden, name), bound(found, name))
        assert np.abs(found[name] - golden[name]).max() <= limit
        assert np.abs(found[name] - ours(model, GUARDS[name], name)).max() <= limit


@pytest.mark.oracle
@pytest.mark.parametrize("name", [name for name in CASES if name != "off"])
def test_on_equal_network_outputs_the_loops_are_equal(name: str, model: Path) -> None:
    """The reference's outputs, call by call, through our guard and scheduler; `off` has no row for the negative."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers.pipelines.deprecated.stable_diffusion_safe")
    want = run(load(model), CASES[name])
    got = replayed(GUARDS[name], loaded(model, scheduler_name(name)).scheduler, CASES[name].steps, want.outputs)
    assert np.abs(got - want.latents).max() <= LOOP_TOLERANCE
