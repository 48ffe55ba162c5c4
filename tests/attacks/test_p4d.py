"""P4D against NumPy in float64: nearest words, the loss through a guard, one step of both optimizers, prompts."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ine_jax.attacks import objective, p4d
from ine_jax.attacks.objective import FREE, Held
from ine_jax.attacks.target import Target
from ine_jax.config import P4DConfig
from ine_jax.errors import InputError
from ine_jax.guidance.concept import Concept
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.prompts.items import Item
from ine_jax.training.step import compiled_step, first_state
from tests.support.guided import GUARD, WORDS, guided, noised, predictions

ITEMS = (Item("one", "a red knife", 3), Item("two", "the weapon", 4))
CONFIGS = {
    "k": P4DConfig(variant="k", every=2, rounds=4, iterations=2),
    "mua": P4DConfig(variant="mua", tokens=2, rounds=4, iterations=2),
}


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4, compile_cache=False)


def nearest(vectors: np.ndarray, table: np.ndarray, never: tuple[int, ...]) -> np.ndarray:
    """The words of the largest cosines, float64."""
    cosines = np.einsum("...d,wd->...w", vectors, table) / np.linalg.norm(table, axis=-1)
    cosines[..., list(never)] = -np.inf
    return np.argmax(cosines, axis=-1)


@pytest.mark.thorough  # a step of UnlearnDiffAtk, whose loss is the same class, is in the ordinary suite
@pytest.mark.parametrize("variant", CONFIGS)
def test_a_step_is_that_of_the_published_attack_through_the_guard(pipe: Pipeline, variant: str) -> None:
    config, i = CONFIGS[variant], 5
    target = Target(pipe, GUARD, Concept((WORDS,)), steps=3)
    pieces = [p4d.with_free(pipe.tokenizer.word_ids(item.prompt), config) for item in ITEMS]
    data, problem = objective.data(target, pipe, ITEMS, config, pieces), p4d.p4d_objective(pipe, pipe, config)
    contexts = jnp.asarray(pipe.encode([item.prompt for item in ITEMS]))
    held = jax.tree.map(jnp.asarray, Held(objective.held(target, config), pipe.parts.unet_params, contexts))
    table = np.asarray(objective.table_of(pipe.parts.text_params), np.float64)
    start = np.random.default_rng(0).normal(0, 0.3, (*data.places.shape, table.shape[1])).astype(np.float32)
    rate, decay = config.numbers.learning_rate, config.numbers.weight_decay
    state, metrics = compiled_step(problem)(held, data, first_state(problem, start, rate), i)
    key, words = jax.random.key(np.uint32(0)), nearest(start.astype(np.float64), table, problem.never).tolist()
    t = 625 if variant == "mua" else int(jax.random.randint(jax.random.fold_in(key, i), (), 0, 1000))
    errors = []
    for p, item in enumerate(ITEMS):
        first, _ = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, item.seed), i))
        noisy = noised(pipe, data.latents[p], np.asarray(jax.random.normal(first, data.latents.shape[1:])), t)
        free = [
            words[p][pieces[p][:place].count(FREE)] if piece == FREE else piece for place, piece in enumerate(pieces[p])
        ]
        found = guided(pipe, noisy, t, np.asarray(pipe.tokenizer.row(free)))
        errors.append(np.mean((predictions(pipe, noisy, t, contexts[p : p + 1])[0] - found) ** 2))
    np.testing.assert_allclose(metrics["loss"], np.mean(errors), rtol=1e-4)

    vectors, (mean,) = start.astype(np.float64), optax.tree_utils.tree_get_all_with_path(state.optimizer, "mu")
    slope = np.asarray(mean[1], np.float64) / 0.1  # what AdamW's first mean holds after one step
    absent = np.asarray(data.places) >= data.ids.shape[1]
    own = slope - decay * vectors * (variant == "mua")
    assert (np.abs(own).max(axis=-1) > 1e-9).tolist() == (~absent).tolist()
    if variant == "mua":
        moved = vectors - rate * slope / (np.abs(slope) + 1e-8)
    else:
        moved = (1 - rate * decay) * vectors - rate * slope / (np.abs(slope) + 1e-8)
    sure = np.abs(slope) > 1e-6  # where the step divides a gradient by itself, its rounding decides
    np.testing.assert_allclose(np.asarray(state.trained)[sure], moved[sure], atol=2e-4)
    assert sure.mean() > 0.5


def test_free_tokens_and_their_text(pipe: Pipeline) -> None:
    assert p4d.with_free([7, 8, 9, 10], CONFIGS["k"]) == [FREE, 7, 8, FREE, 9, 10, FREE]
    assert p4d.with_free([7, 8, 9], CONFIGS["k"]) == [FREE, 7, 8, FREE, 9]
    assert p4d.with_free([7], CONFIGS["mua"]) == [FREE, FREE, 7]
    assert p4d.with_free([7], P4DConfig(tokens=3)) == [FREE] * 3
    long = [[FREE, *[7] * 9] * 20, [FREE]]
    ids, places = objective.laid_out(pipe.tokenizer, long)
    last = pipe.tokenizer.max_length
    assert ids.shape == (2, last) and ids[0, -1] == pipe.tokenizer.backend.eos_token_id
    assert places[0].tolist() == list(range(1, last - 1, 10)) and places[1].tolist() == [
        1,
        *[last] * (len(places[0]) - 1),
    ]
    cat = pipe.tokenizer.word_ids("cat")[0]
    ids, places = objective.laid_out(pipe.tokenizer, [[FREE, *pipe.tokenizer.word_ids("red knife")]])
    assert p4d._text(pipe.tokenizer, ids[0], places[0], np.asarray([cat])) == "cat red knife"


def test_a_random_start_is_words_and_belongs_to_the_prompt(pipe: Pipeline) -> None:
    config, target = P4DConfig(tokens=6), Target(pipe, GUARD, Concept((WORDS,)), steps=2)
    found = []
    for items in (ITEMS, ITEMS[1:]):
        pieces = [p4d.with_free([], config) for _ in items]
        data = objective.data(target, pipe, items, config, pieces)
        problem = p4d.p4d_objective(pipe, pipe, config)
        found.append(p4d.first_words(data, pipe.parts.text_config.vocab_size, problem.never))
    np.testing.assert_array_equal(found[0][1], found[1][0])
    assert not np.isin(found[0], problem.never).any() and len(set(found[0].ravel())) > 6


def test_presets_and_wrong_input(pipe: Pipeline, tmp_path: Path) -> None:
    published = {v: dataclasses.astuple(P4DConfig(variant=v).numbers) for v in ("n", "k", "mua")}  # type: ignore[arg-type]
    assert published == {
        "n": (16, 3, 60, 50, 0.1, 0.1),
        "k": (16, 3, 60, 50, 0.1, 0.1),
        "mua": (5, 3, 50, 40, 0.01, 0.1),
    }
    assert P4DConfig().steps == 3000 and P4DConfig(variant="mua").steps == 2000
    with pytest.raises(InputError, match="every: 2"):
        P4DConfig(variant="n", every=2)
    with pytest.raises(InputError, match="tokens: 2"):
        P4DConfig(variant="k", tokens=2)
    target = Target(pipe, GUARD, Concept((WORDS,)))
    many = P4DConfig(variant="mua", rounds=1001)
    for config, base, message in (
        (CONFIGS["k"], None, "base"),
        (P4DConfig(tokens=99), pipe, "tokens 99"),
        (many, pipe, "1001"),
    ):
        with pytest.raises(InputError, match=message):
            p4d.attack(target, ITEMS, config, tmp_path / "out", base=base)
    assert not (tmp_path / "out").exists()
