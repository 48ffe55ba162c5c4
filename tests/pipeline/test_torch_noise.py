"""The numbers of torch.randn without torch: the CPU's against torch itself, the GPU's against what GPUs printed."""

from typing import Any

import numpy as np
import pytest

from ine_jax.errors import InputError
from ine_jax.pipeline.torch_noise import MAX_CUDA, cpu_normal, cuda_normal, log, philox, sine_cosine, torch_noise
from tests.support import paths

GOLDEN = paths.GOLDEN / "torch_noise.npz"
TOLERANCE = 5e-7

# Random123's kat_vectors, "philox4x32 10": counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]

# Printed by users of torch.randn(..., device="cuda"): seed 0 in a course on Triton kernels, seed 42 in FlashInfer's
# documentation of LogitsPipe.
PRINTED = {
    0: """
        -0.9247 -0.4253 -2.6438  0.1452 -0.1209 -0.5797 -0.6229 -0.3284 -1.0745 -0.3631 -1.6711  2.2655  0.3117 -0.1842
        1.2866  1.1820 -0.1271  1.2169  1.4353  1.0605 -0.4941 -1.4244 -0.7244 -1.2973  0.0697 -0.0074  1.8969  0.6878
        -0.0779 -0.8373  1.3506 -0.2879 -0.5965 -0.3283 -0.9086 -0.8059 -0.7407 -0.0504  0.5435  1.5150  0.0141  0.4532
        1.6349  0.7124 -0.1806  1.0252 -1.4622 -0.7554 -0.1836  0.3824  0.3918 -0.0830  0.8971 -1.1123  0.1116  0.4863
        -0.5499 -0.3231 -0.5469  0.9049  0.2837  0.1210  0.4730 -1.0823""",
    42: "0.1940 2.1614 -0.1721 0.8491 -1.9244 0.6530 -0.6494 -0.8175 0.5280 -1.2753",
}


def words(text: str) -> list[np.ndarray]:
    return [np.array([int(word, 16)], np.uint32) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_gives_the_known_answers(counter: str, key: str, result: str) -> None:
    assert philox(tuple(words(counter)), tuple(words(key))) == tuple(words(result))


@pytest.mark.parametrize("seed", PRINTED)
def test_cuda_noise_is_what_gpus_printed(seed: int) -> None:
    printed = np.array(PRINTED[seed].split(), np.float32)
    np.testing.assert_allclose(cuda_normal(np.array([seed]), len(printed))[0], printed, rtol=0, atol=5.1e-5)


def test_cuda_noise_whose_layout_depends_on_the_gpu_is_refused() -> None:
    assert cuda_normal(np.array([1]), MAX_CUDA).shape == (1, MAX_CUDA)
    with pytest.raises(InputError, match="65537 numbers"):
        cuda_normal(np.array([1]), MAX_CUDA + 1)


def test_cpu_noise_is_what_torch_stored() -> None:
    with np.load(GOLDEN, allow_pickle=False) as golden:
        assert len(golden.files) == 24
        for key in golden.files:
            seed, size = map(int, key.split("/"))
            np.testing.assert_allclose(
                cpu_normal(np.array([seed]), size)[0], golden[key], rtol=0, atol=TOLERANCE, err_msg=key
            )


@pytest.mark.oracle
@pytest.mark.parametrize(
    "shape", [(1, 1, 2), (1, 3, 5), (1, 4, 4), (3, 3, 4), (8, 8, 4), (5, 7, 3), (64, 64, 4), (64, 48, 4)]
)
def test_cpu_noise_is_torchs(shape: tuple[int, int, int]) -> None:
    torch = pytest.importorskip("torch")
    seeds = np.array([0, 1, 42, 31337, 2**31, 2**32 - 1], np.uint32)
    height, width, channels = shape

    def drawn(seed: Any) -> np.ndarray:
        generator = torch.Generator().manual_seed(int(seed))
        return torch.randn((1, channels, height, width), generator=generator)[0].permute(1, 2, 0).numpy()

    np.testing.assert_allclose(torch_noise("cpu", seeds, shape), [drawn(s) for s in seeds], rtol=0, atol=TOLERANCE)


@pytest.mark.oracle
def test_cpu_noise_is_torchs_in_the_tails() -> None:
    """A million numbers: the tails are where approximations part."""
    torch = pytest.importorskip("torch")
    for seed in range(64):
        drawn = torch.randn(16384, generator=torch.Generator().manual_seed(seed)).numpy()
        np.testing.assert_allclose(cpu_normal(np.array([seed]), 16384)[0], drawn, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 3, 4), (8, 8, 4)])
def test_a_row_belongs_to_its_seed_alone(device: Any, shape: tuple[int, int, int]) -> None:
    seeds = np.array([5, 0, 2**32 - 1, 5], np.uint32)
    together = torch_noise(device, seeds, shape)
    assert together.dtype == np.float32
    assert together.shape == (4, *shape)
    for seed, row in zip(seeds, together, strict=True):
        np.testing.assert_array_equal(torch_noise(device, np.array([seed]), shape)[0], row)
    assert torch_noise(device, seeds[:0], shape).shape == (0, *shape)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_it_is_standard_normal(device: Any) -> None:
    noise = torch_noise(device, np.arange(16), (64, 64, 4))
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs(np.corrcoef(noise.reshape(16, -1)) - np.eye(16)).max() < 0.04


def test_the_elementary_functions() -> None:
    angles = np.linspace(0, 2 * np.pi, 100_001).astype(np.float32)
    exact = np.sin(angles.astype(np.float64)), np.cos(angles.astype(np.float64))
    np.testing.assert_allclose(sine_cosine(angles), exact, rtol=0, atol=1.5e-7)
    x = np.exp(np.linspace(np.log(2.0**-33), 0, 100_001)).astype(np.float32)
    np.testing.assert_allclose(log(x), np.log(x.astype(np.float64)), rtol=2e-7, atol=1e-7)
