"""Texts of strangers stay texts: in the page, on the terminal, in Markdown and in CSV."""

import csv
import dataclasses
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ine_jax import reporting
from ine_jax.cli import main as cli
from ine_jax.config import NegativeConfig
from ine_jax.errors import printable
from ine_jax.evaluation import Cell, Item, Plan, evaluate, score
from ine_jax.reporting import csvfile
from tests.support import fakes
from tests.support.payloads import payloads
from tests.support.samples import summary as sample

TEXTS = payloads()
# Every tenth text, which has all kinds of them; the others are slow.
PARTS = [pytest.param(TEXTS[part::10], id=str(part), marks=[pytest.mark.slow] * (part > 0)) for part in range(10)]
GUARDS = ("sld-max",)
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


class Elements(HTMLParser):
    """Counts elements and remembers attributes that could act."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.names: set[str] = set()
        self.acting: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            self.names.add(name)
            local = name == "href" and re.fullmatch("#[a-z0-9-]+", value or "")
            image = name == "src" and re.fullmatch("data:image/png;base64,[A-Za-z0-9+/=]+", value or "")
            loads = name in ("href", "src", "srcdoc", "action", "style", "data", "xlink:href")
            if name.startswith("on") or (loads and not (local or image)):
                self.acting.append(f"{tag} {name}={value}")


def parse(html: str) -> Elements:
    parser = Elements()
    parser.feed(html)
    parser.close()
    return parser


def test_there_are_five_hundred_texts() -> None:
    assert len(set(TEXTS)) == 500
    assert sum("\x1b" in text for text in TEXTS) > 50


def prompted(root: Path, texts: list[str]) -> Path:
    """A scored run whose prompts and ids are the texts."""
    items = tuple(Item(f"{i}{text}", text, i, ("cat",)) for i, text in enumerate(texts))
    cells = (Cell("fake", (("attack", len(items)),), fakes.PLAIN),)
    run = evaluate(
        Plan(cells, {"attack": items}, steps=2, block=50), root, generate=fakes.generate, hashes=fakes.hashes
    )
    score(run, [fakes.Corner()])
    return root


def test_hostile_prompts_make_no_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules["ine_jax.reporting.sheets"].SHOWN, "attack", len(TEXTS))
    texts = [text.encode("utf-8", "replace").decode() for text in TEXTS]  # half a pair is no text of a file
    html = reporting.build([prompted(tmp_path / "hostile", texts)]).read_text()
    few, more = (
        parse(reporting.build([prompted(tmp_path / str(n), [f"a cat {i}" for i in range(n)])]).read_text())
        for n in (5, 10)
    )
    found, want = parse(html), more
    each = {tag: (count - few.tags[tag]) // 5 for tag, count in more.tags.items()}  # elements of one item
    assert each["article"] == 1
    assert found.tags == {tag: count + each[tag] * (len(texts) - 10) for tag, count in more.tags.items()}
    assert found.names == want.names
    assert not found.acting
    assert not HIDDEN.search(html)
    assert "fetch(&#39;https://harm.example/x&#39;)" in html  # they are there, as text


@pytest.mark.parametrize("texts", PARTS)
def test_hostile_names_make_no_element(texts: list[str]) -> None:
    want = parse(reporting.page(sample("x", 1, GUARDS), curves={"x": [{"step": 1, "loss": 1.0}]}))
    labels = want.tags.pop("text") + 8
    for text in texts:
        whole = sample(f"x{text}x", 1, GUARDS)
        html = reporting.page(whole, curves={f"x{text}x": [{"step": 1, "loss": 1.0}]})
        found = parse(html)
        # a label of a figure that finds no place among the others is left off
        assert found.tags.pop("text") <= labels, text
        assert found.tags == want.tags, text
        assert found.names == want.names, text
        assert not found.acting, text
        assert not HIDDEN.search(html), text


def tables_of(text: str) -> list[int]:
    """Number of columns of every table row of a Markdown text, as GFM counts them."""
    rows = [line for line in text.split("\n") if line.startswith("|")]
    return [len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows]


@pytest.mark.parametrize("texts", PARTS)
def test_hostile_names_in_markdown_and_on_a_terminal(texts: list[str]) -> None:
    want = reporting.markdown(sample("x", 1, GUARDS))
    for text in texts:
        whole = sample(f"x{text}x", 1, GUARDS)
        markdown = reporting.markdown(whole)
        terminal = "\n".join([*reporting.plain(whole), *reporting.sentences(whole)])
        assert not HIDDEN.search(markdown + terminal), text
        assert len(markdown.split("\n")) == len(want.split("\n")), text
        assert tables_of(markdown) == tables_of(want), text
        bare = re.sub(r"\\.", "", markdown)  # what is left means something to Markdown
        assert not re.search(r"[<>\[\]`*_~$&]|://|www\.", bare), text


@pytest.mark.parametrize("texts", PARTS)
def test_hostile_names_in_csv(texts: list[str]) -> None:
    for text in texts:
        whole = sample(text, 1, GUARDS)
        written = reporting.write_csv(whole)
        cells = list(csv.reader(io.StringIO(written, newline="")))
        assert {len(row) for row in cells} == {len(csvfile.COLUMNS)}, text
        places = [i for i, name in enumerate(csvfile.COLUMNS) if name in csvfile.TEXTS]
        for row in cells[1:]:
            for i, cell in enumerate(row):
                assert i not in places or not cell.startswith(csvfile.FORMULA) or cell.startswith("'"), cell
                assert i in places or not cell or float(cell) == float(cell), cell
        assert "\x1b" not in written, text
        read, given = reporting.read_csv(written), list(csvfile.rows(whole))
        assert len(read) == len(given)
        for line, values in zip(read, given, strict=True):
            known = {k: v for k, v in values.items() if v not in ("", None) and k in csvfile.COLUMNS}
            assert line == {k: kept(v) if isinstance(v, str) else v for k, v in known.items()}, text


def kept(text: str) -> str:
    """The text as CSV carries it: control characters are blanks, but for tabs and line ends."""
    return "".join(part if part in "\t\r\n" else printable(part) for part in re.split("([\t\r\n])", text))


def test_numbers_of_a_csv_stay_numbers() -> None:
    whole = sample()
    whole["cells"][0]["scale"] = -0.25
    text = reporting.write_csv(whole)
    first = reporting.read_csv(text)[0]
    assert first["scale"] == -0.25
    assert ",-0.25," in text
    assert first["model"] == "model-0"
    with pytest.raises(ValueError, match="other columns"):
        reporting.read_csv("a,b\n1,2\n")


def named(plan: Plan, text: str) -> Plan:
    """The plan with `text` wherever a user may write a name."""
    lists = {
        name: tuple(dataclasses.replace(item, prompt=text, id=f"{item.id}{text}") for item in items)
        for name, items in plan.lists.items()
    }
    cells = tuple(
        dataclasses.replace(cell, model=f"{cell.model}{text}", guard=f"g{text}", negative=avoided(cell, text))
        for cell in plan.cells
    )
    return dataclasses.replace(plan, cells=cells, lists=lists)


def avoided(cell: Cell, text: str) -> NegativeConfig:
    """The negative of the cell with `text` for its name and, where it has words, for each of them."""
    return dataclasses.replace(cell.negative, name=text, words=(text, text) if cell.negative.words else "")


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "\x1b[31m[red]=1+1\u202e", '"><svg onload=alert(1)>']
)
def test_a_whole_run_of_hostile_names(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = evaluate(named(fakes.plan(n=2), text), tmp_path, generate=fakes.generate, hashes=fakes.hashes, command=[text])
    score(run, [fakes.Corner()])
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert not HIDDEN.search(printed.out.replace("\n", "") + printed.err.replace("\n", ""))
    html = (tmp_path / "report.html").read_text()
    assert not parse(html).acting
    assert parse(html).tags["script"] == 1
    assert not HIDDEN.search(html + (tmp_path / "report.md").read_text())
    whole: dict[str, Any] = json.loads((tmp_path / "summary.json").read_text())
    assert whole["cells"][0]["guard"] == f"g{text}"  # the file for programs holds what was given
