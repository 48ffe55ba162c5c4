"""Noise from a file: both layouts, both formats, and everything else refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ine_jax.errors import InputError
from ine_jax.pipeline.latents import as_noise, read_latents

SHAPE = (6, 5, 4)
NOISE = np.random.default_rng(0).standard_normal((3, *SHAPE)).astype(np.float32)
PLANES = np.ascontiguousarray(NOISE.transpose(0, 3, 1, 2))


def write(path: Path, array: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        save_file(array if isinstance(array, dict) else {"latents": array}, path)
    return path


@pytest.mark.parametrize("name", ["noise.npy", "noise.safetensors"])
@pytest.mark.parametrize("array", [NOISE, PLANES], ids=["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_both_layouts_are_read(tmp_path: Path, name: str, array: np.ndarray, dtype: Any) -> None:
    found = read_latents(write(tmp_path / name, array.astype(dtype)), 3)
    rows = as_noise(found[1:], SHAPE, "NHWC" if array is NOISE else "NCHW")
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, NOISE[1:].astype(dtype).astype(np.float32))


WRONG: dict[str, tuple[str, Any, str]] = {
    "count": ("a.npy", NOISE[:2], "2 for 3 items"),
    "axes": ("a.npy", NOISE[0], "float32"),
    "integers": ("a.npy", NOISE.astype(np.int32), "int32"),
    "integers in safetensors": ("a.safetensors", NOISE.astype(np.int32), "I32"),
    "two tensors": ("a.safetensors", {"a": NOISE, "b": NOISE}, "2 tensors"),
    "objects": ("a.npy", np.array([{}], object), "of object, not of numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_files_are_refused(tmp_path: Path, case: str) -> None:
    name, array, told = WRONG[case]
    with pytest.raises(InputError, match=told):
        read_latents(write(tmp_path / name, array), 3)


@pytest.mark.parametrize("name", ["a.npy", "a.safetensors"])
def test_damaged_and_absent_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_latents(tmp_path / name, 3)
    data = write(tmp_path / name, NOISE).read_bytes()
    for cut in (0, 5, 60, len(data) - 1):
        (tmp_path / name).write_bytes(data[:cut])
        with pytest.raises(InputError):
            read_latents(tmp_path / name, 3)


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[6, 5, 4\]"):
        as_noise(NOISE, (5, 6, 4), "NHWC")
    with pytest.raises(InputError, match=r"allowed: \[4, 6, 5\], layout NCHW"):
        as_noise(NOISE, (6, 5, 4), "NCHW")
    cube = np.arange(64, dtype=np.float32).reshape(1, 4, 4, 4)  # both layouts fit: the argument decides
    np.testing.assert_array_equal(as_noise(cube, (4, 4, 4), "NHWC"), cube)
    np.testing.assert_array_equal(as_noise(cube, (4, 4, 4), "NCHW"), cube.transpose(0, 2, 3, 1))
    broken = NOISE.copy()
    broken[1, 2, 3, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        as_noise(broken, SHAPE, "NHWC")
