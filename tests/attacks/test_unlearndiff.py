"""UnlearnDiffAtk's step against NumPy in float64: sampling, loss through a guard, Adam with decay, projection."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.attacks import objective, simplex, unlearndiff
from ine_jax.attacks.objective import FREE, Data, Held
from ine_jax.attacks.target import Target
from ine_jax.attacks.through import Through
from ine_jax.config import UnlearnDiffConfig
from ine_jax.errors import InputError
from ine_jax.guidance import Casg, Gated, Guidance, Negative, Safree, sld_preset
from ine_jax.guidance.concept import Concept
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.prompts.items import Item
from ine_jax.training.rows import ALL
from ine_jax.training.step import compiled_step, first_state
from tests.support.guided import GUARD, WORDS, guided, noised

CONFIG = UnlearnDiffConfig(preset="quick", tokens=2, timesteps=4, iterations=2, learning_rate=0.1)
ITEMS = (Item("one", "a red knife", 3), Item("two", "the weapon", 4))
GUARDS: dict[str, Guidance] = {
    "gated": Gated(3.0, 4.0, low=-1.0, high=1.0),
    "sld": sld_preset("weak", 3.0, warmup=1.0),  # two phases
    "safree": Safree(Negative(3.0, 4.0)),
    "casg": Casg(Negative(3.0, 2.0)),
}


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4, compile_cache=False)


def parts(pipe: Pipeline, guard: Guidance) -> tuple[unlearndiff.UnlearnDiffObjective, Held, Data]:
    target = Target(pipe, guard, Concept((WORDS,)), steps=3)
    pieces = [[FREE] * CONFIG.numbers.tokens + pipe.tokenizer.word_ids(item.prompt) for item in ITEMS]
    held = jax.tree.map(jnp.asarray, Held(objective.held(target, CONFIG)))
    problem = unlearndiff.UnlearnDiffObjective(pipe.parts.text_config, Through.of(pipe), CONFIG.numbers)
    return problem, held, objective.data(target, pipe, ITEMS, CONFIG, pieces)


def nearest_on_simplex(weights: np.ndarray) -> np.ndarray:
    """The projection by sorting (Duchi et al. 2008)."""
    ordered = np.sort(weights)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(ordered) + 1)
    return np.maximum(weights - excess[np.nonzero(ordered > excess)[0][-1]], 0)


def test_the_projection_is_the_nearest_point_of_the_simplex() -> None:
    weights = np.random.default_rng(0).normal(0, 0.3, (3, 5, 40)).astype(np.float32)
    found = np.asarray(simplex.project(jnp.asarray(weights)))
    for own, projected in zip(weights.reshape(-1, 40), found.reshape(-1, 40), strict=True):
        np.testing.assert_allclose(projected, nearest_on_simplex(own.astype(np.float64)), atol=1e-6)
    np.testing.assert_allclose(simplex.project(jnp.asarray(found)), found, atol=1e-6)


def test_the_gradient_of_a_drawn_word_goes_straight_through() -> None:
    chance = np.random.default_rng(1)
    table, factor = chance.normal(size=(6, 4)), chance.normal(size=(2, 4))

    def loss(weights: jax.Array) -> jax.Array:
        rows = simplex.sampled(weights, jnp.asarray([5, 2]), jnp.asarray(table, jnp.float32))
        return (rows * jnp.asarray(factor, jnp.float32)).sum()

    value, gradient = jax.value_and_grad(loss)(jnp.full((2, 6), 1 / 6))
    np.testing.assert_allclose(value, (table[[5, 2]] * factor).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.clip(factor @ table.T, -1, 1), rtol=1e-5)
    assert (np.abs(factor @ table.T) > 1).any()


def test_a_step_is_that_of_the_published_attack_through_the_guard(pipe: Pipeline) -> None:
    problem, held, data = parts(pipe, GUARD)
    words, i = pipe.parts.text_config.vocab_size, 3
    weights = jnp.full((2, CONFIG.numbers.tokens, words), 1 / words, jnp.float32)
    gradient, metrics = jax.jit(jax.grad(problem.loss, has_aux=True), static_argnums=4)(
        weights, held, data, jnp.int32(i), ALL
    )
    t = 125 + 250 * (i // 2)
    errors = []
    for p, item in enumerate(ITEMS):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(np.uint32(0)), item.seed), i)
        first, second = jax.random.split(key)
        noise = np.asarray(jax.random.normal(first, data.latents.shape[1:]))
        choice = np.asarray(jax.random.categorical(second, jnp.log(weights[p])))
        plain = pipe.tokenizer.ids([item.prompt])[0]
        ids = np.concatenate([plain[:1], choice, plain[1:-2]])
        found = guided(pipe, noised(pipe, data.latents[p], noise, t), t, ids)
        errors.append(np.mean((noise - found) ** 2))
    np.testing.assert_allclose(metrics["loss"], np.mean(errors), rtol=1e-4)

    start = np.asarray(weights, np.float64)
    slope = np.asarray(gradient, np.float64) + 0.1 * start
    moved = start - 0.1 * slope / (np.abs(slope) + 1e-8)
    state, _ = compiled_step(problem)(held, data, first_state(problem, np.asarray(weights), 0.1), i)
    found = np.asarray(state.trained)
    for p in range(2):
        for token in range(2):
            np.testing.assert_allclose(found[p, token], nearest_on_simplex(moved[p, token]), atol=2e-5)


@pytest.mark.thorough  # a step through the plain negative is above
@pytest.mark.parametrize("name", GUARDS)
def test_the_gradient_goes_through_every_guard(pipe: Pipeline, name: str) -> None:
    problem, held, data = parts(pipe, GUARDS[name])
    words = pipe.parts.text_config.vocab_size
    weights = jnp.full((2, 2, words), 1 / words, jnp.float32)
    found, _ = jax.jit(jax.grad(problem.loss, has_aux=True), static_argnums=4)(weights, held, data, jnp.int32(5), ALL)
    assert np.isfinite(found).all() and all(np.abs(found[p]).max() > 0 for p in range(2))


def test_levels_and_wrong_input(pipe: Pipeline, tmp_path: Path) -> None:
    np.testing.assert_array_equal(objective.levels(1000, 50), np.arange(10, 1000, 20))
    assert UnlearnDiffConfig().steps == 2000 and dataclasses.astuple(UnlearnDiffConfig().numbers) == (
        5,
        50,
        40,
        0.01,
        0.1,
    )
    target = Target(pipe, Negative(3.0, 4.0), Concept(("a weapon",)))
    for config, base, message in ((CONFIG, None, "base"), (UnlearnDiffConfig(tokens=50), pipe, "tokens 50")):
        with pytest.raises(InputError, match=message):
            unlearndiff.attack(target, ITEMS, config, tmp_path / "out", base=base)
    assert not (tmp_path / "out").exists()
