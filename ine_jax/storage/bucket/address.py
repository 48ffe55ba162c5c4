"""Addresses of objects, and where their local copies are."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ine_jax.errors import InputError

SCHEMES = {"gs": "gcs", "s3": "s3"}  # and the extra that brings the client
_ADDRESS = re.compile(r"(gs|s3):/{1,2}([^/]*)/?(.*)", re.DOTALL)  # one slash: what a pathlib.Path makes of two
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,220}[A-Za-z0-9]")


@dataclass(frozen=True)
class Address:
    """A place in a bucket; `key` has no slash at its ends and is empty for the bucket itself."""

    scheme: str
    bucket: str
    key: str = ""

    def __str__(self) -> str:
        """As the user writes it."""
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")

    @property
    def name(self) -> str:
        """Its last part."""
        return self.key.rpartition("/")[2] or self.bucket

    @property
    def parent(self) -> "Address":
        """The place that it is in."""
        return Address(self.scheme, self.bucket, self.key.rpartition("/")[0])

    def join(self, name: str) -> "Address":
        """A place below this one."""
        return Address(self.scheme, self.bucket, f"{self.key}/{name}".strip("/"))

    @property
    def digest(self) -> str:
        """A short name for local copies."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:16]


def is_address(value: object) -> bool:
    """Whether a text or path from the user is meant as a place in a bucket."""
    return isinstance(value, str | Path) and _ADDRESS.fullmatch(str(value)) is not None


def parse(value: str | Path) -> Address:
    """Read an address. InputError for a bucket or key that no store has."""
    match = _ADDRESS.fullmatch(str(value))
    key = match[3].strip("/") if match else ""
    if match is None or not _BUCKET.fullmatch(match[2]) or (key and not is_safe(key)):
        allowed = "gs://BUCKET/NAME or s3://BUCKET/NAME, without empty parts, . and .."
        raise InputError(f"{value}: no address of an object store", allowed, "correct the address")
    return Address(match[1], match[2], key)


def is_safe(name: str) -> bool:
    """Whether the name of an object can be that of a file below a folder."""
    parts = name.split("/")
    return len(name) <= 1024 and all(part not in ("", ".", "..") and part.isprintable() for part in parts)


def cache_folder() -> Path:
    """Where local copies are: INE_BUCKET_CACHE, or a folder in the user's cache."""
    own = os.environ.get("INE_BUCKET_CACHE", "")
    base = os.environ.get("XDG_CACHE_HOME", "")
    usual = (Path(base) if base.startswith("/") else Path.home() / ".cache") / "ine_jax" / "buckets"
    return Path(os.path.abspath(own)) if own else usual
