"""Where a result came from: the commit of the checkout, and hashes."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from ine_jax.storage.provenance import commit, file_hash, value_hash
from tests.support.paths import ROOT


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="not a git checkout")
def test_the_commit_is_that_of_the_checkout() -> None:
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert (commit() or "").removesuffix("+changes") == head.stdout.strip()


def test_hashes_are_sha256_of_bytes_and_of_canonical_json(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    assert value_hash({"b": 1, "a": [True]}) == value_hash({"a": [True], "b": 1})
    assert value_hash({"a": "ü"}) == hashlib.sha256('{"a":"ü"}'.encode()).hexdigest()
