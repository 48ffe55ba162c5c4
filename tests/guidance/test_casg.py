"""The choice among several concepts, by directions of the prediction and by spans of text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.errors import InputError
from ine_jax.guidance import Casg, Cfg, Negative, Sld, Texts, sld_preset
from ine_jax.guidance.base import phases
from ine_jax.guidance.casg import closest_direction
from tests.support.guards import moment

SHAPE = (4, 4, 2)


def eps(items: int, rows: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((items, rows, *SHAPE)), jnp.float32)


def texts(items: int = 2, choices: int = 3) -> Texts:
    rng = np.random.default_rng(1)
    array = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    return Texts(array(items, 5, 4), array(items, 5, 4), bank=array(items, choices, 5, 4))


def test_the_direction_nearest_to_the_prompts_is_chosen_for_each_item() -> None:
    given = np.array(eps(3, 5))
    toward = given[:, 1] - given[:, 0]
    for item, nearest in enumerate((2, 0, 1)):
        given[item, 2 + nearest] = given[item, 0] + 0.01 * toward[item] + 1e-4  # short, but in the right direction
    np.testing.assert_array_equal(closest_direction(jnp.asarray(given)), [2, 0, 1])


def test_the_length_of_a_direction_does_not_matter_and_its_sign_does() -> None:
    given = np.array(eps(1, 4))
    toward = given[:, 1] - given[:, 0]
    given[:, 2], given[:, 3] = given[:, 0] - 100 * toward, given[:, 0] + 0.01 * toward
    assert int(closest_direction(jnp.asarray(given))[0]) == 1


def test_a_concept_without_a_direction_is_not_chosen_before_one_that_points_to_the_prompt() -> None:
    given = np.array(eps(1, 4))
    given[:, 2] = given[:, 0]
    given[:, 3] = 0.5 * (given[:, 0] + given[:, 1])
    assert int(closest_direction(jnp.asarray(given))[0]) == 1
    assert np.isfinite(Casg(Negative()).combine((), jnp.asarray(given), moment(items=1))[0]).all()


@pytest.mark.parametrize("inner", [Negative(7.5, 3.0), Sld(7.5, 1.5, 0.5, 0.3, 0.4, 0.0)], ids=["negative", "sld"])
def test_one_choice_is_the_guard_inside(inner: Negative | Sld) -> None:
    """Through several steps, so that what the guard inside remembers is carried along."""
    only = texts(choices=1)
    assert only.bank is not None
    alone = Texts(only.prompt, only.uncond, only.bank[:, 0])
    latents = jnp.zeros((2, *SHAPE))
    state, other = Casg(inner).init(only, latents), inner.init(alone, latents)
    for step in range(3):
        given = eps(2, 3, seed=step)
        out, state = Casg(inner).combine(state, given, moment(step, items=2))
        expected, other = inner.combine(other, given, moment(step, items=2))
        np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(Casg(inner).contexts(only, jnp.int32(0)), inner.contexts(alone, jnp.int32(0)))


def test_the_rows_are_unconditional_prompt_and_the_bank() -> None:
    given = texts()
    contexts = Casg(Negative()).contexts(given, jnp.int32(0))
    assert contexts.shape[1] == Casg(Negative()).branches + 3
    np.testing.assert_array_equal(contexts[:, 0], given.uncond)
    np.testing.assert_array_equal(contexts[:, 1], given.prompt)
    np.testing.assert_array_equal(contexts[:, 2:], given.bank)


def test_a_part_without_a_negative_row_has_nothing_to_choose() -> None:
    (first, warm), (second, rest) = phases(Casg(sld_preset("weak")), 50)
    assert (warm, rest) == (15, 35)
    assert first.contexts(texts(), jnp.int32(0)).shape[1] == 2
    assert second.contexts(texts(), jnp.int32(20)).shape[1] == 5


def test_what_cannot_be_chosen_from_or_wrapped_is_refused() -> None:
    plain = Texts(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3)))
    for call in (
        lambda: Casg(Negative()).init(plain, jnp.zeros((1, 2, 2, 1))),
        lambda: Casg(Sld()).contexts(plain, jnp.int32(0)),
    ):
        with pytest.raises(InputError, match="texts to choose from"):
            call()
    with pytest.raises(InputError, match="three rows"):
        Casg(Cfg()).init(texts(), jnp.zeros((2, *SHAPE)))
