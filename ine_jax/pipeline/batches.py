"""Work in batches of one size: each result is fetched while the next one computes."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Sharding

from ine_jax.types import Array, HostArray


def in_batches(
    run: Callable[..., tuple[Array, ...]],
    arrays: Sequence[HostArray],
    rows: int,
    sharding: Sharding,
    finished: Callable[[int], None] | None = None,
) -> tuple[HostArray, ...]:
    """Return the results of `run` over batches of exactly `rows` items, the last one padded with its own last item.

    Args:
        arrays: of as many items, at least one.
        sharding: of the batches that `run` is given.
        finished: called with the number of items whose results are here.
    """
    count, done = len(arrays[0]), []
    pending: tuple[Array, ...] | None = None
    for first in range(0, count, rows):
        chunk = [_padded(a[first : first + rows], rows) for a in arrays]
        result = run(*jax.device_put(chunk, sharding))
        if pending is not None:
            done.append([np.asarray(each) for each in pending])
            if finished is not None:
                finished(first)
        pending = result
    done.append([np.asarray(each) for each in pending or ()])
    if finished is not None:
        finished(count)
    return tuple(np.concatenate(parts)[:count] for parts in zip(*done, strict=True))


def _padded(values: HostArray, rows: int) -> HostArray:
    missing = rows - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]) if missing else values
