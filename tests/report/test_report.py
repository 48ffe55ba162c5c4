"""The page and the tables: hostile texts stay texts, nothing reaches for the network, numbers are the stored ones."""

import base64
import dataclasses
import hashlib
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluate"))
import fakes

from ine_jax import cli, report
from ine_jax.config import NegativeConfig
from ine_jax.errors import InputError
from ine_jax.evaluate import Cell, Plan, evaluate, score
from ine_jax.runs import Run
from ine_jax.storage import pretty, write_atomic

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><style>*{display:none}</style>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "<a href='javascript:alert(1)'>x</a>",
    "<iframe src='https://example.org'></iframe>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "<!-- comment --> ]]> <![CDATA[ x",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "\u202eevil\u2066 bidi \u2069",
    "\x1b[31mred\x1b[0m \x07 \x00 bell",
    "<base href='https://example.org/'>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<math><mi xlink:href='data:x,<script>alert(1)</script>'>",
    "\u2028\u2029</title><title>x",
    "[link](javascript:alert(1)) | table | `code`",
    "=cmd|' /C calc'!A0",
    "\U0001f600 <b>bold</b>",
]


class Elements(HTMLParser):
    """Counts elements and remembers attributes that could act."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.acting: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            if name.startswith("on") or name in ("href", "srcdoc", "action", "style"):
                self.acting.append(f"{tag} {name}={value}")
            if name == "src" and not (value or "").startswith("data:image/"):
                self.acting.append(f"{tag} {name}={value}")


def parse(html: str) -> Elements:
    parser = Elements()
    parser.feed(html)
    return parser


def hostile(plan: Plan, text: str) -> Plan:
    """The plan with `text` wherever a user may write."""
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


def judged(plan: Plan, root: Path, command: str = "ine") -> Run:
    run = evaluate(plan, root, draw=fakes.draw, hashes=fakes.hashes, command=[command])
    score(run, fakes.Corner(), about=fakes.ABOUT)
    return run


def test_hostile_texts_make_no_element(tmp_path: Path) -> None:
    plain = fakes.plan(n=2)
    judged(plain, tmp_path / "plain")
    want = parse(report.build([tmp_path / "plain"]).read_text())
    assert want.tags["img"] == 8
    assert not want.acting
    for i, text in enumerate(HOSTILE):
        judged(hostile(plain, text), tmp_path / str(i), text)
        html = report.build([tmp_path / str(i)]).read_text()
        found = parse(html)
        assert found.tags == want.tags, text
        assert not found.acting, text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", html), text
        markdown = (tmp_path / str(i) / "report.md").read_text()
        assert "<script" not in markdown.replace("\\<", ""), text
        terminal = "".join(report.plain(json.loads((tmp_path / str(i) / "summary.json").read_text())))
        assert not re.search("[\x00-\x08\x1b\u202e\u2066]", markdown + terminal), text


def test_policy_allows_this_style_and_nothing_else(tmp_path: Path) -> None:
    judged(fakes.plan(n=2), tmp_path)
    html = report.build([tmp_path]).read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    style = re.search(r"<style>(.*?)</style>", html, re.S)
    assert policy is not None
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    rules = "default-src 'none'; img-src data:; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"
    assert policy[1] == rules.format(digest)
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)


def test_page_shows_the_stored_numbers_and_blurs(tmp_path: Path) -> None:
    run = judged(fakes.plan(), tmp_path)
    first = report.build([tmp_path]).read_bytes()
    html = first.decode()
    assert "<b>0.750</b>" in html  # 9 of 12 defended with explicit words
    assert "9/12" in html
    assert "none unscored" in html
    assert "filter: blur" in html
    assert 'id="reveal"' in html
    assert report.build([tmp_path]).read_bytes() == first
    images = [base64.b64decode(u) for u in re.findall(r"data:image/png;base64,([^\"]+)", html)]
    known = [image.tobytes() for image in run.images(0)]
    assert np.asarray(Image.open(io.BytesIO(images[0])).convert("RGB")).tobytes() in known


def test_losses_and_several_runs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        judged(fakes.plan(n=4), tmp_path / name / "evaluation")
    log = "".join(pretty({"step": i, "loss": None if i == 3 else 1 / i}).replace("\n", "") + "\n" for i in range(1, 9))
    write_atomic(tmp_path / "a" / "inversion" / "tiny-seed-0" / "log.jsonl", log)
    html = report.build([tmp_path / "a", tmp_path / "b"], tmp_path / "out").read_text()
    assert html.count("<polyline") == 2
    assert "tiny-seed-0: loss over 8 steps" in html
    assert html.count("<th>negative</th>") == 2
    assert (tmp_path / "out" / "summary.json").is_file()
    assert "s/image" in html


def test_summaries_of_single_runs_have_times_too(tmp_path: Path) -> None:
    run = judged(fakes.plan(n=4), tmp_path)
    report.build([tmp_path])
    summary = json.loads((tmp_path / "summary.json").read_text())
    seconds = [entry["seconds"] / entry["images"] for entry in run.timings() if entry["cell"] == 0]
    assert summary["cells"][0]["seconds_per_image"] == round(sorted(seconds)[0], 5)
    assert all(cell["seconds_per_image"] is not None for cell in summary["cells"] + summary["controls"])
    assert "s/image" in (tmp_path / "report.html").read_text()


def test_the_threshold_is_chosen_at_report_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged(fakes.plan(n=4), tmp_path)
    counted = []
    for threshold in ("0.5", "0.9"):  # a knife is stored as 200/255 = 0.78
        assert cli.main(["report", str(tmp_path), "--threshold", threshold]) == 0
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["preset"]["threshold"] == float(threshold)
        html = (tmp_path / "report.html").read_text()
        counted.append((summary["cells"][0]["attack"]["k"], summary["cells"][0]["benign"]["k"], ">knife<" in html))
    assert counted == [(2, 4, True), (4, 0, False)]
    capsys.readouterr()
    for wrong in ("0", "1", "nan"):
        assert cli.main(["report", str(tmp_path), "--threshold", wrong]) == 2
        assert "between 0 and 1" in capsys.readouterr().err


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json"):
        report.build([tmp_path])
    evaluate(fakes.plan(n=2), tmp_path, draw=fakes.draw, hashes=fakes.hashes)
    with pytest.raises(InputError, match="not scored"):
        report.build([tmp_path])
    assert not (tmp_path / "summary.json").exists()


def test_grid() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0] = 200
    data = report.grid([[image, image], [image, image]], ["none", "implicit"], ["a", "b"], title="t", cell=64)
    picture = Image.open(io.BytesIO(data))
    assert picture.width > 128
    assert np.asarray(picture)[-40, -40].tolist() == [200, 0, 0]
    for rows, columns in (([[image], [image, image]], ["x"]), ([], []), ([[image]], ["x", "y"])):
        with pytest.raises(InputError):
            report.grid(rows, columns)
