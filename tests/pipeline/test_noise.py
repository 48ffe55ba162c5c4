"""Noise belongs to the item: every bit of a row depends on its seed alone."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from ine_jax.errors import InputError
from ine_jax.pipeline.noise import item_noise, item_seeds
from tests.support.cases import sample
from tests.support.devices import environment

SHAPE = (8, 8, 4)


def test_a_row_is_the_plain_normal_of_its_key() -> None:
    rows = item_noise([0, 7, 2**32 - 1], SHAPE)
    for seed, row in zip([0, 7], rows, strict=False):
        np.testing.assert_array_equal(row, jax.random.normal(jax.random.key(seed), SHAPE))
    key = jax.random.key(np.uint32(2**32 - 1))
    np.testing.assert_array_equal(rows[2], jax.random.normal(key, SHAPE))


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_batches_do_not_change_a_bit(batch: int) -> None:
    seeds = list(range(100, 124))
    whole = item_noise(seeds, SHAPE)
    parts = [item_noise(seeds[i : i + batch], SHAPE) for i in range(0, len(seeds), batch)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_order_does_not_change_a_bit() -> None:
    order = np.random.default_rng(0).permutation(32)
    np.testing.assert_array_equal(item_noise(order.tolist(), SHAPE), item_noise(list(range(32)), SHAPE)[order])


def test_noise_is_standard_normal_and_differs_between_seeds() -> None:
    rows = item_noise(list(range(64)), SHAPE)
    assert abs(rows.mean()) < 0.03
    assert abs(rows.std() - 1) < 0.03
    assert len({row.tobytes() for row in rows}) == 64


CODE = """
import sys, jax
from ine_jax.pipeline.noise import item_noise
assert jax.device_count() == int(sys.argv[1])
sys.stdout.buffer.write(item_noise(list(range(16)), (8, 8, 4)).tobytes())
"""


@pytest.mark.parametrize("devices", sample([1, 2, 4, 8], (8,)))
def test_device_counts_do_not_change_a_bit(devices: int) -> None:
    command = [sys.executable, "-c", CODE, str(devices)]
    made = subprocess.run(command, capture_output=True, check=True, env=environment(devices))
    assert made.stdout == item_noise(list(range(16)), SHAPE).tobytes()


def test_one_number_counts_up() -> None:
    assert item_seeds(5, 3).tolist() == [5, 6, 7]
    assert item_seeds([9, 9], 2).tolist() == [9, 9]
    assert item_noise(3, SHAPE).shape == (1, *SHAPE)


@pytest.mark.parametrize(("seeds", "count"), [([1, 2], 3), (-1, 1), (2**32, 1), (2**32 - 1, 2), ([1, -5], 2)])
def test_wrong_seeds_are_refused(seeds: int | list[int], count: int) -> None:
    with pytest.raises(InputError):
        item_seeds(seeds, count)
