"""SPM: its loss and trajectories against float64, anchors, the rate, and facilitated transport."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.config import SpmConfig
from ine_jax.errors import InputError
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.pipeline.programs import native_unet
from ine_jax.schedulers import alphas_cumprod
from ine_jax.training.rows import ALL, Share
from ine_jax.unlearning import spm
from ine_jax.unlearning.adapters import fresh, kernels, with_adapters
from tests.support.tiny_pipeline import CELLS, LENGTH, SCHEDULER, WIDTH

ALPHAS = alphas_cumprod(SCHEDULER)
SMALL = SpmConfig(erase=("a knife", "weapon"), guide=("a cat",), batch=2, ddim_steps=5, rank=2, alpha=3.0)


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4, compile_cache=False)


def some_data(pipe: Pipeline) -> spm.Data:
    erased, guide = jnp.asarray(pipe.encode(["a knife", "weapon"])), jnp.asarray(pipe.encode(["a cat", "a cat"]))
    numbers = jnp.uint32(1), jnp.float32(0.5), jnp.float32(7.0), jnp.float32(3.0)
    return spm.Data(erased, guide, jnp.asarray(pipe.encode([""])), *numbers)


@pytest.mark.thorough
def test_the_loss_equals_float64(pipe: Pipeline) -> None:
    base, data, objective = pipe.parts.unet_params, some_data(pipe), spm.spm_objective(pipe, SMALL)
    rng = np.random.default_rng(1)
    adapters = {
        name: leaf + 0.02 * rng.standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in fresh(kernels(base, spm.transformers), 2, 0, "kaiming").items()
    }
    at = next(i for i in range(50) if int(objective.sample(data, i, ALL).steps) == 2)
    _, found = jax.jit(objective.loss, static_argnums=4)(adapters, base, data, jnp.int32(at), ALL)
    rows = objective.sample(data, at, ALL)
    apply, merged = jax.jit(native_unet(pipe.parts.unet_config, jnp.float32)), with_adapters(base, adapters, 1.5)

    def network(params: Any, x: np.ndarray, t: int, context: Any) -> np.ndarray:
        """Rows of 8, one compiled shape."""
        x, context = (np.concatenate([v, np.zeros((8 - len(v), *v.shape[1:]))]) for v in (x, np.asarray(context)))
        given = jnp.asarray(x, jnp.float32), jnp.full((8,), t, jnp.float32), jnp.asarray(context, jnp.float32)
        return np.asarray(apply(params, *given), np.float64)

    concept, guide = np.asarray(data.erased)[rows.concept], np.asarray(data.guide)[rows.concept]
    empty, x = np.repeat(np.asarray(data.empty), 2, 0), np.asarray(rows.noise, np.float64)
    for t in (800, 600):  # DDIM of five steps without an offset
        plain, shown = (network(merged, x, t, c)[:2] for c in (empty, concept))
        eps = plain + 3.0 * (shown - plain)
        clean = (x - np.sqrt(1 - ALPHAS[t]) * eps) / np.sqrt(ALPHAS[t])
        x = np.sqrt(ALPHAS[t - 200]) * clean + np.sqrt(1 - ALPHAS[t - 200]) * eps
    asked = 999 - int(2 * 1000 / 5)
    plain, shown, moved = (network(p, x, asked, c)[:2] for p, c in ((base, guide), (base, concept), (merged, concept)))
    around, places = np.asarray(rows.anchors).reshape(8, LENGTH, WIDTH), np.repeat(x, 4, 0)
    kept = network(merged, places, asked, around) - network(base, places, asked, around)
    wanted = {"erase": ((moved - (plain - 0.5 * (shown - plain))) ** 2).mean(), "anchor": (kept**2).mean()}
    wanted["loss"] = wanted["erase"] + 7.0 * wanted["anchor"]
    assert wanted["anchor"] > 1e-5
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-3, err_msg=name)


@pytest.mark.thorough
def test_rows_belong_to_their_number_and_half_of_the_anchors_are_the_empty_prompt(pipe: Pipeline) -> None:
    data, objective = some_data(pipe), spm.spm_objective(pipe, SMALL)
    rows = objective.sample(data, 4, ALL)
    parts = [objective.sample(data, 4, Share(k, 2)) for k in range(2)]
    np.testing.assert_array_equal(rows.noise, np.concatenate([part.noise for part in parts]))
    np.testing.assert_array_equal(rows.anchors, np.concatenate([part.anchors for part in parts]))
    assert rows.noise.shape == (2, CELLS, CELLS, 4)
    np.testing.assert_array_equal(rows.anchors[:, ::2], np.broadcast_to(data.empty, (2, 2, *data.empty.shape[1:])))
    steps = {int(objective.sample(data, i, ALL).steps) for i in range(60)}
    assert steps == {1, 2, 3, 4}


def test_anchors_have_the_length_and_keep_away() -> None:
    concept = jnp.asarray([[3.0, 4.0]])  # two numbers: the acceptance shows
    found = np.asarray(spm.anchors(jax.random.key(0), concept, 4000))[:, 0]
    length = np.linalg.norm(found, axis=1)
    assert 4.0 <= length.min() < 4.1 and 5.9 < length.max() <= 6.0
    cosine = found @ np.asarray([0.6, 0.8]) / length
    # density (1 - cos) / 2π of the angle, where 1 - cos exceeds 1 it is cut; by numbers
    angle = np.linspace(0, np.pi, 20001)
    weight = np.minimum(1 - np.cos(angle), 1)
    np.testing.assert_allclose(cosine.mean(), np.sum(np.cos(angle) * weight) / weight.sum(), atol=0.03)


def test_the_rate_is_the_published_one() -> None:
    factor = spm.cosine_restarts(500, 3000, 3)
    for step in (0, 1, 250, 499, 500, 900, 1333, 1334, 2500, 2999, 3000):
        wanted = step / 500
        if step >= 500:
            done = (step - 500) / 2500
            wanted = 0.0 if done >= 1 else max(0.0, 0.5 * (1 + np.cos(np.pi * ((3 * done) % 1.0))))
        np.testing.assert_allclose(factor(jnp.int32(step)), wanted, atol=1e-5)


def test_transport_is_the_larger_of_cosine_and_shared_words(pipe: Pipeline) -> None:
    prompts, erased = ["a photo of the red apple", "a knife and a cat", "dog"], ["red knife", "weapon"]
    found = spm.transport(pipe, prompts, erased)
    flat = [pipe.encode([text]).ravel().astype(np.float64) for text in (*prompts, *erased)]
    for k, shared in enumerate((0.5, 0.5, 0.0)):
        cosines = [flat[k] @ c / np.linalg.norm(flat[k]) / np.linalg.norm(c) for c in flat[3:]]
        np.testing.assert_allclose(found[k], max(shared, *cosines), rtol=1e-6)
    np.testing.assert_allclose(spm.transport(pipe, ["weapon"], erased), 1.0)
    with pytest.raises(InputError, match="erased: empty"):
        spm.transport(pipe, prompts, [])
