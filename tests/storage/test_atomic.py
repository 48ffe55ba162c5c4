"""Files are complete or absent, private unless shared, and links are not followed; one safetensors writer."""

import os
import stat
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ine_jax.errors import InputError
from ine_jax.storage.atomic import _temporary, atomic_file, write_atomic, write_durable, write_json
from ine_jax.storage.safetensors_writer import safetensors_bytes, write_safetensors

ARRAYS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.ones((2, 1), ml_dtypes.bfloat16),
    "ids": np.arange(3, dtype=np.int64)[::-1],
    "empty": np.zeros((0, 4), np.float16),
}


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
def test_files_are_private_unless_shared(tmp_path: Path) -> None:
    write_atomic(tmp_path / "run.json", "{}")
    write_json(tmp_path / "bench.json", {}, shared=True)
    write_safetensors(tmp_path / "e.safetensors", ARRAYS)
    assert [mode(tmp_path / name) for name in ("run.json", "bench.json", "e.safetensors")] == [0o600, 0o640, 0o640]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_replaced_and_never_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("kept")
    link.symlink_to(target)
    with pytest.raises(FileExistsError):
        write_durable(link, b"new")
    write_atomic(link, "new")
    assert (target.read_text(), link.read_text(), link.is_symlink()) == ("kept", "new", False)


def test_a_temporary_file_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    _temporary(tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    write_atomic(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_safetensors_library_reads_what_is_written_bit_for_bit(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", ARRAYS, {"model": "Gauß"})
    found = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt", "model": "Gauß"}
    assert safetensors_bytes(ARRAYS, {"model": "Gauß"}) == (tmp_path / "a.safetensors").read_bytes()


def test_equal_tensors_give_equal_bytes_in_any_order() -> None:
    notes = {str(k): "x" for k in range(8)}
    backwards = safetensors_bytes(dict(reversed(ARRAYS.items())), dict(reversed(notes.items())))
    assert safetensors_bytes(ARRAYS, notes) == backwards


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    class Lazy:
        shape, dtype = (1024, 1024), np.dtype(np.float32)

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return np.zeros(self.shape, self.dtype)

    tracemalloc.start()
    write_safetensors(tmp_path / "a.safetensors", {str(k): Lazy() for k in range(8)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "a.safetensors").stat().st_size > 32 << 20
    assert peak < 10 << 20


def test_a_dtype_that_is_not_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bool"):
        write_safetensors(tmp_path / "a.safetensors", {"a": np.zeros(2, bool)})
    assert list(tmp_path.iterdir()) == []
