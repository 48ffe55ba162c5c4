"""The reader of torch files: values and views, both layouts, inert names, and the bounds."""

import pickle
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.embeddings import torch_bytes
from ine_jax.errors import InputError
from ine_jax.storage.pickles import Placeholder, read_pickle
from ine_jax.storage.pickles.opcodes import PickleError, interpret
from tests.support.hostile_files import archive, tensor_opcodes, text


def write(folder: Path, raw: bytes) -> Path:
    path = folder / "x.pt"
    path.write_bytes(raw)
    return path


def test_a_tensor_is_a_view_of_the_file_and_costs_no_memory(tmp_path: Path) -> None:
    big = {"state_dict": {f"layer.{i}": np.full((1024, 1024), i, np.float32) for i in range(16)}}  # 64 MiB
    path = write(tmp_path, torch_bytes(big))
    tracemalloc.start()
    stored: Any = read_pickle(path)
    found = stored["state_dict"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert found["layer.7"][3, 3] == 7.0
    assert not found["layer.7"].flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        found["layer.7"][0] = 1.0


def test_shared_storages_offsets_and_strides(tmp_path: Path) -> None:
    numbers = np.arange(16, dtype=np.float32)
    shapes: dict[str, Any] = {
        "a": {},
        "b": {"offset": 8, "size": (8,), "stride": (1,)},
        "t": {"size": (8, 2), "stride": (1, 8)},
    }
    stream = b"\x80\x02}(" + b"".join(text(key) + tensor_opcodes(**how) for key, how in shapes.items()) + b"u."
    found: Any = read_pickle(write(tmp_path, archive(stream, {"0": numbers.tobytes()})), strict=True)
    np.testing.assert_array_equal(found["a"], numbers.reshape(2, 8))
    np.testing.assert_array_equal(found["b"], numbers[8:])
    np.testing.assert_array_equal(found["t"], numbers.reshape(2, 8).T)


def test_many_views_of_one_storage_are_bounded(tmp_path: Path) -> None:
    keys = b"".join(text(str(i)) + tensor_opcodes() for i in range(2000))
    stream = b"\x80\x02}(" + keys + b"u."
    found: Any = read_pickle(write(tmp_path, archive(stream, {"0": bytes(64)})))
    assert len(found) == 2000  # small beside their own names
    wide = {"count": 1 << 18, "size": (1 << 18,), "stride": (1,)}
    keys = b"".join(text(str(i)) + tensor_opcodes(**wide) for i in range(9))
    with pytest.raises(InputError, match="4 times the file"):
        read_pickle(write(tmp_path, archive(b"\x80\x02}(" + keys + b"u.", {"0": bytes(1 << 20)})))


class Callback:
    """What a trainer leaves in a checkpoint."""

    def __init__(self) -> None:
        self.best = 0.5


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_of_a_trainer_become_inert_names(tmp_path: Path, protocol: int) -> None:
    value = {
        "callbacks": {Callback: {"every": 3}},
        "one": Callback(),
        "config": OrderedDict(a=1),
        "raw": b"abc",
        "path": Path("/x"),
        "set": {1, 2},
        "nested": (1, [2.5, {"x": None}]),
    }
    stream = pickle.dumps(value, protocol)
    found: Any = read_pickle(write(tmp_path, archive(stream)))
    named = Placeholder(f"{__name__}.Callback")
    assert found["callbacks"] == {named: {"every": 3}}
    assert isinstance(found["one"], Placeholder)
    assert found["config"] == {"a": 1}
    assert found["path"] == Placeholder("pathlib.PosixPath")
    assert sorted(found["set"]) == [1, 2]
    assert found["nested"] == (1, [2.5, {"x": None}])
    with pytest.raises(InputError, match="does not need"):
        read_pickle(write(tmp_path, archive(stream)), strict=True)


@pytest.mark.parametrize(
    "wanted", ["cos\nsystem\n", "c__builtin__\neval\n", "csubprocess\nPopen\n", "cbuiltins\nexec\n"]
)
def test_what_runs_programs_is_refused_wherever_it_stands(tmp_path: Path, wanted: str) -> None:
    call = wanted.encode() + b"(" + text("x") + b"tR"
    inert = b"clightning\nThing\n"
    for stream in (
        b"}" + text("a") + call + b"s",
        b"}" + call + b"Ns",
        b"}(" + text("a") + inert + b"(" + call + b"tRu",
        inert + b")R" + call + b"b",
        inert + b")R(" + text("k") + call + b"u",
        b"}" + inert + b"(" + call + b"tRNs",
        b"}((" + call + b"tNu",
        wanted.encode(),
    ):
        with pytest.raises(InputError, match="runs programs") as refused:
            read_pickle(write(tmp_path, archive(b"\x80\x02" + stream + b".")))
        assert len(str(refused.value).splitlines()) <= 3


def test_interpreting_never_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("an import")

    monkeypatch.setattr("builtins.__import__", fail)
    value: Any
    value, end, outside = interpret(b"cantigravity\nfly\n)R.rest")
    monkeypatch.undo()
    assert (str(value.what), value.args, end, outside) == ("antigravity.fly", (), 20, [])


@pytest.mark.parametrize("number", [0, 1, -1, 255, 256, -129, 2**31, -(2**63), 2**200])
def test_numbers_mean_what_pickle_means(number: int) -> None:
    for protocol in (2, 4):
        assert interpret(pickle.dumps(number, protocol))[0] == number


def test_text_bytes_and_floats_mean_what_pickle_means() -> None:
    value = ["", "ü" * 300, "\ud800", b"", b"x" * 300, 1.5, float("inf"), True, None, (1,), (1, 2, 3, 4), []]
    for protocol in (3, 4, 5):
        assert interpret(pickle.dumps(value, protocol))[0] == value


def test_an_integer_of_a_million_digits_is_refused() -> None:
    with pytest.raises(PickleError, match="integer"):
        interpret(b"\x80\x02\x8b" + struct.pack("<I", 1 << 20) + b"\1" * (1 << 20) + b".")


@pytest.mark.parametrize("raw", [b"", b"x", b"PK\x03\x04", b"\x80\x02N.", b"\x80", bytes(1000)])
def test_what_is_no_torch_file_is_refused_by_name(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(InputError, match=r"x\.pt") as refused:
        read_pickle(write(tmp_path, raw))
    assert refused.value.exit_code == 2
    with pytest.raises(InputError, match="no such file"):
        read_pickle(tmp_path / "absent.pt")
    with pytest.raises(InputError, match="a folder, not a file"):
        read_pickle(tmp_path)


def test_a_directory_too_large_to_list_is_refused_unread(tmp_path: Path) -> None:
    good = torch_bytes(np.ones(4, np.float32))
    at = good.rindex(b"PK\x05\x06")
    huge = (1 << 31).to_bytes(4, "little")
    with pytest.raises(InputError, match="directory is larger"):
        read_pickle(write(tmp_path, good[: at + 12] + huge + good[at + 16 :]))
    zip64 = b"PK\x06\x06" + bytes(36) + (1 << 40).to_bytes(8, "little") + bytes(8) + b"PK\x06\x07" + bytes(16)
    with pytest.raises(InputError, match="directory is larger"):
        read_pickle(write(tmp_path, good[:at] + zip64 + good[at:]))


@pytest.mark.oracle
@pytest.mark.parametrize("new", [True, False], ids=["zip", "sequence"])
def test_state_dicts_and_nested_checkpoints_of_torch(tmp_path: Path, new: bool) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm1d(2)).half()
    weights = torch.arange(24.0).reshape(4, 6)
    value = {
        "state_dict": module.state_dict(),
        "epoch": 3,
        "transposed": weights.t(),
        "part": weights[1:3, 2:4],
        "same": weights,
        "bfloat16": weights.bfloat16(),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(265),
        "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(weights),
    }
    path = tmp_path / "model.ckpt"
    torch.save(value, path, _use_new_zipfile_serialization=new)
    found: Any = read_pickle(path, strict=True)
    assert list(found["state_dict"]) == list(value["state_dict"])
    for name, tensor in [*value["state_dict"].items(), *((k, v) for k, v in value.items() if torch.is_tensor(v))]:
        array = found["state_dict"][name] if name in found["state_dict"] else found[name]
        assert array.shape == tuple(tensor.shape)
        np.testing.assert_array_equal(array.astype(np.float64), tensor.detach().double().numpy())
