"""Encodings, quirks and refusals of prompt files, in every format."""

import json
from pathlib import Path
from typing import Any

import pytest

from ine_jax.cli import main as cli
from ine_jax.errors import InputError
from ine_jax.prompts import Reading, load
from ine_jax.prompts.columns import MAX_TEXT
from ine_jax.prompts.items import Item


def reading(path: Path, **options: Any) -> Reading:
    found = load(path, **options).reading
    assert found is not None
    return found


def prompts(path: Path, **options: Any) -> list[str]:
    return [item.prompt for item in load(path, **options).items]


def test_text_is_a_prompt_per_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffa cat\r\n\n  a dog \nx\u2028y".encode())
    assert load(path).items == (Item("0", "a cat", 0), Item("1", "a dog", 1), Item("2", "x\u2028y", 2))
    assert (reading(path).blank, reading(path).encoding) == (1, "utf-8-sig")


def test_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = [
        {"prompt": "a", "seed": 3, "id": 7, "more": 1},
        {"caption": "b", "objects": ["cat"], "categories": "x, y", "guidance": 3, "height": 64, "width": 96.0},
        {"Prompt": None, "seed": "12", "id": 1.0},
        {"prompt": "\ud800half \U0001f52b", "id": "a\u0000b"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load(path, seed=10, stride=2).items == (
        Item("7", "a", 3),
        Item("1", "b", 12, ("cat",), ("x", "y"), 3.0, 64, 96),
        Item("1#2", "", 12),
        Item("a b", "\ufffdhalf \U0001f52b", 16),
    )
    found = reading(path)
    assert (found.rows, found.empty, found.duplicates, found.replaced) == (4, 1, 1, 1)


def test_csv_quotes_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b'Prompt , SEED,note\r\n"a ""cat"", or\r\ntwo",5,x\r\n\r\n,,\r\nb\r\n')
    assert load(path).items == (Item("0", 'a "cat", or\r\ntwo', 5), Item("1", "", 1), Item("2", "b", 2))
    assert (reading(path).blank, reading(path).empty) == (1, 1)


@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark_are_known(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes("prompt,seed\na \uace0\uc591\uc774,5\n".encode(mark))
    assert load(path).items == (Item("0", "a \uace0\uc591\uc774", 5),)
    assert reading(path).replaced == 0


def test_encodings_without_one_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes("caption\n\uace0\uc591\uc774\n".encode("cp949"))
    assert (prompts(path, encoding="cp949"), reading(path, encoding="cp949").replaced) == (["\uace0\uc591\uc774"], 0)
    assert reading(path).replaced > 0
    path.write_bytes("caption\na cat\n".encode("utf-16-le"))
    assert prompts(path, encoding="utf-16-le") == ["a cat"]
    with pytest.raises(InputError, match="NUL bytes"):
        load(path)
    for name in ("zip", "rot13", "utf-9", "unicode_escape"):
        with pytest.raises(InputError, match="encoding"):
            load(path, encoding=name)


def test_nul_and_broken_bytes_are_replaced_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b"prompt,seed\na\x00cat sat on the mat,1\ncaf\xe9 \xf0\x9f,2\n\xef\xbf\xbd,3\n")
    assert prompts(path) == ["a cat sat on the mat", "caf\ufffd \ufffd", "\ufffd"]
    assert reading(path).replaced == 3


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "p.parquet"
    table = {
        "Sensitive prompt": pa.array(["a", None, "c"], pa.large_string()),
        "sd_seed": [3, None, 5],
        "guidance": [7.5, float("nan"), 1.0],
        "categories": [["x"], ["y", "z"], None],
        "unread": [[1], [2], [3]],
    }
    parquet.write_table(pa.table(table), path)
    assert load(path).items == (
        Item("0", "a", 3, (), ("x",), 7.5),
        Item("1", "", 1, (), ("y", "z")),
        Item("2", "c", 5, (), (), 1.0),
    )
    # a few thousand bytes that would unfold to 20 and to 4 GB
    for length, rows, reason in ((200_000, 100_000, "over 131072 characters"), (100_000, 40_000, "256 million")):
        once = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * length]))
        parquet.write_table(pa.table({"prompt": once}), path)
        assert path.stat().st_size < 20_000
        with pytest.raises(InputError, match=reason):
            load(path)
    parquet.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(InputError, match="columns text"):
        load(path)


def test_parquet_without_its_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"ine_jax\[parquet\]"):
        load(tmp_path / "p.parquet")


WRONG = {
    "none.txt": (None, "no such file"),
    "empty.txt": (b"\n \n", "0 rows"),
    "prompts.tsv": (b"prompt\na\n", r"\.txt, \.csv"),
    "broken.jsonl": (b'{"prompt": "a"}\n{"prompt": \n', "line 2"),
    "list.jsonl": (b"[1]\n", "line 1"),
    "number.jsonl": (b'{"prompt": 3}\n', "prompt is not text"),
    "seed.jsonl": (b'{"prompt": "a", "seed": -1}\n', "seed -1"),
    "half.jsonl": (b'{"prompt": "a", "seed": 0.5}\n', "seed 0.5"),
    "bool.jsonl": (b'{"prompt": "a", "seed": true}\n', "True"),
    "word.csv": (b"prompt,seed\na,many\n", "line 2.*many"),
    "big.jsonl": (b'{"prompt": "a", "seed": 4294967296}\n', "seed 4294967296"),
    "huge.jsonl": (b'{"prompt": "a", "seed": 1' + b"0" * 400 + b"}\n", "is not a number"),
    "digits.jsonl": (b'{"prompt": "a", "seed": 1' + b"0" * 5000 + b"}\n", "line 1"),
    "guidance.csv": (b"prompt,guidance\na,-1\n", "guidance scale -1"),
    "endless.csv": (b"prompt,guidance\na,inf\n", "guidance scale inf"),
    "id.jsonl": (b'{"prompt": "a", "id": [1]}\n', "id is neither"),
    "objects.jsonl": (b'{"prompt": "a", "objects": [1]}\n', "not a list of"),
    "deep.jsonl": (b"[" * 100_000 + b"\n", "line 1"),
    "long.jsonl": (b'{"prompt": "' + b"a" * (MAX_TEXT + 1) + b'"}\n', f"text of {MAX_TEXT + 1} characters"),
    "long.csv": (b"prompt\n" + b"a" * (MAX_TEXT + 1) + b"\n", "line 2.*field limit"),
    "long.txt": (b"a" * 10_000_000 + b"\n", "line 1: over 1,048,576 characters"),
    "open.csv": (b'prompt,seed\n"a,1\nb,2\n', "unexpected end"),
    "fields.csv": (b"prompt,seed\na, cat,1\n", "line 2: 3 fields where the header has 2"),
    "head.csv": (b"text,seed\na,1\n", "columns text, seed"),
    "twice.csv": (b"prompt,PROMPT\na,b\n", "occurs twice"),
    "headless.csv": (b"", "0 rows"),
    "not.parquet": (b"PAR1 not", "not.parquet"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_refused_with_their_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, reason = WRONG[name]
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        load(path)
    for command in (["generate", "--prompts-file", str(path)], ["evaluate", "--prompts", str(path)]):
        assert cli.main([*command, "--out", str(tmp_path / "out"), "--dry-run"]) == 2
        assert 1 <= len(capsys.readouterr().err.splitlines()) <= 3
    assert not (tmp_path / "out").exists()


def test_names_of_columns_and_ids_cannot_speak_to_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.csv"
    path.write_text("text\x1b[31m\u202e\na\n")
    assert cli.main(["evaluate", "--prompts", str(path), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error and "\u202e" not in error


def test_what_was_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b"adv_prompt,idx\na\xff,1\n,1\n")
    line = "p.csv: 2 rows (prompt from adv_prompt, id from idx), empty prompts: 1, ids made distinct: 1, "
    assert reading(path).line() == line + "replaced characters: 1"
    assert cli.main(["evaluate", "--prompts", str(path), "attack", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert line in out and "attack.jsonl:" not in out


def test_a_file_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p\udcff.txt"
    path.write_text("a\n")
    with pytest.raises(InputError, match="its name is not UTF-8"):
        load(path)


@pytest.mark.slow
def test_a_million_rows_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("a\n" * 1_000_000)
    assert len(load(path).items) == 1_000_000
    path.write_text("a\n" * 1_000_001)
    with pytest.raises(InputError, match="over 1000000 rows"):
        load(path)
