"""ESD: which weights, which targets against a NumPy reference, and whole runs on a tiny random model."""

import dataclasses
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.config import EsdConfig
from ine_jax.errors import InputError, Interrupted
from ine_jax.guidance.base import Texts
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.pipeline.programs import native_unet
from ine_jax.schedulers import Ddim, alphas_cumprod
from ine_jax.storage.weight_files import Weights
from ine_jax.training.curves import read_log
from ine_jax.training.step import compiled_step, first_state
from ine_jax.unlearning import esd
from ine_jax.unlearning.esd_data import (
    Kept,
    Pool,
    build_pool,
    erasure_weights,
    generated_latents,
    pool_scales,
    trajectories,
)
from ine_jax.unlearning.layers import METHODS, merged, trained
from ine_jax.unlearning.result import WEIGHTS
from tests.support.tiny_pipeline import SCHEDULER, SIDE

ALPHAS = alphas_cumprod(SCHEDULER)
SMALL = EsdConfig(
    erase=("a knife", "a weapon"), preserve=("a cat", "a dog", "the apple"), steps=4, batch=3, preserve_batch=2,
    preserve_weight=1.0, ddim_steps=3, pool=5, learning_rate=1e-3, save_every=2, log_every=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4, compile_cache=False)


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def test_trajectories_equal_a_numpy_reference() -> None:
    ddim = Ddim.from_dict(SCHEDULER)
    tables = ddim.tables(4)
    rng = np.random.default_rng(1)
    context, empty, rest, noise = (rng.standard_normal((2, *shape)) for shape in [(5, 3)] * 3 + [(2, 2, 3)])

    def denoise(x: Any, t: Any, c: Any) -> Any:
        x, t = (each.repeat(len(c) // len(x), axis=0) for each in (x, t))
        return 0.3 * x + 0.001 * t[:, None, None, None] + c.mean(1)[:, None, None, :]

    texts = Texts(prompt=jnp.asarray(context, jnp.float32), uncond=jnp.asarray(empty, jnp.float32))
    others = jnp.asarray(rest[:, None], jnp.float32)
    weights = np.concatenate([erasure_weights(0.7), np.asarray([[0.25, 0.5, 0.25]], np.float32)])
    start = jnp.asarray(noise, jnp.float32)
    latents, targets = trajectories(denoise, ddim, tables, texts, start, 3.0, others, jnp.asarray(weights))
    x = noise
    for step, t in enumerate([751, 501, 251, 1]):
        eps_u, eps_c, eps_r = (np.asarray(denoise(x, np.full(2, t), c)) for c in (empty, context, rest))
        np.testing.assert_allclose(latents[:, step], x, atol=1e-4)
        np.testing.assert_allclose(targets[:, 0, step], eps_r - 0.7 * (eps_c - eps_r), atol=1e-4)
        np.testing.assert_allclose(targets[:, 1, step], (eps_u + 2 * eps_c + eps_r) / 4, atol=1e-4)
        eps = eps_u + 3.0 * (eps_c - eps_u)
        following = ALPHAS[t - 250] if t >= 250 else ALPHAS[0]
        clean = (x - np.sqrt(1 - ALPHAS[t]) * eps) / np.sqrt(ALPHAS[t])
        x = np.sqrt(following) * clean + np.sqrt(1 - following) * eps


@pytest.mark.thorough
def test_pool_belongs_to_seed_and_index(pipe: Pipeline) -> None:
    contexts, empty = jnp.asarray(pipe.encode(SMALL.erase)), jnp.asarray(pipe.encode([""]))
    pool = build_pool(pipe, SMALL, contexts, empty)
    assert pool.latents.shape == pool.targets.shape == (5, 3, 8, 8, 4)
    np.testing.assert_array_equal(pool.prompt, [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(pool.timesteps, [667, 334, 1])
    smaller = build_pool(pipe, dataclasses.replace(SMALL, pool=3), contexts, empty)
    np.testing.assert_allclose(pool.latents[:3], smaller.latents, atol=1e-4)
    other = build_pool(pipe, dataclasses.replace(SMALL, seed=1), contexts, empty)
    assert not np.allclose(pool.latents[:, 0], other.latents[:, 0])


@pytest.mark.thorough
def test_a_prompt_falls_back_to_the_scene_without_the_concept(pipe: Pipeline) -> None:
    contexts, empty = jnp.asarray(pipe.encode(SMALL.erase)), jnp.asarray(pipe.encode([""]))
    plain = build_pool(pipe, SMALL, contexts, empty)
    same = build_pool(pipe, dataclasses.replace(SMALL, erase_from=SMALL.erase), contexts, empty)
    np.testing.assert_allclose(same.latents, plain.latents, atol=1e-4)  # it does not steer the trajectory
    # falling back to the prompt itself asks for no change: the target is the model's own answer to the prompt
    level = int(plain.timesteps[1])
    rows = np.asarray(plain.prompt)
    times = jnp.full((len(rows),), level, jnp.float32)
    unet = native_unet(pipe.parts.unet_config, pipe.dtype)
    own = unet(pipe.parts.unet_params, plain.latents[:, 1], times, contexts[rows])
    np.testing.assert_allclose(same.targets[:, 1], own, atol=1e-4)
    assert not np.allclose(same.targets[:, 1], plain.targets[:, 1], atol=1e-4)


def test_pool_scales_spread_evenly() -> None:
    wide = dataclasses.replace(SMALL, start_guidance=1.5, guidance_spread=1.5, pool=200)
    scales = pool_scales(wide)
    assert scales.min() >= 0.0 and scales.max() <= 3.0
    np.testing.assert_allclose(np.histogram(scales, 4, (0.0, 3.0))[0], 50, atol=2)
    np.testing.assert_array_equal(pool_scales(SMALL), np.full(5, 3.0, np.float32))


def toy_data() -> esd.Data:
    rng = np.random.default_rng(3)
    draw = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in [(5, 3, 2, 2, 4)] * 2 + [(6, 2, 2, 4)]]
    timesteps, prompt = jnp.asarray([667.0, 334.0, 1.0]), jnp.asarray([0, 1, 0, 1, 0])
    pool = Pool(draw[0], draw[1], timesteps, prompt)
    kept = Kept(draw[2], jnp.full((6, 2, 2, 4), -60.0), jnp.arange(6, dtype=jnp.int32) % 3)
    erased, benign = jnp.arange(2.0)[:, None, None], 10 + jnp.arange(4.0)[:, None, None]
    return esd.Data(pool, kept, erased, benign, jnp.uint32(0), jnp.float32(1.0))


def test_erased_rows_keep_point_target_prompt_and_time_together() -> None:
    data = toy_data()
    rows, wanted = esd.sample_erased(data, jax.random.key(0), 200)
    seen = set()
    for row in range(200):
        same = np.isclose(data.pool.latents, rows.latents[row]).all((2, 3, 4))
        ((i, s),) = np.argwhere(same)
        seen.add((i, s))
        np.testing.assert_array_equal(wanted[row], data.pool.targets[i, s])
        assert float(rows.timesteps[row]) == float(data.pool.timesteps[s])
        assert float(rows.context[row, 0, 0]) == i % 2
    assert len(seen) == 15


def test_kept_rows_are_noised_and_hold_the_empty_caption() -> None:
    data = toy_data()
    rows = esd.sample_kept(data, jax.random.key(1), 400, ALPHAS, 0.5)
    assert float(rows.context[0, 0, 0]) == 13  # the empty prompt is the last context
    assert set(np.unique(rows.context[1:, 0, 0])) == {10.0, 11.0, 12.0}
    t = np.asarray(rows.timesteps).astype(int)
    clean = 0.5 * np.asarray(data.kept.mean)  # type: ignore[union-attr]
    for row in range(1, 40):
        caption = int(rows.context[row, 0, 0]) - 10
        a, s = np.sqrt(ALPHAS[t[row]]), np.sqrt(1 - ALPHAS[t[row]])
        noise = (np.asarray(rows.latents[row]) - a * clean[caption::3]) / s
        assert np.abs(noise).max((1, 2, 3)).min() < 6  # some image of that caption explains it as noise
    assert t.min() >= 0 and t.max() <= 999 and abs(t.mean() - 499.5) < 60
    free = data._replace(kept=data.kept._replace(caption=jnp.full(6, -1, jnp.int32)))  # type: ignore[union-attr]
    rows = esd.sample_kept(free, jax.random.key(1), 50, ALPHAS, 0.5)
    assert set(np.unique(rows.context[1:, 0, 0])) == {10.0, 11.0, 12.0}


def test_methods_choose_the_published_layers(pipe: Pipeline) -> None:
    chosen = {method: set(trained(pipe.parts.unet_params, method)) for method in METHODS}
    assert all(".attn2.to_k.kernel" in n or ".attn2.to_v.kernel" in n for n in chosen["esd-x-strict"])
    blocks = sum("attn2.to_k.kernel" in name for name in chosen["esd-all"])
    assert len(chosen["esd-x-strict"]) == 2 * blocks > 0
    assert len(chosen["esd-x"]) == 5 * blocks  # to_q, to_k, to_v and to_out with its bias
    assert chosen["esd-x"] | chosen["esd-u"] == chosen["esd-all"] and not chosen["esd-x"] & chosen["esd-u"]
    assert not any("norm" in name for name in chosen["esd-all"])
    with pytest.raises(InputError, match="esd-x-strict"):
        trained(pipe.parts.unet_params, "esd-y")


def test_merged_replaces_only_what_it_is_given(pipe: Pipeline) -> None:
    base = pipe.parts.unet_params
    weights = {name: leaf + 1 for name, leaf in trained(base, "esd-x-strict").items()}
    new, old = trained(merged(base, weights), "esd-all"), trained(base, "esd-all")
    for name, leaf in new.items():
        np.testing.assert_array_equal(leaf, old[name] + 1 if name in weights else old[name])


@pytest.mark.thorough
def test_first_loss_is_the_distance_to_the_target(pipe: Pipeline) -> None:
    erased, empty = jnp.asarray(pipe.encode(SMALL.erase)), jnp.asarray(pipe.encode([""]))
    data = esd.with_kept(pipe, SMALL, build_pool(pipe, SMALL, erased, empty), erased)
    objective = esd.esd_objective(pipe, SMALL)
    weights = trained(pipe.parts.unet_params, SMALL.method)
    state = first_state(objective, weights, SMALL.learning_rate)
    _, metrics = compiled_step(objective)(pipe.parts.unet_params, data, state, 0)
    assert float(metrics["preserve"]) < 1e-10  # nothing has changed yet
    first, _ = jax.random.split(jax.random.fold_in(jax.random.key(SMALL.seed), 0))
    rows, wanted = esd.sample_erased(data, first, SMALL.batch)
    answer = native_unet(pipe.parts.unet_config, jnp.float32)(pipe.parts.unet_params, *rows)
    np.testing.assert_allclose(metrics["erase"], np.mean((np.asarray(answer) - wanted) ** 2), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], metrics["erase"] + metrics["preserve"], rtol=1e-6)


@pytest.mark.thorough
def test_a_run_trains_the_layers_of_its_method_and_logs_both_terms(pipe: Pipeline, tmp_path: Path) -> None:
    esd.erase(pipe, SMALL, tmp_path)
    assert len(Weights((tmp_path / WEIGHTS,))) == len(trained(pipe.parts.unet_params, SMALL.method))
    log = read_log(tmp_path)
    assert list(log) == ["step", "loss", "erase", "preserve"]
    assert list(log["step"]) == [1, 2, 3, 4]


@pytest.mark.thorough
def test_training_approaches_the_target(pipe: Pipeline, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, steps=40, learning_rate=1e-2, pool=2, save_every=40)
    esd.erase(pipe, config, tmp_path)
    erased = read_log(tmp_path)["erase"]
    assert erased[-8:].mean() < 0.8 * erased[:8].mean()


@pytest.mark.thorough
def test_published_esd_has_no_preservation(pipe: Pipeline, tmp_path: Path) -> None:
    esd.erase(pipe, dataclasses.replace(SMALL, preserve_weight=0.0, preserve=(), steps=1), tmp_path)
    assert list(read_log(tmp_path)) == ["step", "loss"]


@pytest.mark.thorough
def test_an_interrupted_run_continues_exactly(pipe: Pipeline, tmp_path: Path) -> None:
    class Stop:
        def update(self, done: int, metrics: Mapping[str, float]) -> None:
            if done == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    config = dataclasses.replace(SMALL, warmup=2, tail=0.5, steps=6, save_every=100)
    images = random_images(4)
    esd.erase(pipe, config, tmp_path / "whole", preserve_images=images, preserve_captions=[0, 1, 2, 0])
    with pytest.raises(Interrupted):
        esd.erase(pipe, config, tmp_path / "cut", Stop(), preserve_images=images, preserve_captions=[0, 1, 2, 0])
    esd.erase(pipe, config, tmp_path / "cut", preserve_images=images, preserve_captions=[0, 1, 2, 0])
    for name in (WEIGHTS, "log.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    with pytest.raises(InputError, match="eta"):
        changed = dataclasses.replace(config, eta=2.0)
        esd.erase(pipe, changed, tmp_path / "cut", preserve_images=images, preserve_captions=[0, 1, 2, 0])


def test_rates_rise_and_fall(pipe: Pipeline) -> None:
    def rates(**changes: Any) -> list[float]:
        factor = esd.esd_objective(pipe, dataclasses.replace(SMALL, **changes)).factor()
        return [float(np.asarray(factor(jnp.int32(step)))) for step in range(10)]

    wanted = [0.25, 0.5, 0.75, 1, 1, 1, 0.3, 0.3, 0.3, 0.3]
    np.testing.assert_allclose(rates(steps=10, warmup=4, tail=0.4), wanted, rtol=1e-6)
    np.testing.assert_array_equal(rates(steps=10, warmup=1), 1.0)
    np.testing.assert_array_equal(rates(), 1.0)


def test_generated_latents_are_those_of_the_prompts(pipe: Pipeline) -> None:
    kept = generated_latents(pipe, SMALL)
    assert kept.mean.shape == (5, 8, 8, 4) and np.isfinite(kept.mean).all()
    np.testing.assert_array_equal(kept.caption, [0, 1, 2, 0, 1])


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"erase": ()}, {}),
        ({}, {"preserve_images": np.zeros((2, SIDE, SIDE, 3))}),
        ({}, {"preserve_images": np.zeros((0, SIDE, SIDE, 3), np.uint8)}),
        ({}, {"preserve_images": np.zeros((2, SIDE, SIDE, 3), np.uint8), "preserve_captions": [0]}),
        ({}, {"preserve_images": np.zeros((2, SIDE, SIDE, 3), np.uint8), "preserve_captions": [0, 3]}),
    ],
)
def test_wrong_input_is_rejected(
    pipe: Pipeline, tmp_path: Path, change: dict[str, Any], options: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        esd.erase(pipe, dataclasses.replace(SMALL, **change), tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
