"""Embedding files that are damaged, or whole and yet no embedding; each is wrong by construction, and a function of
the seed.
"""

import io
import zipfile
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from ine_jax.embeddings import torch_bytes
from ine_jax.storage.safetensors_writer import safetensors_bytes

File = tuple[str, str, bytes]  # what is wrong, file name, bytes
SAFETENSORS, NUMPY, TORCH, WRONG = 1000, 300, 300, 400
HEADER = {"format": "pt", "concept": "weapon", "provenance": "{}"}
SPECIAL = (np.nan, np.inf, -np.inf)


def rows(rng: np.random.Generator, k: int = 2, width: int = 768) -> np.ndarray:
    return rng.standard_normal((k, width)).astype(np.float32)


def cut(rng: np.random.Generator, raw: bytes) -> bytes:
    return raw[: int(rng.integers(0, len(raw)))]


def gap(rng: np.random.Generator, raw: bytes) -> bytes:
    """Some bytes fewer in the middle."""
    at = int(rng.integers(0, len(raw) - 9))
    return raw[:at] + raw[at + int(rng.integers(1, 9)) :]


def more(rng: np.random.Generator, raw: bytes) -> bytes:
    """Some bytes more in the middle."""
    at = int(rng.integers(1, len(raw)))
    return raw[:at] + rng.bytes(int(rng.integers(1, 9))) + raw[at:]


def blur(rng: np.random.Generator, raw: bytes, low: int, high: int) -> bytes:
    """Some bytes between `low` and `high` that are no text in UTF-8."""
    at = int(rng.integers(low, high - 4))
    return raw[:at] + bytes(rng.integers(0x80, 0xC0, 4, np.uint8)) + raw[at + 4 :]


def flip(rng: np.random.Generator, raw: bytes, low: int, high: int) -> bytes:
    """One bit between `low` and `high`."""
    at, bit = int(rng.integers(low, high)), 1 << int(rng.integers(0, 8))
    return raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :]


def special(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """NaN or infinity in one place."""
    array = array.copy()
    array.reshape(-1)[int(rng.integers(0, array.size))] = SPECIAL[int(rng.integers(0, 3))]
    return array


def safetensors_files(rng: np.random.Generator, count: int) -> Iterator[File]:
    keys = ("<weapon>", "emb_params", "clip_l")
    for number in range(count):
        key, array = keys[number % 3], rows(rng)
        raw = safetensors_bytes({key: array}, HEADER)
        text = 8 + int.from_bytes(raw[:8], "little")
        match number % 8:
            case 0:
                bad = cut(rng, raw)
            case 1:
                bad = gap(rng, raw)
            case 2:
                bad = more(rng, raw)
            case 3:
                bad = blur(rng, raw, 8, text - 8)
            case 4:
                length = int.from_bytes(raw[:8], "little") + int(rng.choice([-9, -1, 1, 8, 1 << 20, 1 << 40, 1 << 62]))
                bad = length.to_bytes(8, "little", signed=True) + raw[8:]
            case 5:
                bad = safetensors_bytes({key: special(rng, array)}, HEADER)
            case 6:
                old, new = [
                    (b"[2,768]", b"[3,768]"),
                    (b"[2,768]", b"[2,-68]"),
                    (b'"F32"', b'"F64"'),
                    (b'"F32"', b'"I32"'),
                ][number // 8 % 4]
                bad = raw.replace(old, new)
            case _:
                span = f"[0,{array.nbytes}]".encode()
                lie = [f"[1,{array.nbytes}]", "[0,9999]", "[9,0]   ", f"[0,{'9' * 30}]"][number // 8 % 4].encode()
                bad = raw.replace(span, lie)
        yield f"safetensors {number % 8}", "weapon.safetensors", bad


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype.hasobject)
    return buffer.getvalue()


def numpy_files(rng: np.random.Generator, count: int) -> Iterator[File]:
    for number in range(count):
        array = rows(rng)
        raw = npy(array)
        compress = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", compress) as archive:
            archive.writestr("weapon.npy", raw)
        whole = packed.getvalue()
        match number % 9:
            case 0:
                yield "npy cut", "weapon.npy", cut(rng, raw)
            case 1:
                yield "npy gap", "weapon.npy", gap(rng, raw)
            case 2:
                yield "npy more", "weapon.npy", more(rng, raw)
            case 3:
                yield "npy header", "weapon.npy", blur(rng, raw, 10, 60)
            case 4:
                yield "npy special", "weapon.npy", npy(special(rng, array))
            case 5:
                yield "npy objects", "weapon.npy", npy(np.asarray([None, {"a": 1}], object))
            case 6:
                shape = rng.choice([b"(3, 768)", b"(99999999999, 768)", b"(2, -768)"])
                yield "npy shape", "weapon.npy", raw.replace(b"(2, 768), }" + b" " * (len(shape) - 8), shape + b", }")
            case 7:
                yield "npz cut", "weapon.npz", cut(rng, whole)
            case _:
                yield "npz flip", "weapon.npz", flip(rng, whole, 60, min(len(raw), len(whole) - 200))


def torch_files(rng: np.random.Generator, count: int) -> Iterator[File]:
    for number in range(count):
        array = rows(rng)
        value = [{"<weapon>": array}, {"string_to_param": {"*": array}, "name": "weapon"}, array][number % 3]
        raw = torch_bytes(value)
        begin = raw.index(array.tobytes())
        stream = raw.index(b"\x80\x02")
        match number % 5:
            case 0:
                bad = cut(rng, raw)
            case 1:
                bad = gap(rng, raw)
            case 2:
                bad = more(rng, raw)
            case 3:
                bad = flip(rng, raw, begin, begin + array.nbytes)
            case _:
                bad = flip(rng, raw, stream, raw.index(b"PK\x03\x04", stream))
        yield f"torch {number % 5}", "weapon.pt", bad


def wrong_files(rng: np.random.Generator, count: int) -> Iterator[File]:
    """Whole files that hold something else than an embedding."""
    good = rows(rng)
    arrays = {
        "width 767": rows(rng, 2, 767),
        "78 vectors": rows(rng, 78),
        "int8": good.astype(np.int8),
        "float64": good.astype(np.float64),
        "int64": good.astype(np.int64),
        "bool": good > 0,
        "nan": special(rng, good),
        "nan in half": special(rng, good.astype(np.float16)),
        "nan in bfloat16": special(rng, good.astype(ml_dtypes.bfloat16)),
        "no axes": np.asarray(1.0, np.float32),
        "empty": np.zeros((0, 768), np.float32),
        "no width": np.zeros((2, 0), np.float32),
        "four axes": good.reshape(1, 1, 2, 768),
        "two sequences": rows(rng, 154).reshape(2, 77, 768),
        "width 9000": rows(rng, 1, 9000),
    }
    mappings = {
        "two": {"<a>": good, "<b>": good},
        "none": {},
        "pair of other lengths": {"clip_l": good, "clip_g": rows(rng, 3, 1280)},
        "pair and more": {"clip_l": good, "clip_g": rows(rng, 2, 1280), "x": good},
        "weights": {f"down_blocks.{i}.weight": good for i in range(3)},
        "two parameters": {"string_to_param": {"*": good, "+": good}},
        "no parameters": {"string_to_param": {}},
        "text for vectors": {"<weapon>": "text"},
        "numbers for vectors": {"<weapon>": [1.0, 2.0]},
        "nothing for vectors": {"string_to_param": {"*": None}},
    }
    for number in range(count):
        label = list(arrays)[number % len(arrays)]
        array = arrays[label]
        plain = array.dtype.name in ("float32", "float16", "bfloat16", "int32")
        match number % 4:
            case 0 if plain:
                yield label, "weapon.safetensors", safetensors_bytes({"<weapon>": array}, HEADER)
            case 1 if array.dtype != ml_dtypes.bfloat16:
                yield label, "weapon.npy", npy(array)
            case 2:
                yield label, "weapon.pt", torch_bytes({"string_to_param": {"*": array}})
            case _:
                what, value = list(mappings.items())[number // 4 % len(mappings)]
                yield what, "weapon.pt", torch_bytes(value)


def damaged_files(share: float = 1.0, seed: int = 0) -> list[File]:
    """2,000 files, or a share of each kind."""
    rng = np.random.default_rng(seed)
    makers = ((safetensors_files, SAFETENSORS), (numpy_files, NUMPY), (torch_files, TORCH), (wrong_files, WRONG))
    return [file for make, count in makers for file in make(rng, round(count * share))]
