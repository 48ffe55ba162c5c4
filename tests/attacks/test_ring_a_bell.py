"""Ring-A-Bell's generations against the published algorithm in plain Python, float64."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.attacks import ring_a_bell
from ine_jax.attacks.target import Target
from ine_jax.config import RingABellConfig
from ine_jax.errors import InputError
from ine_jax.guidance import Cfg
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.prompts.items import Item

CONFIG = RingABellConfig(
    ("a knife", "a weapon"), ("a cat", "a dog"), preset="quick", population=8, length=5, generations=3, batch=16
)
ITEMS = (Item("one", "a red knife", 3), Item("two", "the weapon", 4), Item("three", "a photo of a dog", 5))


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4, compile_cache=False)


def published(
    survivors: list[list[int]], words: np.ndarray, random: ring_a_bell.Chances
) -> list[tuple[int, list[int]]]:
    """The next generation of the notebook's functions, with the place of each prompt's random numbers."""
    family: list[tuple[int, list[int]]] = []
    for i, own in enumerate(survivors):
        family.append((3 * i, list(own)))
        if random.crosses[i]:
            mate, cut = survivors[int(random.mate[i])], int(random.cut[i])
            family.append((3 * i + 1, own[:cut] + mate[cut:]))
            family.append((3 * i + 2, mate[:cut] + own[cut:]))
    for place, prompt in family:
        if random.mutates[place]:
            prompt[int(random.place[place])] = int(words[int(random.word[place])])
    return family


def losses_of(pipe: Pipeline, wanted: np.ndarray, prompts: list[list[int]]) -> np.ndarray:
    """The squared distances of the prompts' contexts from the wanted one."""
    begin, end, length = pipe.tokenizer.backend.bos_token_id, pipe.tokenizer.backend.eos_token_id, len(wanted)
    ids = np.asarray([[begin, *prompt] + [end] * (length - 1 - len(prompt)) for prompt in prompts], np.int32)
    learned = np.zeros((8, wanted.shape[1]), np.float32)
    contexts = np.asarray(pipe.programs.encode(pipe.parts.text_params, ids, learned), np.float64)
    return ((wanted.astype(np.float64) - contexts) ** 2).sum(axis=(1, 2))


def test_generations_are_those_of_the_published_search(pipe: Pipeline) -> None:
    numbers, data = CONFIG.numbers, ring_a_bell._data(pipe, ITEMS, CONFIG)
    words, half = np.asarray(data.words), numbers.population // 2
    step = ring_a_bell.compiled_step(pipe.parts.text_config, numbers, pipe.programs.mesh, CONFIG.batch)
    state = ring_a_bell.State(jnp.zeros((3, half, numbers.length), jnp.int32), jnp.zeros((3, half)))
    survivors: list[list[list[int]]] = [[], [], []]
    for i in range(3):
        state, metrics = step(pipe.parts.text_params, data, state, i)
        for p, item in enumerate(ITEMS):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(np.uint32(CONFIG.seed)), item.seed), i)
            if i:
                random = jax.tree.map(np.asarray, ring_a_bell.chances(key, numbers, len(words)))
                population = [prompt for _, prompt in published(survivors[p], words, random)]
            else:
                fresh = np.asarray(jax.random.randint(key, (3 * half, numbers.length), 0, len(words)))
                population = words[fresh[: 2 * half]].tolist()
            losses = losses_of(pipe, np.asarray(data.wanted)[p], population)
            order = np.argsort(losses, kind="stable")[:half]
            survivors[p] = np.asarray(state.ids)[p].tolist()
            assert survivors[p] == [population[each] for each in order]
            np.testing.assert_allclose(np.asarray(state.losses)[p], losses[order], rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"], np.asarray(state.losses)[:, 0].mean(), rtol=1e-6)


def test_the_concept_vector_and_what_is_wanted(pipe: Pipeline) -> None:
    contexts = {text: pipe.encode([text]).astype(np.float64)[0] for text in (*CONFIG.harmful, *CONFIG.harmless)}
    first, second = (contexts[a] - contexts[b] for a, b in zip(CONFIG.harmful, CONFIG.harmless, strict=True))
    vector = (first + second) / 2
    np.testing.assert_allclose(ring_a_bell.concept_vector(pipe, CONFIG), vector, atol=1e-5)
    wanted = pipe.encode([ITEMS[1].prompt])[0] + 3.0 * vector
    np.testing.assert_allclose(ring_a_bell._data(pipe, ITEMS, CONFIG).wanted[1], wanted, atol=1e-5)


def test_the_result_of_a_prompt_does_not_depend_on_the_others(pipe: Pipeline) -> None:
    step, found = (
        ring_a_bell.compiled_step(pipe.parts.text_config, CONFIG.numbers, pipe.programs.mesh, CONFIG.batch),
        [],
    )
    for items in (ITEMS, ITEMS[1:2]):
        ids = jnp.zeros((len(items), 4, CONFIG.numbers.length), jnp.int32)
        state = ring_a_bell.State(ids, jnp.zeros((len(items), 4)))
        state, _ = step(pipe.parts.text_params, ring_a_bell._data(pipe, items, CONFIG), state, 0)
        found.append(np.asarray(state.ids))
    np.testing.assert_array_equal(found[0][1], found[1][0])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RingABellConfig(), "harmful: empty"),
        (RingABellConfig(("a knife",), ("a cat",), length=70), "length 70"),
    ],
)
def test_wrong_settings_are_found_before_anything_is_written(
    pipe: Pipeline, config: RingABellConfig, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        ring_a_bell.attack(Target(pipe, Cfg(2.0)), ITEMS, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_presets_and_ranges() -> None:
    assert (RingABellConfig().numbers.population, RingABellConfig().steps) == (200, 3000)
    assert RingABellConfig(preset="quick", strength=5.0).numbers.strength == 5.0
    for wrong in ({"population": 7}, {"crossover": 1.5}, {"harmful": ("a knife",)}, {"generations": 0}):
        with pytest.raises(InputError, match=next(iter(wrong)).replace("harmful", "harmless")):
            RingABellConfig(**wrong)
