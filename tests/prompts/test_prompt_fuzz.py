"""Damaged prompt files: loaded or refused in three lines, never a traceback, nothing written."""

import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ine_jax.cli import main as cli
from ine_jax.errors import InputError
from ine_jax.prompts import load
from ine_jax.storage.provenance import canonical
from tests.support import made_lists
from tests.support.cases import sample

ORDINARY, MANY = 100, 1000
_MARKS = (b"\xff\xfe", b"\xef\xbb\xbf", b"\xe0\xb8", b"\xe2\x80\xae", b"\x1b[2J", b"\0", b"\r", b"\n")
_WORDS = (b"prompt", b"seed", b"=cmd", b"NaN", b"1e999", b"-1", b"\\u0000", b"\\ud800")
JUNK = (*_MARKS, *_WORDS, b'"', b'""', b",", b"{", b"]", b"'" * 9, b"[" * 3000, b"9" * 5000)


def _csv(folder: Path) -> bytes:
    rows = made_lists.i2p_rows()
    return made_lists.write(folder / "base.csv", rows[:20] + rows[2600:2640]).read_bytes()


def _rows() -> list[dict[str, object]]:
    return [
        {
            "prompt": f"a {made_lists.QUIRKS[i % 7]}",
            "seed": i,
            "id": f"n{i % 20}",
            "guidance": 7.5 if i % 3 else None,
            "categories": ["x", "y"],
            "objects": ["cat"],
            "sd_image_height": 512,
            "nudity_percentage": 10.0 * i,
        }
        for i in range(30)
    ]


def _jsonl(_: Path) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows()).encode()


def _parquet(_: Path) -> bytes:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(_rows()), buffer, row_group_size=8, compression="snappy")
    return buffer.getvalue()


BASES: dict[str, Callable[[Path], bytes]] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet, ".txt": _jsonl}


def mutants(base: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Copies with a few bytes flipped, cut, doubled, replaced by junk, or their end missing."""
    chance = random.Random(seed)  # noqa: S311
    for _ in range(count):
        data = bytearray(base)
        for _ in range(chance.choice((1, 1, 2, 5, 30))):
            at = chance.randrange(len(data) + 1)
            end = min(len(data), at + chance.choice((1, 2, 8, 200)))
            match chance.randrange(6):
                case 0:
                    data[at:end] = bytes(chance.randrange(256) for _ in range(end - at))
                case 1:
                    del data[at:end]
                case 2:
                    data[at:at] = data[at:end] * chance.choice((1, 3, 50))
                case 3:
                    data[at:at] = chance.choice(JUNK)
                case 4:
                    data[at:end] = chance.choice(JUNK)
                case _ if chance.random() < 0.2:
                    del data[at:]
        yield bytes(data)


def survives(path: Path) -> bool:
    """Whether the file loads; what it gives can be hashed, what it is refused with is at most three lines."""
    try:
        found = load(path, limit=None)
    except InputError as error:
        assert 1 <= len(str(error).splitlines()) <= 3
        return False
    assert found.items and found.reading is not None
    canonical([item.record() for item in found.items]).encode()
    canonical(found.reading.record()).encode()
    assert len({item.id for item in found.items}) == len(found.items)
    assert "\n" not in found.reading.line()
    return True


def attack(folder: Path, suffix: str, seed: int, count: int) -> int:
    """Read `count` mutants, every twentieth also by the command; how many were loaded."""
    base, path, loaded = BASES[suffix](folder), folder / f"mutant{suffix}", 0
    path.write_bytes(base)
    assert survives(path)
    for i, data in enumerate(mutants(base, seed, count)):
        path.write_bytes(data)
        sound = survives(path)
        loaded += sound
        if i % 20 == 0:
            code = cli.main(["generate", "--prompts-file", str(path), "--out", str(folder / "out"), "--dry-run"])
            assert code == (0 if sound else 2)
    assert not (folder / "out").exists()
    return loaded


@pytest.mark.parametrize("suffix", sample(BASES, (".csv", ".jsonl")))
def test_damaged_files(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert attack(tmp_path, suffix, 0, ORDINARY // 4) <= ORDINARY // 4
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("suffix", BASES)
def test_many_damaged_files(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = attack(tmp_path, suffix, 1, MANY)
    assert loaded < MANY or suffix == ".txt"  # any line of text is a prompt
    assert "Traceback" not in capsys.readouterr().err
