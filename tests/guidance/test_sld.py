"""Safe latent diffusion: momentum over many steps, when it begins, which rows are skipped, what compiles."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax import schedulers
from ine_jax.errors import InputError
from ine_jax.guidance import SLD_PRESETS, Sld, Texts, sld_preset
from ine_jax.guidance.base import phases
from ine_jax.guidance.sld import WarmupUnit
from ine_jax.pipeline.sampling import sample
from tests.support.guards import ITEMS, LATENT, each, moment
from tests.support.toys import ToyDenoiser
from tests.support.typechecking import unchecked

CALLS = 50
RNG = np.random.default_rng(3)
TEXTS = Texts(*(jnp.asarray(RNG.standard_normal((ITEMS, 5, 4)), jnp.float32) for _ in range(3)))
NOISE = jnp.asarray(RNG.standard_normal((ITEMS, *LATENT)), jnp.float32)
# The thresholds and weak's scales are of the size of these differences, so that every branch of the formula is met.
EPS = (0.04 * RNG.standard_normal((CALLS, ITEMS, 3, *LATENT))).astype(np.float32)


def told(numbers: Mapping[str, float], scale: float) -> np.ndarray:
    """Every step of the published loop in float64, [step, batch, h, w, c]."""
    nu, outputs = np.zeros((ITEMS, *LATENT)), []
    for i, eps in enumerate(EPS.astype(np.float64)):
        uncond, prompt, safety = eps[:, 0], eps[:, 1], eps[:, 2]
        phi = np.minimum(1.0, numbers["safety_scale"] * np.abs(prompt - safety))
        mu = np.where(prompt - safety < numbers["threshold"], phi, 0.0)
        gamma = mu * (safety - uncond) + numbers["momentum_scale"] * nu
        nu = numbers["momentum_beta"] * nu + (1 - numbers["momentum_beta"]) * gamma
        applied = gamma if i >= numbers["warmup"] else 0.0
        outputs.append(uncond + scale * ((prompt - uncond) - applied))
    return np.stack(outputs)


def combined(guard: Sld, eps: Any = EPS, calls: int = CALLS) -> np.ndarray:
    """Every step of the guard."""
    at = moment(0, ITEMS, calls)

    def body(state: Any, row: tuple[Any, Any]) -> tuple[Any, Any]:
        out, state = guard.combine(state, row[1], dataclasses.replace(at, step=row[0]))
        return state, out

    steps = jnp.arange(len(eps), dtype=jnp.int32)
    return np.asarray(jax.lax.scan(body, guard.init(TEXTS, NOISE), (steps, jnp.asarray(eps)))[1])


def first_applied(warmup: float, calls: int, unit: WarmupUnit) -> int:
    """The first step at which the guard differs from plain guidance, or `calls`."""
    eps = np.broadcast_to(EPS[:1], (calls, *EPS.shape[1:]))
    guarded = combined(Sld(warmup=warmup, warmup_unit=unit), eps, calls)
    plain = combined(Sld(safety_scale=0.0), eps, calls)
    differs = np.abs(guarded - plain).max((1, 2, 3, 4)) > 1e-3
    begins = int(np.argmax(differs)) if differs.any() else calls
    assert differs[begins:].all()
    return begins


def run(guard: Sld, texts: Texts, noise: Any, name: str = "ddim", rows: list[int] | None = None) -> jax.Array:
    """A whole run of 50 steps on the toy denoiser; `rows` gathers the rows of each network call that is traced."""
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    sampler = schedulers.from_config(config | {"skip_prk_steps": True}, name)

    def network(latents: jax.Array, timesteps: jax.Array, context: jax.Array) -> jax.Array:
        if rows is not None:
            rows.append(context.shape[0])
        return ToyDenoiser()(latents, timesteps, context)

    return sample(network, sampler, sampler.tables(50), guard, texts, noise)


@pytest.mark.parametrize("name", SLD_PRESETS)
def test_every_preset_follows_the_formula_over_fifty_steps(name: str) -> None:
    want = told(SLD_PRESETS[name], 7.5)
    np.testing.assert_allclose(combined(sld_preset(name, 7.5)), want, rtol=1e-5, atol=2e-6)
    plain = told({**SLD_PRESETS[name], "warmup": CALLS}, 7.5)
    assert np.abs(want - plain).max() > 0.1


def test_every_number_may_differ_from_item_to_item() -> None:
    names, scales = ("weak-200", "strong", "max"), (3.0, 7.5, 12.0)
    numbers: Any = {field: each(*(SLD_PRESETS[name][field] for name in names)) for field in SLD_PRESETS["max"]}
    together = combined(Sld(each(*scales), **numbers))
    for i, (name, scale) in enumerate(zip(names, scales, strict=True)):
        np.testing.assert_allclose(together[:, i], told(SLD_PRESETS[name], scale)[:, i], rtol=1e-5, atol=4e-6)


def test_the_published_numbers() -> None:
    """SafetyConfig of diffusers: warm-up, safety scale, threshold, momentum scale, momentum beta."""
    published = {
        "weak": (15, 20, 0.0, 0.0, 0.0),
        "weak-200": (15, 200, 0.0, 0.0, 0.0),
        "medium": (10, 1000, 0.01, 0.3, 0.4),
        "strong": (7, 2000, 0.025, 0.5, 0.7),
        "max": (0, 5000, 1.0, 0.5, 0.7),
    }
    fields = ("warmup", "safety_scale", "threshold", "momentum_scale", "momentum_beta")
    assert {name: tuple(preset[field] for field in fields) for name, preset in SLD_PRESETS.items()} == published
    assert sld_preset("medium") == Sld()


def test_momentum_stays_float32_beside_a_coarse_network() -> None:
    eps = jnp.asarray(EPS[0], jnp.bfloat16)
    guard = sld_preset("max")
    out, nu = guard.combine(guard.init(TEXTS, NOISE.astype(jnp.bfloat16)), eps, moment())
    assert out.dtype == jnp.bfloat16
    assert nu.dtype == jnp.float32
    _, exact = guard.combine(guard.init(TEXTS, NOISE), eps.astype(jnp.float32), moment())
    np.testing.assert_array_equal(nu, exact)


def test_a_safety_scale_of_one_or_less_switches_single_items_off() -> None:
    guard = dataclasses.replace(sld_preset("max"), safety_scale=each(0.5, 1.0, 1.001))
    out = combined(guard)
    plain = EPS[:, :, 0] + 7.5 * (EPS[:, :, 1] - EPS[:, :, 0])
    np.testing.assert_allclose(out[:, :2], plain[:, :2], rtol=1e-5, atol=1e-6)
    assert np.abs(out[:, 2] - plain[:, 2]).max() > 1e-3


@pytest.mark.parametrize(
    ("warmup", "calls", "begins"),
    [(10, 50, 10), (10, 51, 10), (15, 51, 15), (7, 51, 7), (10, 25, 5), (7, 25, 4), (15, 20, 6), (0, 7, 0), (50, 9, 9)],
)
def test_the_warm_up_is_a_share_of_the_run(warmup: float, calls: int, begins: int) -> None:
    assert first_applied(warmup, calls, "fraction") == begins


@pytest.mark.parametrize(("warmup", "calls", "begins"), [(10, 50, 10), (10, 25, 10), (7, 51, 7), (0, 7, 0), (15, 9, 9)])
def test_the_warm_up_counts_calls_as_published(warmup: float, calls: int, begins: int) -> None:
    assert first_applied(warmup, calls, "steps") == begins


def test_skipped_and_masked_warm_ups_end_at_the_same_step() -> None:
    step = np.arange(120, dtype=np.float32)
    for calls in range(1, 120):
        for warmup in (0.0, 1.0, 2.5, 7.0, 7.3, 10.0, 15.0, 49.0, 50.0, 80.0):
            counts: dict[WarmupUnit, int] = {"steps": calls, "fraction": 50}
            for unit, counted in counts.items():
                guard = Sld(momentum_scale=0.0, warmup=warmup, warmup_unit=unit).skipping()
                skipped = guard.phases(calls)[0][1]
                masked = np.sum(~(counted * (step[:calls] + np.float32(0.5)) > np.float32(warmup) * calls))
                assert skipped == masked


def test_only_a_warm_up_without_momentum_is_skipped() -> None:
    assert [sld_preset(name).skip for name in SLD_PRESETS] == [15.0, 15.0, 0.0, 0.0, 0.0]
    assert sld_preset("weak", momentum_scale=0.1).skip == 0.0
    assert sld_preset("weak", momentum_scale=each(0.0, 0.1, 0.0)).skip == 0.0
    assert sld_preset("strong", momentum_scale=each(0.0, 0.0, 0.0)).skip == 7.0
    assert sld_preset("weak", warmup=np.array([9.0, 4.0, 30.0])).skip == 4.0
    assert jax.jit(lambda m: jnp.float32(Sld(momentum_scale=m).skipping().skip))(0.0) == 0.0
    assert phases(sld_preset("max"), 50) == [(sld_preset("max"), 50)]
    plain, guarded = phases(sld_preset("weak", 3.0), 50)
    assert (plain[1], guarded) == (15, (sld_preset("weak", 3.0), 35))
    np.testing.assert_array_equal(plain[0].contexts(TEXTS, jnp.int32(0)), jnp.stack([TEXTS.uncond, TEXTS.prompt], 1))


@pytest.mark.parametrize("name", ["ddim", "pndm"])
@pytest.mark.parametrize("warmup", [15.0, np.array([15.0, 4.0, 30.0], np.float32)], ids=["shared", "per-item"])
def test_skipping_changes_nothing(name: str, warmup: Any) -> None:
    guard = sld_preset("weak-200", warmup=warmup)
    rows: list[Any] = []
    skipping = run(guard, TEXTS, NOISE, name, rows)
    whole = run(dataclasses.replace(guard, skip=0.0), TEXTS, NOISE, name, rows)
    assert rows == [2 * ITEMS, 3 * ITEMS, 3 * ITEMS]
    np.testing.assert_array_equal(skipping, whole)
    assert np.abs(whole - run(Sld(safety_scale=0.0), TEXTS, NOISE, name)).max() > 0.1


def test_presets_prompts_and_seeds_share_one_program() -> None:
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=2)
    def compiled(guard: Sld, texts: Texts, noise: jax.Array) -> jax.Array:
        skips.add(guard.skip)
        return run(guard, texts, noise)

    skips: set[float] = set()
    outputs = []
    for i, name in enumerate(("medium", "strong", "max")):
        texts = jax.tree.map(lambda leaf, i=i: leaf + i, TEXTS)
        outputs.append(compiled(sld_preset(name, 5.0 + i), texts, NOISE + i))
    compiled(sld_preset("max", safety_scale=0.0), TEXTS, NOISE)
    assert skips == {0.0}
    assert not np.allclose(outputs[0], outputs[1])
    for name in ("weak", "weak-200"):
        compiled(sld_preset(name, 3.0), TEXTS, NOISE)
    assert skips == {0.0, 15.0}


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: sld_preset("mild"), "weak-200"),
        (lambda: sld_preset("weak", skip=3.0), "warmup"),
        (lambda: Sld().init(Texts(TEXTS.prompt, TEXTS.uncond), NOISE), "embedding"),
        (lambda: Sld().contexts(Texts(TEXTS.prompt, TEXTS.uncond), jnp.int32(0)), "embedding"),
    ],
)
def test_mistakes_are_refused_in_three_lines(call: Any, named: str) -> None:
    with pytest.raises(InputError, match=named) as error:
        call()
    assert len(str(error.value).splitlines()) == 3


def test_an_unknown_unit_of_the_warm_up_is_rejected() -> None:
    with unchecked(), pytest.raises(InputError, match="steps, fraction"):
        Sld(warmup_unit="minutes")  # type: ignore[arg-type]


def test_without_a_difference_to_the_negative_nothing_is_taken_away() -> None:
    """ε_n = ε_c gives φ = 0: the prompt that is the concept itself passes, as in the paper's equation 6."""
    eps = np.concatenate([EPS[:, :, :2], EPS[:, :, 1:2]], axis=2)
    plain = eps[:, :, 0] + 7.5 * (eps[:, :, 1] - eps[:, :, 0])
    np.testing.assert_allclose(combined(sld_preset("max"), eps), plain, rtol=1e-5, atol=1e-6)
