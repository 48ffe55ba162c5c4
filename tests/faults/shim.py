"""The library of `shim.c`, compiled on first use, and its control from inside a process that was started with it."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
COMPILER = shutil.which("cc") or shutil.which("gcc")
FOREVER = 2**31 - 1


def compiled(folder: Path) -> Path:
    """Compile the library into `folder`."""
    target = folder / "faults.so"
    assert COMPILER is not None
    words = [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(target), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(words, check=True)
    return target


class Faults:
    """Arms the library in this process, which must run under LD_PRELOAD."""

    def __init__(self, below: Path) -> None:
        self._library, self._below = ctypes.CDLL(None), os.fsencode(f"{below}/")
        self._library.fault_hit.restype = ctypes.c_char_p
        self._library.fault_seen.restype = ctypes.c_long

    def arm(self, at: int, code: int, *, lasting: bool = False, frozen: bool = False) -> None:
        """Let call `at` fail, and with `lasting` all later ones, with `frozen` removing too."""
        times = ctypes.c_long(FOREVER if lasting else 1)
        self._library.fault_arm(self._below, ctypes.c_long(at), times, code, int(frozen), 0)

    def disarm(self) -> tuple[int, str]:
        """Stop; returns how many calls were counted, and the first that failed."""
        seen, hit = int(self._library.fault_seen()), bytes(self._library.fault_hit()).decode()
        self._library.fault_arm(b"", ctypes.c_long(-1), ctypes.c_long(0), 0, 0, 0)
        return seen, hit
