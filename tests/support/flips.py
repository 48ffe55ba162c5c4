"""Damage: one bit of a file."""

import random
from pathlib import Path

CHANCE = random.Random(7)  # noqa: S311


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def flip(path: Path, at: int | None = None) -> bytes:
    """Flip one bit of the file, at a random place unless one is given; its bytes before."""
    data = path.read_bytes()
    place = CHANCE.randrange(len(data)) if at is None else at % len(data)
    path.write_bytes(flipped(data, place, CHANCE.randrange(8)))
    return data
