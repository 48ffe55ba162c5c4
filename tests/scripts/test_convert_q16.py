"""Q16's prompts: from a pickle of any protocol that Python wrote them in, without executing it."""

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from ine_jax.errors import InputError
from scripts.convert_q16 import convert, main, read_numbers

PROMPTS = np.random.default_rng(0).standard_normal((2, 768)).astype(np.float16)


def dumped(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("array", [PROMPTS, PROMPTS.astype(np.float32), np.asfortranarray(PROMPTS.astype(np.float64))])
def test_arrays_of_every_protocol(array: np.ndarray, protocol: int, tmp_path: Path) -> None:
    found = read_numbers(dumped(tmp_path / "prompts.p", array, protocol))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_an_array_of_old_numpy_and_python_2(tmp_path: Path) -> None:
    """NumPy 1 named its module otherwise; Python 2 wrote bytes as text."""
    array = np.array([[1.5, -2], [0.25, 3]], np.float32)
    (tmp_path / "old.p").write_bytes(pickle.dumps(array, 2).replace(b"numpy._core.multi", b"numpy.core.multi"))
    np.testing.assert_array_equal(read_numbers(tmp_path / "old.p"), array)
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01K\x02K\x02\x86" + kind + b"\x89U" + bytes([array.nbytes]) + array.tobytes() + b"tb"
    (tmp_path / "2.p").write_bytes(b"\x80\x02" + made + state + b".")
    np.testing.assert_array_equal(pickle.loads((tmp_path / "2.p").read_bytes(), encoding="latin1"), array)  # noqa: S301
    np.testing.assert_array_equal(read_numbers(tmp_path / "2.p"), array)


def test_lists_are_read_too(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_numbers(dumped(tmp_path / "p", [[1.5, 2], (3, 4)])), [[1.5, 2], [3, 4]])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


@pytest.mark.parametrize(
    "value",
    [
        Evil(),
        {"prompts": PROMPTS},
        [[1.0, 2.0], [3.0]],
        [[Evil()]],
        [[1e999, 10**400]],
        np.array([1, 2]),
        np.array([Evil()], object),
        np.zeros(2, ">f4"),
        "text",
        [],
    ],
    ids=["object", "mapping", "ragged", "nested", "huge", "short", "objects", "other-endian", "text", "empty"],
)
def test_anything_else_is_rejected_and_not_executed(
    value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="nothing of it was executed"):
        read_numbers(dumped(tmp_path / "p", value))
    assert not capsys.readouterr().out


def test_damaged_files_are_rejected(tmp_path: Path) -> None:
    raw = pickle.dumps(PROMPTS, 4)
    for bad in (b"", raw[:-100], raw + b"x", raw.replace(struct.pack("<H", 768), struct.pack("<H", 767), 1)):
        (tmp_path / "p").write_bytes(bad)
        with pytest.raises(InputError):
            read_numbers(tmp_path / "p")
    with pytest.raises(InputError, match="No such file"):
        read_numbers(tmp_path / "none")


def test_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = dumped(tmp_path / "prompts.p", PROMPTS), tmp_path / "q16.safetensors"
    monkeypatch.setattr("sys.argv", ["convert_q16", str(source), str(target)])
    main()
    assert "2 x 768 float16" in capsys.readouterr().out
    held = safetensors.numpy.load_file(target)
    assert list(held) == ["prompts"]
    np.testing.assert_array_equal(held["prompts"], PROMPTS)
    with pytest.raises(SystemExit, match="a new file"):
        main()


@pytest.mark.parametrize("array", [PROMPTS[:1], PROMPTS[0], np.full((2, 4), np.nan, np.float32)])
def test_prompts_of_another_shape_are_rejected(array: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two finite vectors"):
        convert(dumped(tmp_path / "p", array), tmp_path / "q16.safetensors")
    assert not (tmp_path / "q16.safetensors").exists()
