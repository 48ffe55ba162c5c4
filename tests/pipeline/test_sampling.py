"""The sampling loop: what it computes, how often it calls the network, and that devices need not talk."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax import schedulers
from ine_jax.errors import InputError
from ine_jax.guidance import Cfg, Guidance, Moment, Negative, NoGuidance, Texts
from ine_jax.guidance.base import phases
from ine_jax.pipeline.sampling import sample
from tests.support.devices import printed
from tests.support.paths import ROOT
from tests.support.toys import ToyDenoiser

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
SHAPE = (3, 4, 4, 2)
RNG = np.random.default_rng(1)
NOISE = RNG.standard_normal(SHAPE).astype(np.float32)
TEXTS = Texts(*(jnp.asarray(RNG.standard_normal((3, 5, 4)), jnp.float32) for _ in range(3)))
SAMPLERS = ["ddim", "dpm++", "pndm", "euler"]


def test_a_run_is_ddim_with_negative_guidance_told_by_hand() -> None:
    """arXiv 2010.02502 eq. 12 on ε_u + w (ε_c - ε_u) - s (ε_n - ε_u), in float64."""
    sampler, net, w, s = schedulers.from_config(CONFIG, "ddim"), ToyDenoiser(), 7.5, 2.0
    prompt, uncond, negative = (np.asarray(text, np.float64) for text in (TEXTS.prompt, TEXTS.uncond, TEXTS.negative))
    bar, x = schedulers.alphas_cumprod(CONFIG), NOISE.astype(np.float64)
    for t in range(900, -1, -100):
        a, b = bar[t], bar[t - 100] if t else 1.0
        u, c, n = (net.numpy(x, t, text) for text in (uncond, prompt, negative))
        eps = u + w * (c - u) - s * (n - u)
        x = np.sqrt(b / a) * (x - np.sqrt(1 - a) * eps) + np.sqrt(1 - b) * eps
    mine = sample(net, sampler, sampler.tables(10), Negative(w, s), TEXTS, jnp.asarray(NOISE))
    np.testing.assert_allclose(mine, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_is_traced_once_for_all_rows_and_the_timesteps_are_the_table(name: str) -> None:
    sampler, rows = schedulers.from_config(CONFIG | {"skip_prk_steps": True}, name), []
    tables = sampler.tables(6)
    told: list[float] = []

    def network(latents: jax.Array, timesteps: jax.Array, context: jax.Array) -> jax.Array:
        rows.append((latents.shape[0], timesteps.shape, context.shape[0]))
        jax.debug.callback(lambda t: told.append(float(t[0])), timesteps, ordered=True)
        return ToyDenoiser()(latents, timesteps, context)

    run = jax.jit(lambda tables, noise: sample(network, sampler, tables, Negative(), TEXTS, noise))
    out = run(tables, NOISE)
    jax.effects_barrier()
    assert rows == [(3, (3,), 9)]
    np.testing.assert_allclose(told, tables.timestep)
    assert out.dtype == jnp.float32
    assert out.shape == SHAPE
    assert np.isfinite(out).all()


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("guard", [NoGuidance(), Cfg(3.0), Negative(3.0, 1.0)], ids=["none", "cfg", "negative"])
def test_an_item_does_not_depend_on_its_batch(name: str, guard: Guidance) -> None:
    sampler = schedulers.from_config(CONFIG | {"skip_prk_steps": True}, name)
    tables = sampler.tables(6)
    run = jax.jit(lambda texts, noise: sample(ToyDenoiser(), sampler, tables, guard, texts, noise))
    together = run(TEXTS, NOISE)
    for i in range(3):
        alone = run(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], TEXTS), NOISE[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-5, atol=1e-5)


def test_a_network_in_bfloat16_leaves_the_sampler_in_float32() -> None:
    sampler = schedulers.from_config(CONFIG, "dpm++")
    coarse = lambda x, t, c: ToyDenoiser()(x, t, c).astype(jnp.bfloat16)  # noqa: E731
    out = sample(coarse, sampler, sampler.tables(5), Cfg(3.0), TEXTS, jnp.asarray(NOISE, jnp.bfloat16))
    assert out.dtype == jnp.float32
    exact = sample(ToyDenoiser(), sampler, sampler.tables(5), Cfg(3.0), TEXTS, jnp.asarray(NOISE, jnp.bfloat16))
    np.testing.assert_allclose(out, exact, atol=0.2)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_guard_is_told_the_moment_of_every_call(name: str, kind: str) -> None:
    """Step, timestep, level and kind of prediction; and as x_t the very array that the network sees."""
    sampler = schedulers.from_config(CONFIG | {"skip_prk_steps": True, "prediction_type": kind}, name)
    tables = sampler.tables(6)
    moments: list[Moment] = []
    seen: list[np.ndarray] = []

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Witness(Cfg):
        def combine(self, state: Any, eps: jax.Array, at: Moment) -> Any:
            def note(step: Any, time: Any, x: Any, alpha: Any, sigma: Any) -> None:
                moments.append(Moment(step, time, x, alpha, sigma, at.calls, at.prediction))

            jax.debug.callback(note, *_leaves(at))
            return super().combine(state, eps, at)

    def network(latents: jax.Array, timesteps: jax.Array, context: jax.Array) -> jax.Array:
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), latents)
        return ToyDenoiser()(latents, timesteps, context)

    jax.jit(lambda tables: sample(network, sampler, tables, Witness(3.0), TEXTS, jnp.asarray(NOISE)))(tables)
    jax.effects_barrier()
    moments.sort(key=lambda at: int(at.step))
    assert [int(at.step) for at in moments] == list(range(len(tables.timestep)))
    np.testing.assert_allclose([at.timestep for at in moments], tables.timestep)
    levels = [[at.alpha for at in moments], [at.sigma for at in moments]]
    np.testing.assert_allclose(levels, sampler.level(jax.tree.map(jnp.asarray, tables)), rtol=1e-6)
    assert {(at.calls, at.prediction) for at in moments} == {(len(tables.timestep), kind)}
    for at in moments:
        assert min(np.abs(at.latents - x).max() for x in seen) == 0.0


def _leaves(at: Moment) -> tuple[Any, ...]:
    return at.step, at.timestep, at.latents, at.alpha, at.sigma


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Halved(Negative):
    """`Negative` whose first calls, a third of all, do without the negative's row."""

    def phases(self, calls: int) -> list[tuple[Guidance, int]]:
        return [(Cfg(self.scale), calls // 3), (Negative(self.scale, self.negative_scale), calls - calls // 3)]


@dataclasses.dataclass(frozen=True)
class Parts(NoGuidance):
    """Phases of as many calls as given, whatever the run is."""

    counts: tuple[int, ...] = ()

    def phases(self, calls: int) -> list[tuple[Guidance, int]]:
        return [(NoGuidance(), count) for count in self.counts]


def test_phases_are_the_whole_run_unless_a_guard_says_otherwise() -> None:
    assert phases(Cfg(3.0), 7) == [(Cfg(3.0), 7)]
    parts: list[tuple[Guidance, int]] = [(Cfg(3.0), 2), (Negative(3.0, 1.0), 5)]
    assert phases(Halved(3.0, 1.0), 7) == parts
    assert phases(Halved(3.0, 1.0), 2) == [(Negative(3.0, 1.0), 2)]  # a part of no calls is left out
    assert [count for _, count in phases(Parts((2, 0, 3, 0)), 5)] == [2, 3]


@pytest.mark.parametrize("counts", [(), (4,), (6,), (2, 4), (-1, 6)])
def test_phases_must_add_up_to_the_run(counts: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="5 calls in all"):
        phases(Parts(counts), 5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_parts_of_a_run_are_one_run(name: str) -> None:
    """Each part computes its own rows; the sampler's memory and the count of steps go on across the border."""
    sampler, rows = schedulers.from_config(CONFIG | {"skip_prk_steps": True}, name), []
    texts = dataclasses.replace(TEXTS, negative=TEXTS.uncond)  # so that Cfg and Negative see the same empty row

    def network(latents: jax.Array, timesteps: jax.Array, context: jax.Array) -> jax.Array:
        rows.append(context.shape[0])
        return ToyDenoiser()(latents, timesteps, context)

    run = lambda guard: sample(network, sampler, sampler.tables(9), guard, texts, jnp.asarray(NOISE))  # noqa: E731
    parts = run(Halved(3.0, 2.0))
    assert rows == [6, 9]
    np.testing.assert_allclose(parts, run(Cfg(3.0)), rtol=1e-5, atol=1e-5)


SHARDED = r"""
import json, re, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
sys.path.insert(0, sys.argv[1])
from ine_jax import schedulers
from ine_jax.guidance import Casg, Cfg, DynamicNegative, Interval, Negative, SafeDenoiser, Texts
from ine_jax.guidance.base import is_per_item
from ine_jax.models.layers import per_row
from ine_jax.pipeline.sampling import sample

mesh = Mesh(np.array(jax.devices()), ("data",))
across, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
rng = np.random.default_rng(0)
array = lambda *shape: rng.standard_normal(shape).astype(np.float32)
params = {"conv": array(3, 3, 2, 8) / 4, "text": array(4, 8) / 4, "out": array(3, 3, 8, 2) / 8}

def denoise(params, x, t, c):
    x, t = per_row(x, c), per_row(t, c)
    conv = lambda a, k: jax.lax.conv_general_dilated(a, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    text = jax.nn.softmax(c @ params["text"], axis=1).mean(axis=1)
    hidden = jnp.tanh(conv(x, params["conv"]) + text[:, None, None, :] + (t / 1000.0)[:, None, None, None])
    return conv(hidden, params["out"])

noise, texts = array(8, 4, 4, 2), Texts(*(array(8, 5, 4) for _ in range(3)), bank=array(8, 3, 5, 4))
each = np.arange(8, dtype=np.float32)
simple = [(name, guard) for name in ("ddim", "dpm++", "pndm", "euler") for guard in (Cfg(7.5), Negative(7.5, each))]
others = [Casg(Negative(7.5, each)), DynamicNegative(7.5, each), Interval(Negative(), Cfg(), 0.2, 0.6)]
others += [SafeDenoiser(Cfg(3.0), array(5, 4, 4, 2), each, from_timestep=0.0)]
found = {}
for name, guard in simple + [("ddim", guard) for guard in others]:
    sampler = schedulers.from_config({"clip_sample": False, "skip_prk_steps": True, "beta_end": 0.012}, name)
    def run(params, tables, guard, texts, noise):
        return sample(lambda *rows: denoise(params, *rows), sampler, tables, guard, texts, noise)
    put = lambda tree: jax.tree.map(lambda a: jax.device_put(a, across if np.ndim(a) else everywhere), tree)
    whole = lambda tree: jax.tree.map(lambda a: jax.device_put(a, everywhere), tree)
    split = jax.tree.map(lambda a: jax.device_put(a, across if is_per_item(a) else everywhere), guard)
    given = (whole(params), whole(sampler.tables(5)), split, put(texts), put(noise))
    compiled = jax.jit(run, out_shardings=across).lower(*given).compile()
    text = compiled.as_text()
    out = compiled(*given)
    alone = jax.jit(run)(params, sampler.tables(5), guard, texts, noise)
    found[f"{name}-{type(guard).__name__}"] = {
        "collectives": re.findall(
            r"\b(?:all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter)"
            r"(?:-start)?\(", text),
        "devices": len(out.sharding.device_set),
        "rows_per_device": out.addressable_shards[0].data.shape[0],
        "partitions": f"num_partitions={len(jax.devices())}" in text,
        "delta": float(np.abs(np.asarray(out) - np.asarray(alone)).max()),
    }
# What the search must find: a program that does talk across the batch.
talking = jax.jit(lambda x: x - x.mean(axis=0, keepdims=True)).lower(put(noise)).compile().as_text()
found["control"] = {"collectives": re.findall(r"\ball-reduce(?:-start)?\(", talking)}
print(json.dumps(found))
"""


def test_a_sharded_batch_needs_no_communication() -> None:
    """On four virtual devices the compiled sampler is partitioned, free of collectives, and gives the same latents."""
    found = printed(SHARDED, 4, str(ROOT))
    assert found.pop("control")["collectives"]
    assert len(found) == 12
    for name, seen in found.items():
        assert seen["collectives"] == [], name
        assert seen["devices"] == 4
        assert seen["rows_per_device"] == 2
        assert seen["partitions"]
        assert seen["delta"] < 1e-4
