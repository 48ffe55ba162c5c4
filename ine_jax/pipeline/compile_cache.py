"""The persistent compilation cache, in a folder that nobody else can write.

Whoever can write JAX's compilation cache can run code in the process that reads it. So the folder has mode 0700, and
one that others can write is rejected.
"""

import os
import stat
from pathlib import Path

import jax

from ine_jax.errors import InputError

VARIABLE = "INE_COMPILE_CACHE"
SETTING = "jax_compilation_cache_dir"
_OFF = frozenset({"", "0", "off", "no", "false"})


def default_folder() -> Path:
    """Return `$XDG_CACHE_HOME/ine_jax/xla`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "ine_jax" / "xla"


def enable(choice: bool | str | Path | None = None) -> Path | None:
    """Turn the cache on and return its folder, or return None where it is off.

    `choice` is True, or a folder; False is off; None follows the variable `INE_COMPILE_CACHE` (a folder, or `off`), and
    is on without it. A cache that the program has already configured in JAX is left as it is. Raises InputError where
    the folder belongs to another user, can be written by others, or cannot be made.
    """
    if choice is None:
        text = os.environ.get(VARIABLE)
        choice = True if text is None else (False if text.lower() in _OFF else text)
    if choice is False:
        return None
    configured = getattr(jax.config, SETTING)
    if choice is True and configured:
        return Path(configured)
    folder = default_folder() if choice is True else Path(choice)
    private_folder(folder)
    if configured != str(folder):
        jax.config.update(SETTING, str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def private_folder(folder: Path) -> None:
    """Make the folder with mode 0700, or check that it is the user's own and that no one else can write it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise _rejected(folder, error.strerror or "cannot be made") from error
    if found.st_uid != os.getuid():
        raise _rejected(folder, "belongs to another user")
    if stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise _rejected(folder, "can be written by others")


def _rejected(folder: Path, reason: str) -> InputError:
    given = f"compilation cache {folder}: {reason}"
    allowed = "a folder of your own with mode 0700"
    return InputError(given, allowed, f"chmod 700 it, or set {VARIABLE} to another folder or to off")
