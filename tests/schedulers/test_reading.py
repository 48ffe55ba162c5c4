"""What is read from scheduler_config.json, what is refused, and what compiles once."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax import schedulers
from ine_jax.errors import InputError

SD1 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def test_the_class_of_the_file_decides_and_a_name_replaces_it() -> None:
    assert isinstance(schedulers.from_config(SD1), schedulers.Pndm)
    assert isinstance(schedulers.from_config(SD1 | {"_class_name": "FlaxDDIMScheduler"}), schedulers.Ddim)
    kinds = [type(schedulers.from_config(SD1, name)) for name in ("ddim", "dpm++", "pndm", "euler")]
    assert kinds == [schedulers.Ddim, schedulers.DpmSolver2M, schedulers.Pndm, schedulers.Euler]


def test_a_config_of_another_class_may_become_pndm() -> None:
    config = {"_class_name": "DDIMScheduler", "clip_sample": False}
    assert isinstance(schedulers.from_config(config, "pndm"), schedulers.Pndm)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (None, {"_class_name": "LMSDiscreteScheduler"}),
        (None, {"_class_name": ""}),
        ("heun", {}),
        ("pndm", {"skip_prk_steps": False}),
        ("ddim", {"beta_schedule": "quadratic"}),
        ("ddim", {"prediction_type": "sample"}),
        ("ddim", {"timestep_spacing": "karras"}),
        ("ddim", {"thresholding": True}),
        ("ddim", {"rescale_betas_zero_snr": True}),
        ("ddim", {"a_new_key": 2}),
        ("ddim", {"trained_betas": [0.1, 0.2]}),
        ("dpm++", {"solver_order": 3}),
        ("dpm++", {"algorithm_type": "sde-dpmsolver++"}),
        ("dpm++", {"solver_type": "bh2"}),
        ("dpm++", {"use_lu_lambdas": True}),
        ("dpm++", {"variance_type": "learned_range"}),
        ("euler", {"use_beta_sigmas": True}),
        ("euler", {"timestep_type": "continuous"}),
    ],
)
def test_what_is_not_understood_is_refused_in_three_lines(name: str | None, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        schedulers.from_config(SD1 | settings, name)
    assert len(str(error.value).splitlines()) == 3


def test_settings_of_other_samplers_do_no_harm() -> None:
    config = SD1 | {"use_lu_lambdas": True, "variance_type": "fixed_small", "a_new_key": None}
    assert isinstance(schedulers.from_config(config, "ddim"), schedulers.Ddim)


@pytest.mark.parametrize("name", ["ddim", "dpm++", "pndm", "euler"])
@pytest.mark.parametrize("steps", [0, -1, 1001, 1000])
def test_a_number_of_steps_that_does_not_fit_is_refused(name: str, steps: int) -> None:
    """1000 steps with the offset 1 would visit timestep 1000; DPM-Solver++ would visit a level twice."""
    with pytest.raises(InputError):
        schedulers.from_config(SD1 | {"timestep_spacing": "leading"}, name).tables(steps)


@pytest.mark.parametrize("name", ["ddim", "dpm++", "pndm", "euler"])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_tables_are_finite_float32_with_one_row_per_call(name: str, steps: int) -> None:
    tables = schedulers.from_config(SD1, name).tables(steps)
    calls = steps + (1 if name == "pndm" and steps > 1 else 0)
    chex.assert_tree_all_finite(tables)
    for leaf in jax.tree.leaves(tables):
        assert leaf.shape[0] == calls
        assert leaf.dtype == np.float32


def test_samplers_are_hashable_values() -> None:
    assert (
        len(
            {schedulers.from_config(SD1, name) for name in ("ddim", "dpm++", "pndm", "euler")}
            | {schedulers.from_config(dict(SD1), "ddim")}
        )
        == 4
    )


@pytest.mark.parametrize("name", ["ddim", "dpm++", "pndm", "euler"])
def test_another_table_of_the_same_length_compiles_nothing(name: str) -> None:
    chex.clear_trace_counter()
    sampler = schedulers.from_config(SD1, name)
    other = schedulers.from_config(SD1 | {"beta_end": 0.02}, name)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(tables: Any, noise: jax.Array) -> jax.Array:
        def body(carry: Any, row: Any) -> tuple[Any, None]:
            latents, state = carry
            return sampler.step(state, latents, 0.5 * sampler.scale_input(latents, row), row), None

        return jax.lax.scan(body, sampler.initial(noise, tables), tables)[0][0]

    noise = jnp.ones((1, 2, 2, 1))
    one, two = run(sampler.tables(10), noise), run(other.tables(10), noise)
    assert not np.allclose(one, two)


@pytest.mark.parametrize("value", [None, "many", [], {}, float("inf")])
@pytest.mark.parametrize("key", ["beta_end", "num_train_timesteps", "steps_offset"])
def test_values_that_are_no_numbers_are_rejected(key: str, value: Any) -> None:
    with pytest.raises(InputError) as error:
        schedulers.from_config({"_class_name": "DDIMScheduler", key: value})
    assert len(str(error.value).splitlines()) <= 3
