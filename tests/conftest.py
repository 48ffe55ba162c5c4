"""A strict session: no silent promotion of ranks or dtypes, shapes and types checked, no network."""

import atexit
import gc
import os
import socket
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("INE_COMPILE_CACHE", "off")
os.environ.setdefault("MPLBACKEND", "Agg")

from tests.support.programs import compile_fast

compile_fast()

import jax  # noqa: E402
import pytest  # noqa: E402

from tests.support import typechecking  # noqa: E402

typechecking.install()  # before anything imports the package

from tests.support.tiny_pipeline import tiny_folder, tokenizer_folder  # noqa: E402, F401  fixtures

# The session keeps many programs and their traces: looking through them for garbage at the default thresholds takes a
# fifth of the processor time.
gc.set_threshold(50_000, 50, 50)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


GROWTH = 2**30  # bytes


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where oracles are not run, files of oracles alone are not imported: they load PyTorch into every worker."""
    if "not oracle" not in config.option.markexpr or collection_path.suffix != ".py":
        return None
    return True if "\npytestmark = pytest.mark.oracle\n" in collection_path.read_text(encoding="utf-8") else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist ends at once: taking apart what it compiled takes more than a minute."""
    if hasattr(session.config, "workerinput"):
        atexit.register(os._exit, 0)  # runs first, because it is registered last


def resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not say."""
    statistics = Path("/proc/self/statm")
    return int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statistics.is_file() else 0


@pytest.fixture(scope="session")
def at_rest() -> list[int]:
    """What the process held after the last clearing."""
    return [resident()]


@pytest.fixture(autouse=True, scope="module")
def bounded_memory(at_rest: list[int]) -> Iterator[None]:
    """What is compiled stays for the next files until the process has grown by `GROWTH`."""
    yield
    if resident() > at_rest[0] + GROWTH:
        jax.clear_caches()
        gc.collect()
        at_rest[0] = resident()  # freed memory stays with the process


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk() -> Iterator[None]:
    """What tests write need not outlive a power cut; waiting for the disk takes longer than the tests that write."""
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda _: None)
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Every attempt to open a connection to another machine fails at once."""
    real = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family == socket.AF_UNIX or (isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1")):
            return real(self, address)  # type: ignore[arg-type]
        raise OSError(f"the tests have no network: {address}")

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", refuse)
    yield
    patch.undo()


@pytest.fixture
def fake_types() -> Iterator[None]:
    """No checks of types: for a test in which a fake replaces one of the package's classes."""
    with typechecking.unchecked():
        yield


@pytest.fixture(autouse=True)
def other_libraries_rules(request: pytest.FixtureRequest) -> Iterator[None]:
    """Oracles run other libraries' JAX code, which mixes dtypes, and pass their arrays: neither is checked there."""
    if request.node.get_closest_marker("oracle") is None:
        yield
        return
    with jax.numpy_dtype_promotion("standard"), typechecking.unchecked():
        yield
