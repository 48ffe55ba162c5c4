"""Pickles made to harm: they want something run, lie about their numbers, or cost a naive reader its memory.

Each is wrong by construction, so that the only right answer is a refusal.
"""

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

CANARY = "canary-that-must-not-exist"
File = tuple[str, str, bytes]  # what is wrong, file name, bytes

COMMANDS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("os", "system", (f"touch {CANARY}",)),
    ("posix", "system", (f"touch {CANARY}",)),
    ("nt", "system", (f"touch {CANARY}",)),
    ("subprocess", "Popen", (["touch", CANARY],)),
    ("subprocess", "check_output", (["touch", CANARY],)),
    ("builtins", "exec", (f"open({CANARY!r}, 'w')",)),
    ("builtins", "eval", (f"open({CANARY!r}, 'w')",)),
    ("__builtin__", "eval", (f"open({CANARY!r}, 'w')",)),
    ("builtins", "open", (CANARY, "w")),
    ("builtins", "getattr", ("os", "system")),
    ("builtins", "__import__", ("antigravity",)),
    ("io", "open", (CANARY, "w")),
    ("pathlib", "Path.touch", (CANARY,)),
    ("shutil", "rmtree", (".",)),
    ("runpy", "run_path", (CANARY,)),
    ("importlib", "import_module", ("antigravity",)),
    ("webbrowser", "open", ("http://127.0.0.1:9",)),
    ("socket", "create_connection", (("127.0.0.1", 9),)),
    ("ctypes", "CDLL", ("libc.so.6",)),
    ("pickle", "loads", (b"cos\nsystem\n.",)),
    ("torch", "load", (CANARY,)),
    ("torch.storage", "_load_from_bytes", (b"x",)),
    ("torch.serialization", "load", (CANARY,)),
    ("torch._utils", "_rebuild_device_tensor_from_numpy", (1, 2, 3, 4)),
    ("torch.jit._serialization", "load", (CANARY,)),
    ("numpy.core.multiarray", "_reconstruct", (1, (0,), b"b")),
    ("numpy", "load", (CANARY,)),
    ("numpy.testing._private.utils", "runstring", ("1", {})),
    ("functools", "partial", (1,)),
    ("operator", "methodcaller", ("system", CANARY)),
    ("collections", "defaultdict", (1,)),
    ("_codecs", "encode", ("x", "latin1")),
    ("copyreg", "_reconstructor", (1, 2, 3)),
    ("types", "FunctionType", (1, {})),
    ("code", "interact", ()),
    ("timeit", "timeit", ("1",)),
    ("ine_jax.embeddings.embedding", "Embedding", (1,)),
    ("", "", ()),
    ("os\x1b[31m", "sys\u202etem", ()),
    ("a" * 200, "b" * 200, ()),
]


def archive(
    stream: bytes, storages: dict[str, bytes] | None = None, pack: Callable[[zipfile.ZipFile], None] | None = None
) -> bytes:
    """A torch zip around a pickle stream; `pack` adds what else is wrong."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w") as out:  # a name twice is meant
        out.writestr(zipfile.ZipInfo("archive/data.pkl"), stream)
        for key, data in (storages or {}).items():
            out.writestr(zipfile.ZipInfo(f"archive/data/{key}"), data)
        if pack:
            pack(out)
    return buffer.getvalue()


def sequence(stream: bytes, keys: Any, data: bytes) -> bytes:
    """The layout before zip around a pickle stream."""
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, about))
    return head + stream + pickle.dumps(keys, 2) + data


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def plain(value: Any) -> bytes:
    """Opcodes of a plain value."""
    return pickle.dumps(value, 3)[2:-1]


def name(module: str, attribute: str, variant: int) -> bytes:
    """Opcodes that want a name imported, in either of two ways."""
    plain_name = variant == 0 and "\n" not in module and module.isascii() and attribute.isascii()
    if plain_name:
        return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"
    return text(module) + text(attribute) + b"\x93"


def wishes() -> Iterator[tuple[str, bytes]]:
    """Opcodes that push what a call made, in every way that a pickle has to ask for it."""
    for module, attribute, args in COMMANDS:
        for variant in (0, 1):
            wanted, given = name(module, attribute, variant), b"(" + b"".join(map(plain, args)) + b"t"
            label = f"{module}.{attribute}"[:40]
            yield f"reduce {label} {variant}", wanted + given + b"R"
            yield f"new {label} {variant}", wanted + given + b"\x81"
        yield f"name {label}", name(module, attribute, 0)
        yield f"state {label}", name("collections", "OrderedDict", 0) + b")R" + wanted + given + b"Rb"
        yield f"named arguments {label}", wanted + given + b"}\x92"
        inst = b"".join(map(plain, args)) + b"i" + module.encode() + b"\n" + attribute.encode() + b"\n"
        yield f"inst {label}", b"(" + inst
        yield f"obj {label}", b"(" + wanted + b"".join(map(plain, args)) + b"o"


def tensor_opcodes(**lie: Any) -> bytes:
    """Opcodes of a tensor [2, 8] in storage "0" of 16 float32, except for what `lie` says."""
    parts: dict[str, Any] = {
        "kind": "storage",
        "storage": ("torch", "FloatStorage"),
        "key": "0",
        "device": "cpu",
        "count": 16,
    }
    parts |= {"offset": 0, "size": (2, 8), "stride": (8, 1)} | lie
    outside = text(parts["kind"]) if isinstance(parts["kind"], str) else plain(parts["kind"])
    outside += (
        name(parts["storage"][0], parts["storage"][1], 0)
        + plain(parts["key"])
        + plain(parts["device"])
        + plain(parts["count"])
    )
    layout = plain(parts["offset"]) + plain(parts["size"]) + plain(parts["stride"])
    head = b"ctorch._utils\n_rebuild_tensor_v2\n((" + outside + parts.get("more", b"") + b"tQ"
    return head + layout + b"\x89ccollections\nOrderedDict\n)RtR"


LIES: list[dict[str, Any]] = [
    *({"count": count} for count in (0, 1, 15, 17, -1, -16, 2**31, 2**62, 2**70, None, "16", 16.0, True)),
    *({"offset": offset} for offset in (1, 16, -1, 2**40, 2**62, "0", None, 0.0, True)),
    *({"size": size} for size in ((3, 8), (2, 9), (2**20, 2**20), (2**62, 2), (-2, 8), (16,), (2, 8, 1), [2, 8], 16)),
    *({"size": size, "stride": (0,) * len(size)} for size in ((17,), (2**30, 8), (1,) * 20, (2**40,))),
    *(
        {"stride": stride}
        for stride in ((9, 1), (8, 2), (-8, 1), (2**62, 1), (8,), (8, 1, 1), ("8", 1), None, (8, 1.0))
    ),
    *({"key": key} for key in ("1", "../0", "/etc/passwd", "..\\0", "", "0\x00", "0/", None, 0, "data.pkl", "é")),
    *({"kind": kind} for kind in ("module", "", None, 7, "Storage")),
    *({"device": device} for device in (None, 0, ["cpu"])),
    *({"storage": ("torch", kind)} for kind in ("HalfStorage", "DoubleStorage", "UntypedStorage", "QInt8Storage")),
    *({"storage": ("torch", kind)} for kind in ("ComplexFloatStorage", "load", "Tensor", "FloatStorage.x")),
    {"storage": ("os", "system")},
    {"storage": ("torch.cuda", "FloatStorage")},
    {"storage": ("torch", "BoolStorage"), "count": 64, "size": (8, 8)},
    {"more": b"("},
    {"more": b"N" * 3},
    {"more": b"(X\x01\x00\x00\x00vK\x00K\x10t"},
]


def lying() -> Iterator[File]:
    """Tensors that say another storage, size or place than there is."""
    data = np.ones(16, np.float32).tobytes()
    for lie in LIES:
        stream = b"\x80\x02}" + text("<weapon>") + tensor_opcodes(**lie) + b"s."
        yield f"zip that lies: {lie}", "e.pt", archive(stream, {"0": data})
    for lie in LIES[::2]:
        stream = b"\x80\x02}" + text("<weapon>") + tensor_opcodes(**lie) + b"s."
        yield f"sequence that lies: {lie}", "e.pt", sequence(stream, ["0"], struct.pack("<q", 16) + data)
    honest = b"\x80\x02}" + text("<weapon>") + tensor_opcodes() + b"s."
    for count in (0, 15, 17, -1, 2**62):
        yield f"storage of {count}", "e.pt", sequence(honest, ["0"], struct.pack("<q", count) + data)
    for keys in ([], ["0", "0"], ["1"], ["0", "1"], [0], "0", None):
        yield f"keys {keys}", "e.pt", sequence(honest, keys, struct.pack("<q", 16) + data)


def odd_archives() -> Iterator[File]:
    """Zips in zips, bombs, members that overlap, stand twice or are missing, and other directories that lie."""
    data = np.ones(16, np.float32).tobytes()
    honest = b"\x80\x02}" + text("<weapon>") + tensor_opcodes() + b"s."
    good = archive(honest, {"0": data})
    inner = archive(honest, {"0": data})
    yield "zip as pickle", "e.pt", archive(inner, {"0": data})
    yield "zip as storage", "e.pt", archive(honest, {"0": inner})
    yield "zip beside", "e.pt", archive(honest, {"0": data}, lambda z: z.writestr("inner.zip", inner))
    yield "two pickles", "e.pt", archive(honest, {"0": data}, lambda z: z.writestr("other/data.pkl", honest))
    yield "pickle deep inside", "e.pt", archive(honest, {"0": data}, lambda z: z.writestr("archive/x/data.pkl", honest))
    yield "member twice", "e.pt", archive(honest, {"0": data}, lambda z: z.writestr("archive/data/0", data))
    yield "outside", "e.pt", archive(honest, {"0": data}, lambda z: z.writestr("../evil", data))
    yield "big endian", "e.pt", archive(honest, {"0": data}, lambda z: z.writestr("archive/byteorder", b"big"))
    yield "no pickle", "e.pt", archive(honest, {"0": data}).replace(b"data.pkl", b"data.pkx")
    yield "no storage", "e.pt", archive(honest)
    yield "prefix", "e.pt", b"PK\x03\x04" + good
    yield "junk before", "e.pt", b"\x80\x02N." + good
    yield "junk after", "e.pt", good + b"x" * 70000
    yield "empty zip", "e.pt", b"PK\x05\x06" + b"\0" * 18
    yield "nested twice", "e.pt", archive(archive(inner), {"0": inner})
    for level in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        bomb = io.BytesIO()
        with zipfile.ZipFile(bomb, "w", level) as out:
            out.writestr("archive/data.pkl", honest)
            out.writestr("archive/data/0", b"\0" * (1 << 20))
        yield f"compressed {level}", "e.pt", bomb.getvalue()
    directory = good.rindex(b"PK\x01\x02")
    for offset, value in (
        (42, b"\0\0\0\0"),
        (42, b"\xff\xff\xff\x7f"),
        (20, b"\0\0\1\0"),
        (24, b"\0\0\1\0"),
        (8, b"\1\0"),
    ):
        changed = good[: directory + offset] + value + good[directory + offset + len(value) :]
        yield f"directory {offset} {value.hex()}", "e.pt", changed
    local = good.index(b"PK\x03\x04", 4)
    for offset, value in ((0, b"XX"), (26, b"\xff\xff"), (28, b"\xff\xff"), (30, b"Z")):
        changed = good[: local + offset] + value + good[local + offset + len(value) :]
        yield f"local header {offset}", "e.pt", changed


def odd_streams() -> Iterator[File]:
    """Streams that nest, share, recall, repeat or end in ways that cost a naive reader its memory or its mind."""
    bomb = text("lol") + b"q\x01(h\x01h\x01t" * 80
    yield "shared tuples", "e.pt", archive(b"\x80\x02" + bomb + b".")
    yield "shared tuples as key", "e.pt", archive(b"\x80\x02}" + bomb + b"Ns.")
    yield "list in itself", "e.pt", archive(b"\x80\x02]q\x01h\x01a.")
    yield "dict in itself", "e.pt", archive(b"\x80\x02}q\x01X\x01\x00\x00\x00ah\x01s.")
    yield "deep lists", "e.pt", archive(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    yield "deep tuples", "e.pt", archive(b"\x80\x02N" + b"\x85" * 100_000 + b".")
    yield "flood of opcodes", "e.pt", archive(b"\x80\x02" + b"N" * 1_000_001 + b".")
    for tail in (
        b"",
        b".",
        b"0.",
        b"1.",
        b"t.",
        b"a.",
        b"s.",
        b"u.",
        b"e.",
        b"R.",
        b"b.",
        b"Q.",
        b"h\x07.",
        b"j\0\0\0\1.",
    ):
        yield f"stream {tail!r}", "e.pt", archive(b"\x80\x02" + tail)
    for opcode in (
        b"\x82\x01",
        b"\x83\x01\0",
        b"\x84\x01\0\0\0",
        b"P0\n",
        b"I1\n",
        b"S'x'\n",
        b"\x96" + b"\0" * 8,
        b"\x97",
    ):
        yield f"opcode {opcode!r}", "e.pt", archive(b"\x80\x02" + opcode + b".")
    for opcode in (
        b"X\xff\xff\xff\xff",
        b"B\xff\xff\xff\x7f",
        b"\x8d" + b"\xff" * 8,
        b"\x8b\xff\xff\xff\x7f",
        b"T\xff\xff\xff\xff",
    ):
        yield f"length {opcode!r}", "e.pt", archive(b"\x80\x02" + opcode + b"x.")
    yield "protocol 200", "e.pt", archive(b"\x80\xc8N.")
    yield "text that is none", "e.pt", archive(b"\x80\x02X\x02\0\0\0\xff\xfe.")
    yield "bare pickle", "e.pt", pickle.dumps({"<weapon>": [1.0, 2.0]}, 2)
    yield "pickle after pickle", "e.pt", archive(b"\x80\x02N.\x80\x02N.")


def hostile_pickles() -> list[File]:
    """All of the above; wishes stand where the vectors, a name or a key belong, in both layouts."""
    places = (
        lambda wish: b"}" + text("<weapon>") + wish + b"s",
        lambda wish: b"}(" + text("string_to_param") + b"}" + text("*") + wish + b"s" + text("name") + b"Nu",
        lambda wish: b"}(" + text("<weapon>") + tensor_opcodes() + wish + b"Nu",
        lambda wish: b"](" + wish + b"e",
        lambda wish: wish,
    )
    found: list[File] = []
    counted = struct.pack("<q", 16) + np.ones(16, np.float32).tobytes()
    data = np.ones(16, np.float32).tobytes()
    for number, (label, wish) in enumerate(wishes()):
        stream = b"\x80\x02" + places[number % len(places)](wish) + b"."
        if number % 3:
            found.append((label, "e.pt", archive(stream, {"0": data})))
        else:
            found.append((label, "e.bin", sequence(stream, *(["0"], counted) if number % 5 == 2 else ([], b""))))
    return [*found, *lying(), *odd_archives(), *odd_streams()]
