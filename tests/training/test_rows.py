"""The rows of a device: together they are the batch, and each has the bits that the whole batch has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.training.rows import Share, normal_rows


@pytest.mark.parametrize(("total", "parts"), [(8, 1), (8, 4), (7, 3), (2, 5)])
def test_shares_cover_every_row_once(total: int, parts: int) -> None:
    found = [Share(i, parts).rows(total) for i in range(parts)]
    assert len({len(numbers) for numbers, _ in found}) == 1
    assert [int(n) for numbers, real in found for n in np.asarray(numbers)[np.asarray(real)]] == list(range(total))
    assert all(int(numbers.max()) < total for numbers, _ in found)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_a_row_has_the_bits_of_the_whole_draw(seed: int) -> None:
    key, shape = jax.random.key(seed), (5, 3, 4)
    whole = jax.jit(lambda: jax.random.normal(key, (300, *shape)))()
    rows = jnp.asarray([0, 299, 17, 17])
    np.testing.assert_array_equal(jax.jit(lambda r: normal_rows(key, r, shape))(rows), whole[rows])
