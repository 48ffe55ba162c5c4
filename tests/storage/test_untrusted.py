"""Files are opened in one place: regular ones only, without waiting, within bounds. No other module opens any."""

import ast
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ine_jax.errors import InputError
from ine_jax.storage import untrusted
from tests.support.paths import ROOT

PACKAGE = ROOT / "ine_jax"
# Files of the package itself, and writers that look at what they wrote.
EXEMPT = {
    "storage/untrusted.py",
    "storage/atomic.py",  # its locks
    "storage/bucket/done.py",  # below untrusted: what this process has just written
    "storage/bucket/lease.py",  # the system's own files
    "storage/processes.py",  # likewise
    "assets/__init__.py",  # below storage: the package's own files
    "reporting/page.py",  # the package's own templates
}
OPENERS = {"open", "read_text", "read_bytes", "memmap", "fromfile", "loadtxt", "genfromtxt", "safe_open"}
OPENERS |= {"load_file", "ZipFile", "mmap", "fdopen"}
LOADERS = {"np", "numpy", "torch", "pickle", "jnp"}  # whose `load` opens files


def special_files(folder: Path) -> Iterator[Path]:
    """Names that lead to something else than a file of bounded size."""
    (folder / "zeros").symlink_to("/dev/zero")
    yield folder / "zeros"
    os.mkfifo(folder / "pipe")
    yield folder / "pipe"
    (folder / "folder").mkdir()
    yield folder / "folder"
    (folder / "loop").symlink_to(folder / "loop")
    yield folder / "loop"
    (folder / "nothing").symlink_to(folder / "absent")
    yield folder / "nothing"
    with socket.socket(socket.AF_UNIX) as found:
        here = Path.cwd()
        os.chdir(folder)  # the name of a socket is short
        found.bind("socket")
        os.chdir(here)
        yield folder / "socket"
    yield folder / "a\0b"
    yield folder / "\ud800"
    yield folder / ("x" * 300)


READERS: dict[str, Callable[[Path], object]] = {
    "read": lambda path: untrusted.read(path, 100),
    "map": untrusted.map_file,
    "safetensors": untrusted.open_safetensors,
}


@pytest.mark.parametrize("reader", READERS)
def test_only_regular_files_are_opened(tmp_path: Path, reader: str) -> None:
    for path in special_files(tmp_path):
        with pytest.raises(InputError) as caught:
            READERS[reader](path)
        assert len(str(caught.value).splitlines()) == 3


def test_a_file_is_measured_before_it_is_read_and_after(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 10 << 40)  # a hole
    with pytest.raises(InputError, match="larger than 100 bytes"):
        untrusted.read(path, 100)
    with pytest.raises(InputError, match="larger than 65536 MiB"):
        untrusted.map_file(path)
    path.write_bytes(bytes(100))
    assert untrusted.read(path, 100) == bytes(100)
    with pytest.raises(InputError, match="larger than 10 bytes"):
        untrusted.read("/proc/self/status", 10)  # it reports a size of 0


def test_a_header_of_gigabytes_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((90 << 20).to_bytes(8, "little") + b"{")
    os.truncate(path, 100 << 20)
    with pytest.raises(InputError, match="larger than 8 MiB"):
        untrusted.open_safetensors(path)


def names_of_open_files(function: ast.AST) -> set[str]:
    """Names that a `with open_regular(...) as name` binds."""
    return {
        item.optional_vars.id
        for node in ast.walk(function)
        if isinstance(node, ast.With)
        for item in node.items
        if isinstance(item.optional_vars, ast.Name) and "open_regular" in ast.unparse(item.context_expr)
    }


def opening_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that open a file for reading: not for writing, not of bytes in memory, not of a file opened before."""
    opened = names_of_open_files(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name not in OPENERS and not (name == "load" and owner in LOADERS):
            continue
        texts = [ast.unparse(argument) for argument in (*node.args, *(keyword.value for keyword in node.keywords))]
        writes = any(text in ("'a'", "'w'", "'wb'", "'rb+'") or "O_WRONLY" in text for text in texts)
        in_memory = bool(texts) and (texts[0].startswith(("io.BytesIO(", "buffer")) or texts[0] in opened)
        if not writes and not in_memory and texts != ["folder", "os.O_RDONLY"]:  # which atomic.sync flushes
            yield node


def test_no_other_module_opens_files() -> None:
    names = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py")}
    found = [
        f"{name}, line {call.lineno}: {ast.unparse(call)}"
        for name, path in names.items()
        if name not in EXEMPT
        for call in opening_calls(ast.parse(path.read_text()))
    ]
    assert found == []


def test_the_search_finds_what_it_is_for() -> None:
    source = "open(p); p.read_text(); p.open('rb'); np.load(p); Image.open(p); os.open(p, os.O_RDONLY)"
    assert len(list(opening_calls(ast.parse(source)))) == 6
    source = "open(p, 'a'); np.load(io.BytesIO(b)); json.load(x); os.open(p, os.O_WRONLY)"
    assert not list(opening_calls(ast.parse(source)))
