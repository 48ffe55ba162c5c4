"""The numbers of `torch.randn` for a seed, without torch, so that published seeds give the published images.

*torch-cpu* is `torch.randn(size, generator=torch.Generator().manual_seed(seed))`: MT19937 seeded by the 32-bit seed,
uniforms of 24 bits, Box-Muller in blocks of 16 (8 radii, then 8 angles), the last block sampled anew where the size is
no multiple of 16; below 16 numbers, pairs in double precision from uniforms of 53 bits. Source: PyTorch,
`aten/src/ATen/native/cpu/DistributionTemplates.h` and `aten/src/ATen/core/DistributionsHelper.h`. It agrees with torch
2.13 within 5e-7, on sizes below and above 16, multiples of 16 and others.

*torch-cuda* is the same call with `device="cuda"`: thread i of a grid of ceil(size / 256) blocks of 256 makes number
i, the first of the four normals of Philox 4x32-10 for key (seed, 0) and counter (0, 0, i, 0). Each thread samples four
at a time, the other three for the elements one, two and three grids further on; there are none as long as the GPU has a
thread per element. A fresh generator's offset, the counter's first word, is 0. Source: PyTorch,
`aten/src/ATen/native/cuda/DistributionTemplates.h`; curand's Box-Muller takes both uniforms from 32 bits and moves them
by half a step, and its first result is the sine. Verified: the generator by the known answers of Random123, the whole
by outputs of `torch.randn` that users of GPUs published, to the four decimals printed. Not verified: further decimals,
where curand's own sine and logarithm are approximations.

Both are float32. float16 noise of a CPU script is another stream; on CUDA it is this one, rounded.

Logarithm, sine and cosine are Cephes' polynomials for single precision (Moshier), as in torch's vectorised CPU code.
NumPy's own depend on the processor; these are sums and products alone, the same bits on every host.
"""

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Integer, UInt32

from ine_jax.errors import InputError
from ine_jax.types import HostLatents, LatentShape

Seeds: TypeAlias = Integer[np.ndarray, "batch"]
Rows: TypeAlias = Float[np.ndarray, "batch size"]
MAX_CUDA = 65_536  # numbers; the layout of more depends on how many threads a GPU holds
F32 = np.float32
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_STEP, _STEP_2PI = F32(2.0**-32), F32(2.0**-32 * 2 * np.pi)
_LOG = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
    *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)
_LN2 = 0.693359375, -2.12194440e-4
_SINE = -1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1
_COSINE = 2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2
_PI_4 = 0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8  # in three parts


def torch_noise(device: Literal["cpu", "cuda"], seeds: Seeds, shape: LatentShape) -> HostLatents:
    """Return torch's noise of shape [1, c, h, w] from a fresh generator for each seed, as [B, h, w, c]."""
    height, width, channels = shape
    normal = cpu_normal if device == "cpu" else cuda_normal
    flat = normal(np.asarray(seeds, np.uint32), height * width * channels)
    return np.ascontiguousarray(flat.reshape(-1, channels, height, width).transpose(0, 2, 3, 1))


def cpu_normal(seeds: Seeds, size: int) -> Rows:
    """Return `torch.randn(size)` on the CPU for each seed."""
    if size < 16:
        return _cpu_pairs(seeds, size)
    whole, rest = divmod(size, 16)
    words = _mersenne(seeds, size + (16 if rest else 0))
    uniform = (words & np.uint32(0xFFFFFF)).astype(F32) * F32(2.0**-24)
    normal = np.empty((len(seeds), size), F32)
    normal[:, : 16 * whole] = _blocks(uniform[:, : 16 * whole])
    if rest:
        normal[:, -16:] = _blocks(uniform[:, size:])
    return normal


def _mersenne(seeds: Seeds, count: int) -> UInt32[np.ndarray, "batch count"]:
    """Return raw words of MT19937; NumPy's frozen legacy generator is seeded as torch's."""
    rows = [np.random.RandomState(int(seed)).randint(0, 2**32, count, np.uint32) for seed in seeds]
    return np.stack(rows) if rows else np.zeros((0, count), np.uint32)


def _blocks(uniform: Rows) -> Float[np.ndarray, "batch size"]:
    """Apply Box-Muller to every 16 numbers: 8 radii from the first half, 8 angles from the second."""
    parts = uniform.reshape(len(uniform), uniform.shape[1] // 16, 2, 8)
    radius = np.sqrt(F32(-2) * log(F32(1) - parts[:, :, 0]))
    sine, cosine = sine_cosine(F32(2 * np.pi) * parts[:, :, 1])
    return np.stack([radius * cosine, radius * sine], axis=2).reshape(uniform.shape)


def _cpu_pairs(seeds: Seeds, size: int) -> Rows:
    """Return fewer than 16 numbers, in pairs: angle first, then radius, each of two words, the higher one first."""
    pairs = -(-size // 2)
    words = _mersenne(seeds, 4 * pairs).astype(np.uint64).reshape(-1, pairs, 2, 2)
    bits = (words[..., 0] << np.uint64(32) | words[..., 1]) & np.uint64(2**53 - 1)
    uniform = bits.astype(np.float64) * 2.0**-53
    angle, radius = 2 * np.pi * uniform[..., 0], np.sqrt(-2 * np.log1p(-uniform[..., 1]))
    pair = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pair.reshape(len(words), 2 * pairs)[:, :size].astype(F32)


def cuda_normal(seeds: Seeds, size: int) -> Rows:
    """Return `torch.randn(size)` on a CUDA device for each seed; raises `InputError` above 65,536."""
    if size > MAX_CUDA:
        given = f"torch-cuda noise of {size} numbers per item"
        raise InputError(given, f"at most {MAX_CUDA}", "generate smaller images, or give a file of latents")
    thread = np.arange(size, dtype=np.uint32)[None]
    key = np.asarray(seeds, np.uint32)[:, None]
    zero = np.zeros_like(thread)
    first, second, *_ = philox((zero, zero, thread, zero), (key, np.zeros_like(key)))
    radius = np.sqrt(F32(-2) * log(first.astype(F32) * _STEP + _STEP / F32(2)))
    noise: np.ndarray = radius * sine_cosine(second.astype(F32) * _STEP_2PI + _STEP_2PI / F32(2))[0]
    return noise


def philox(counter: tuple[np.ndarray, ...], key: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Return Philox 4x32-10 (Salmon et al. 2011): four uint32 arrays from a counter of four and a key
    of two; they broadcast.

    Ten rounds of two products 32 x 32 -> 64 bits; between rounds a Weyl constant is added to each word of the key.
    """
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        a, b = c0.astype(np.uint64) * _MULTIPLIERS[0], c2.astype(np.uint64) * _MULTIPLIERS[1]
        c0, c1 = _high(b) ^ c1 ^ k0, b.astype(np.uint32)
        c2, c3 = _high(a) ^ c3 ^ k1, a.astype(np.uint32)
        k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return c0, c1, c2, c3


def _high(product: np.ndarray) -> np.ndarray:
    return np.asarray(product >> np.uint64(32), np.uint32)


def log(x: np.ndarray) -> np.ndarray:
    """Return the logarithm of normal positive float32: a polynomial on the mantissa in sqrt(1/2) ... sqrt(2)."""
    bits = np.ascontiguousarray(x, F32).view(np.int32)
    mantissa = ((bits & 0x7FFFFF) | 0x3F000000).view(F32)
    small = mantissa < F32(np.sqrt(0.5))
    exponent = ((bits >> 23) - 126 - small).astype(F32)
    x = (mantissa - F32(1)) + np.where(small, mantissa, F32(0))
    square = x * x
    y = _polynomial(_LOG, x) * x * square + exponent * F32(_LN2[1]) - square * F32(0.5)
    result: np.ndarray = x + y + exponent * F32(_LN2[0])
    return result


def sine_cosine(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sine and cosine of float32 angles from 0 to a few turns: polynomials on each octant."""
    octant = ((x * F32(4 / np.pi)).astype(np.int32) + 1) & ~1
    for part in _PI_4:
        x = x - octant.astype(F32) * F32(part)
    square = x * x
    cosine = _polynomial(_COSINE, square) * square * square - F32(0.5) * square + F32(1)
    sine = _polynomial(_SINE, square) * square * x + x
    quarter = octant >> 1 & 3
    swapped = quarter & 1 == 1
    sine, cosine = np.where(swapped, cosine, sine), np.where(swapped, sine, cosine)
    return np.where(quarter > 1, -sine, sine), np.where((quarter == 1) | (quarter == 2), -cosine, cosine)


def _polynomial(factors: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    y = np.full_like(x, factors[0])
    for factor in factors[1:]:
        y = y * x + F32(factor)
    return y
