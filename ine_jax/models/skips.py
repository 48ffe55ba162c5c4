"""Fourier filter on the skip connections of the UNet, one row edited against another (SAFREE, arXiv 2410.12761).

As in FreeU (arXiv 2309.11497) a skip connection is filtered where the features that it meets have one of the two
greatest widths of the UNet: 1280 and 640 in Stable Diffusion 1.x.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision

from ine_jax.types import Array

Mode: TypeAlias = Literal["low", "high", "all"]
Factor: TypeAlias = float | Array | np.ndarray | np.floating  # one number, or one per item: [batch]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("active", "backbone", "skip"), meta_fields=("mode", "rows")
)
@dataclass(frozen=True)
class SkipEdit:
    """What the UNet does to its skip connections when the last row of every item is a reference for the others.

    Rows are folded item by item: item · (branches + 1) + branch, the reference last.

    Attributes:
        active: bool [batch]; where False nothing changes for the item.
        backbone: b1, b2: factors of the first half of the channels that meet the skip, widest level first.
        skip: s1, s2: what replaces a coefficient of the skip's spectrum.
        mode: which frequencies may be replaced; static.
        rows: the branches that are edited; static.
    """

    active: Array
    backbone: tuple[Factor, Factor]
    skip: tuple[Factor, Factor]
    mode: Mode
    rows: tuple[int, ...]

    def kept(self, rows: Array) -> Array:
        """Return `rows` without the reference of every item: [batch · (branches + 1), ...] → [batch · branches, ...].

        Items are the slower index, so that nothing moves between devices that share a batch.
        """
        return _fold(self._items(rows)[:, :-1])

    def __call__(self, x: Array, skip: Array, widths: tuple[int, ...]) -> tuple[Array, Array]:
        """Return features [batch · branches, h, w, c] and the kept rows of their skip, both edited.

        `x` has no reference rows, `skip` has them; `widths` are those of all levels of the UNet.
        """
        items, skips = self._items(x), self._items(skip)
        kept, reference = skips[:, :-1], skips[:, -1]
        widest = sorted(set(widths), reverse=True)[:2]
        if x.shape[-1] in widest:
            level = widest.index(x.shape[-1])
            gain, scale = _column(self.backbone[level]), _column(self.skip[level])
            items = self._edited(items, lambda row: _half(row, gain))
            kept = self._edited(kept, lambda row: fourier_filter(row, reference, scale, self.mode))
        return _fold(items), _fold(kept)

    def _items(self, rows: Array) -> Array:
        return rows.reshape(self.active.shape[0], -1, *rows.shape[1:])

    def _edited(self, items: Array, edit: Callable[[Array], Array]) -> Array:
        """Return [batch, branch, h, w, c] with the named branches edited for the active items."""
        active = self.active[:, None, None, None]
        branches = [items[:, i] for i in range(items.shape[1])]
        for i in self.rows:
            branches[i] = jnp.where(active, edit(branches[i]).astype(items.dtype), branches[i])
        return jnp.stack(branches, axis=1)


def fourier_filter(skip: Array, reference: Array, scale: Factor, mode: Mode) -> Array:
    """Return `skip` with coefficients of its spectrum replaced by `scale`, float32 [batch, h, w, c].

    F is the two-dimensional discrete Fourier transform over h and w, its window the frequencies -1 and 0 of both axes:

        low:  inside the window, F(skip) is kept where Re(F(reference) - F(skip)) > 0 and replaced elsewhere
        high: outside the window, it is replaced where |Re F(reference)| > |Re F(skip)|
        all:  both

    The real part of the inverse is returned, as in the published code (jaehong31/SAFREE, free_lunch_utils.py), which
    replaces coefficients by s where FreeU multiplies them.

    The transforms are matrix products: they split over a batch that is shared by devices, which XLA's FFT does not,
    the sides are short, and the low mode needs two frequencies per axis only. `scale` is a number or [batch, 1, 1, 1].
    """
    skip, reference = skip.astype(jnp.float32), reference.astype(jnp.float32)
    height, width = skip.shape[1:3]
    (down, near_down), (across, near_across) = _waves(height, mode), _waves(width, mode)
    spectrum, other = (_transform(values, down, across) for values in (skip, reference))
    near = jnp.asarray(np.outer(near_down, near_across)[None, :, :, None])
    low = near & ~(other.real - spectrum.real > 0)
    high = ~near & (jnp.abs(other.real) > jnp.abs(spectrum.real))
    replaced = {"low": low, "high": high, "all": low | high}[mode]
    scale = jnp.asarray(scale).astype(jnp.complex64)
    change = jnp.where(replaced, scale - spectrum, jnp.complex64(0))
    return skip + _transform(change, down.conj().T, across.conj().T).real / (height * width)


def _waves(size: int, mode: Mode) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the Fourier matrix [frequency, size], zero frequency at size // 2, and which lie in the window."""
    window = np.arange(max(size // 2 - 1, 0), size // 2 + 1)
    index = window if mode == "low" else np.arange(size)
    waves = np.exp(-2j * np.pi * np.outer(index - size // 2, np.arange(size)) / size)
    return waves.astype(np.complex64), np.isin(index, window)


def _transform(values: Array, down: np.ndarray, across: np.ndarray) -> Array:
    """[batch, h, w, c] multiplied by `down` [k, h] and `across` [l, w]: complex64 [batch, k, l, c]."""
    return jnp.einsum("kh,lw,bhwc->bklc", down, across, values.astype(jnp.complex64), precision=Precision.HIGHEST)


def _half(row: Array, gain: Array) -> Array:
    """[batch, h, w, c] with the first half of its channels multiplied."""
    first, second = jnp.split(row, [row.shape[-1] // 2], axis=-1)
    return jnp.concatenate([(first.astype(jnp.float32) * gain).astype(row.dtype), second], axis=-1)


def _fold(items: Array) -> Array:
    """[batch, branch, ...] → [batch · branch, ...]."""
    return items.reshape(-1, *items.shape[2:])


def _column(factor: Factor) -> Array:
    """A factor of [batch, h, w, c] in float32: a scalar, or [batch, 1, 1, 1]."""
    value = jnp.asarray(factor, jnp.float32)
    return value if value.ndim == 0 else value.reshape(-1, 1, 1, 1)
