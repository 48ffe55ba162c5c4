"""The negative's own scale, and the choice between two rows and three."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ine_jax.errors import InputError
from ine_jax.guidance import Cfg, Negative, Texts, negative_guidance
from tests.support.guards import moment


def test_two_rows_where_the_scales_are_tied_and_three_otherwise() -> None:
    assert negative_guidance(7.5).branches == 2
    assert negative_guidance(7.5, 6.5) == Cfg(7.5)
    assert negative_guidance(7.3, 7.3 - 1) == Cfg(7.3)
    assert negative_guidance(7.5, 3.0) == Negative(7.5, 3.0)
    assert negative_guidance(np.array([2.0, 5.0]), np.array([1.0, 4.0])).branches == 2
    assert negative_guidance(np.array([2.0, 5.0]), np.array([1.0, 3.0])).branches == 3


def test_a_traced_scale_takes_three_rows() -> None:
    assert jax.jit(lambda s: jnp.int32(negative_guidance(7.5, s).branches))(6.5) == 3


@settings(max_examples=25, deadline=None)
@given(w=st.floats(1.0, 20.0), seed=st.integers(0, 1000))
def test_at_s_of_w_minus_one_three_rows_are_the_two(w: float, seed: int) -> None:
    """The unconditional row cancels: ε_u (1 - w + s) = 0."""
    eps = np.random.default_rng(seed).standard_normal((2, 3, 2, 2, 1)).astype(np.float32)
    three, _ = Negative(w, w - 1).combine((), jnp.asarray(eps), moment())
    two, _ = Cfg(w).combine((), jnp.asarray(eps[:, [2, 1]]), moment())
    np.testing.assert_allclose(three, two, rtol=1e-4, atol=1e-4)


def test_the_negative_takes_the_unconditional_slot_of_cfg() -> None:
    prompt, uncond, negative = (jnp.full((1, 2, 3), float(i)) for i in range(3))
    step = jnp.int32(0)
    np.testing.assert_array_equal(Cfg().contexts(Texts(prompt, uncond), step), jnp.stack([uncond, prompt], 1))
    with_negative = Texts(prompt, uncond, negative)
    np.testing.assert_array_equal(Cfg().contexts(with_negative, step), jnp.stack([negative, prompt], 1))
    np.testing.assert_array_equal(Negative().contexts(with_negative, step), jnp.stack([uncond, prompt, negative], 1))


def test_a_missing_negative_is_refused_in_three_lines() -> None:
    texts = Texts(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3)))
    for call in (
        lambda: Negative().init(texts, jnp.zeros((1, 2, 2, 1))),
        lambda: Negative().contexts(texts, jnp.int32(0)),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert len(str(error.value).splitlines()) == 3
