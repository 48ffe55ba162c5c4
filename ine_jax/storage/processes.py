"""Whether a process of this machine lives."""

import contextlib
import os
from pathlib import Path


def is_alive(process: int) -> bool:
    """Whether a process with this number is there and has not ended; a number that none can have counts as alive."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return not _has_ended(process)


def _has_ended(process: int) -> bool:
    """Whether it only waits for its parent to take note of its end (Linux)."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return False
