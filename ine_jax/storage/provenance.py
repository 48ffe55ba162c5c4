"""Where a result came from: package versions, the commit, and hashes of files and values."""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
from pathlib import Path

from ine_jax.storage.untrusted import MAX_WEIGHTS, Reject, open_regular, unreadable

PACKAGES = ("ine_jax", "jax", "jaxlib", "flax", "optax", "numpy", "pillow", "safetensors", "transformers")


def canonical(value: object) -> str:
    """Return the one JSON text of a value that is hashed and compared: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def value_hash(value: object) -> str:
    """Return the SHA-256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_hash(path: str | Path, reject: Reject = unreadable) -> str:
    """Return the SHA-256 of a file, read in pieces; errors as of `untrusted.open_regular`."""
    with open_regular(path, MAX_WEIGHTS, reject) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def versions(*extra: str) -> dict[str, str]:
    """Return the versions of Python and of the installed packages that can change a pixel, or are named."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *extra):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def commit() -> str | None:
    """Return the commit of the checkout, with "+changes" where files differ; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    try:
        head = _git(git, root, "rev-parse", "HEAD")
        changed = _git(git, root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changed else "")


def _git(git: str, root: Path, *arguments: str) -> str:
    command = [git, "-C", str(root), *arguments]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)  # noqa: S603
    return result.stdout.strip()
