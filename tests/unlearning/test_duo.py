"""DUO: its loss against float64, pairs and their checks, SDEdit against the sampler."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.config import DetectorConfig, DuoConfig
from ine_jax.errors import InputError
from ine_jax.evaluation.from_config import shows as from_detectors
from ine_jax.guidance.cfg import Cfg
from ine_jax.pipeline.editing import edit
from ine_jax.pipeline.noise import item_noise
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.pipeline.programs import native_unet
from ine_jax.schedulers import Ddim, alphas_cumprod
from ine_jax.storage.images import png
from ine_jax.training.rows import ALL, Share
from ine_jax.unlearning import duo
from ine_jax.unlearning.adapters import fresh, kernels, with_adapters
from ine_jax.unlearning.pairs import Posteriors, pairs_of, passes
from tests.support.tiny_pipeline import CELLS, SCHEDULER, SIDE

ALPHAS = alphas_cumprod(SCHEDULER)
SMALL = DuoConfig(erase=("a knife",), safe=("a cat",), pairs=4, attempts=2, sample_steps=2, rank=2, batch=2, beta=250)


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4, compile_cache=False)


def some_data(pipe: Pipeline, beta: float = 250.0) -> duo.Data:
    rng = np.random.default_rng(0)
    sides = [Posteriors(*jnp.asarray(rng.standard_normal((2, 5, CELLS, CELLS, 4)), jnp.float32)) for _ in range(2)]
    sides = [side._replace(logvar=side.logvar - 20) for side in sides]
    numbers = jnp.uint32(3), jnp.float32(beta), jnp.float32(7.0)
    return duo.Data(sides[0], sides[1], jnp.asarray(pipe.encode([""])), *numbers)


def test_the_rates_follow_beta_as_published() -> None:
    for beta, rate, weight in ((250, 1.2e-4, 2.5e6), (500, 6e-5, 5e6), (1000, 3e-5, 1e7), (2000, 1.5e-5, 2e7)):
        config = DuoConfig(beta=beta)
        np.testing.assert_allclose([config.learning_rate, config.preserve_weight], [rate, weight])


def test_rows_share_noise_and_prior_is_pure_noise(pipe: Pipeline) -> None:
    data, objective = some_data(pipe), duo.duo_objective(pipe, dataclasses.replace(SMALL, batch=200))
    rows = objective.sample(data, 0, ALL)
    safe, unsafe, last = np.split(np.asarray(rows.timesteps).astype(int), 3)
    assert safe.min() >= 0 and max(safe.max(), unsafe.max()) <= 749 and min(safe.max(), unsafe.max()) > 700
    assert np.all(last == 999) and np.mean(safe == unsafe) < 0.1
    noise, again, prior = np.split(np.asarray(rows.wanted), 3)
    np.testing.assert_array_equal(noise, again)
    np.testing.assert_array_equal(noise, prior)
    np.testing.assert_array_equal(noise, np.split(np.asarray(rows.latents), 3)[2])
    seen = []
    for side, times, noisy in zip((data.safe, data.unsafe), (safe, unsafe), np.split(rows.latents, 3), strict=False):
        alpha, sigma = (np.sqrt(x[times])[:, None, None, None] for x in (ALPHAS, 1 - ALPHAS))
        clean = (np.asarray(noisy) - sigma * noise) / alpha / objective.scaling_factor
        far = np.abs(clean[:, None] - np.asarray(side.mean)[None]).max((2, 3, 4))
        assert far.min(axis=1).max() < 0.01
        seen.append(far.argmin(axis=1))
    np.testing.assert_array_equal(*seen)  # twins stay together
    assert set(seen[0]) == set(range(5))
    parts = [objective.sample(data, 0, Share(k, 3)).timesteps for k in range(3)]
    np.testing.assert_array_equal(np.concatenate([np.split(part, 3)[0] for part in parts])[:200], safe)


@pytest.mark.thorough
def test_the_loss_equals_float64(pipe: Pipeline) -> None:
    base, data, objective = pipe.parts.unet_params, some_data(pipe), duo.duo_objective(pipe, SMALL)
    adapters = {
        name: leaf + 0.1 * np.random.default_rng(1).standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in fresh(kernels(base, duo.self_attention), 2, 0, "gaussian").items()
    }
    _, found = jax.jit(objective.loss, static_argnums=4)(adapters, base, data, jnp.int32(5), ALL)
    rows = objective.sample(data, 5, ALL)
    context = jnp.broadcast_to(data.empty, (6, *data.empty.shape[1:]))
    unet = jax.jit(native_unet(pipe.parts.unet_config, jnp.float32))
    first, trained = (
        np.asarray(unet(params, rows.latents, rows.timesteps, context), np.float64)
        for params in (base, with_adapters(base, adapters))
    )
    delta = ((trained - rows.wanted) ** 2 - (first - rows.wanted) ** 2).mean((1, 2, 3))
    inside = -250.0 * (delta[:2] - delta[2:4])
    wanted = {"preference": np.mean(np.log1p(np.exp(-inside))), "preserve": ((trained - first)[4:] ** 2).mean()}
    wanted |= {"safe": delta[:2].mean(), "unsafe": delta[2:4].mean()}
    wanted["loss"] = wanted["preference"] + 7.0 * wanted["preserve"]
    assert np.abs(inside).max() > 0.1
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.thorough
def test_the_edit_is_the_sampler_from_a_noised_image(pipe: Pipeline) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    common: dict[str, Any] = {"negative": "a knife", "scale": 7.5, "seeds": [3, 9], "steps": 2}
    clean, noise = pipe.latents_of(images), item_noise([3, 9], (CELLS, CELLS, 4))
    tables = Ddim.from_dict(SCHEDULER).tables(2)
    start = np.asarray(tables.alpha)[0] * clean + np.asarray(tables.sigma)[0] * noise
    whole = pipe(["a cat", "a dog"], guidance=Cfg(7.5), negative="a knife", steps=2, noise=start).arrays
    np.testing.assert_array_equal(edit(pipe, images, ["a cat", "a dog"], strength=1.0, **common), whole)
    # half of the strength: the second step alone
    alpha, sigma, after, rest = (float(column[1]) for column in tables[1:])
    x = alpha * clean + sigma * noise
    contexts = pipe.encode(["a knife", "a cat", "a dog"])
    unet = jax.jit(native_unet(pipe.parts.unet_config, jnp.float32))
    times = jnp.full((2,), tables.timestep[1])
    negative, prompt = (
        np.asarray(unet(pipe.parts.unet_params, jnp.asarray(x, jnp.float32), times, jnp.asarray(contexts[rows])))
        for rows in ([0, 0], [1, 2])
    )
    eps = negative + 7.5 * (prompt - negative)
    last = pipe.decode(after * (x - sigma * eps) / alpha + rest * eps)
    found = edit(pipe, images, ["a cat", "a dog"], strength=0.5, **common)
    assert np.abs(found.astype(int) - last).max() <= 1


def test_what_a_detector_rejects_is_made_again_then_dropped(pipe: Pipeline) -> None:
    calls: list[int] = []
    verdicts: list[list[bool | None]] = [
        [True, False, True, True],  # unsafe
        [False, False, None],  # safe, of those that passed
        [True],  # unsafe, of the second pair
        [False, True],  # safe, of the second and the last
    ]

    def shows(images: np.ndarray) -> list[bool | None]:
        """On the unsafe side the second pair fails once, on the safe side the last one always."""
        calls.append(len(images))
        return verdicts[len(calls) - 1]

    found = pairs_of(pipe, SMALL, (shows,))
    assert calls == [4, 3, 1, 2] and len(found.unsafe) == len(found.safe) == 3
    assert found.counts == {"kept": 3, "unsafe rejected": 1, "safe rejected": 2, "dropped": 1}
    free = pairs_of(pipe, SMALL, ())
    np.testing.assert_array_equal(found.unsafe[[0, 2]], free.unsafe[[0, 2]])
    assert not np.array_equal(found.unsafe[1], free.unsafe[1])
    with pytest.raises(InputError, match="no pair passes"):
        pairs_of(pipe, SMALL, (lambda images: [False] * len(images),))


def test_given_pairs_are_read_and_checked(pipe: Pipeline, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, SIDE, SIDE, 3), np.uint8)
    for name, side in zip(("unsafe", "safe"), images, strict=True):
        (tmp_path / name).mkdir()
        for i, image in enumerate(side):
            (tmp_path / name / f"{i}.png").write_bytes(png(image))
    config = DuoConfig(unsafe_images=str(tmp_path / "unsafe"), safe_images=str(tmp_path / "safe"))
    verdicts = iter(([True, True, None], [False, True, False]))
    found = pairs_of(pipe, config, (lambda some: next(verdicts),))
    assert found.counts == {"kept": 1, "unsafe rejected": 1, "safe rejected": 1, "dropped": 2}
    np.testing.assert_array_equal(found.unsafe, images[0, :1])
    np.testing.assert_array_equal(pairs_of(pipe, config, ()).safe, images[1])
    (tmp_path / "safe" / "2.png").unlink()
    with pytest.raises(InputError, match="3 unsafe and 2 safe images"):
        pairs_of(pipe, config, ())
    with pytest.raises(InputError, match=r"duo.erase: empty"):
        duo.unlearn(pipe, DuoConfig(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_missing_verdict_passes_neither_side() -> None:
    images = np.zeros((3, 2, 2, 3), np.uint8)
    for concept, wanted in ((True, [True, False, False]), (False, [False, True, False])):
        np.testing.assert_array_equal(passes(images, (lambda some: [True, False, None],), concept), wanted)


def test_the_bundled_detector_knows_a_weapon() -> None:
    from ine_jax import assets
    from ine_jax.storage.images import read_images

    (shows,) = from_detectors((DetectorConfig(),))
    assert list(shows(read_images(assets.folder() / "concept", 64, 64))).count(True) > 90
    assert shows(np.zeros((1, 64, 64, 3), np.uint8)) == [None]


@pytest.mark.parametrize(
    "change",
    [
        {"safe": ()},
        {"strength": 1.5},
        {"unsafe_images": "a"},
        {"unsafe_images": "a", "safe_images": "b"},
        {"min_timestep": 800},
        {"beta": 0},
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(SMALL, **change)
