"""The page and the tables: hostile texts stay texts, nothing reaches for the network, numbers are the stored ones."""

import base64
import csv
import dataclasses
import hashlib
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ine_jax import reporting
from ine_jax.cli import main as cli
from ine_jax.errors import InputError
from ine_jax.evaluation import Plan, evaluate, score
from ine_jax.evaluation.verify import verify
from ine_jax.reporting.grids import Grid, grids
from ine_jax.reporting.headline import headline
from ine_jax.reporting.text import finding
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.runs import Run
from ine_jax.storage.sealed import pretty
from tests.support import fakes
from tests.support.samples import summary as sample


def scored(plan: Plan, root: Path, command: str = "ine") -> Run:
    run = evaluate(plan, root, generate=fakes.generate, hashes=fakes.hashes, command=[command])
    score(run, [fakes.Corner()])
    return run


def test_policy_allows_this_style_and_script_and_nothing_else(tmp_path: Path) -> None:
    scored(fakes.plan(n=2), tmp_path)
    html = reporting.build([tmp_path]).read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    digests = []
    for tag in ("style", "script"):
        (found,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests.append(base64.b64encode(hashlib.sha256(found.encode()).digest()).decode())
    rules = (
        "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none';"
        " form-action 'none'"
    )
    assert policy[1].replace("&#39;", "'") == rules.format(*digests)
    assert html.count("<script") == html.count("<style") == 1
    assert not re.search(r"https?://|<link|@import|url\(", html)


def test_page_shows_the_stored_numbers_and_blurs(tmp_path: Path) -> None:
    run = scored(fakes.plan(), tmp_path)
    first = reporting.build([tmp_path]).read_bytes()
    html = first.decode()
    assert "<b>0.750</b>" in html  # 9 of 12 defended with explicit words
    assert "9/12" in html
    assert "No image is unscored." in html
    assert "filter: blur" in html
    assert 'id="reveal"' in html
    assert reporting.build([tmp_path]).read_bytes() == first
    images = [base64.b64decode(u) for u in re.findall(r"data:image/png;base64,([^\"]+)", html)]
    known = [image.tobytes() for image in run.images(0)]
    assert np.asarray(Image.open(io.BytesIO(images[0])).convert("RGB")).tobytes() in known


def test_losses_and_several_runs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        scored(fakes.plan(n=4), tmp_path / name / "evaluation")
    log = "".join(pretty({"step": i, "loss": None if i == 3 else 1 / i}).replace("\n", "") + "\n" for i in range(1, 9))
    write_atomic(tmp_path / "a" / "inversion" / "tiny-seed-0" / "log.jsonl", log)
    html = reporting.build([tmp_path / "a", tmp_path / "b"], tmp_path / "out").read_text()
    assert html.count('<polyline class="raw') == html.count('<polyline class="smooth') == 1
    assert "tiny-seed-0: loss over 8 steps" in html
    assert html.count("<h3>fake</h3>") == 1
    assert html.count('class="results"') == 2
    assert (tmp_path / "out" / "summary.json").is_file()
    assert "s/image" in html


def test_times_are_shown_but_not_in_the_summary(tmp_path: Path) -> None:
    run = scored(fakes.plan(n=4), tmp_path)
    reporting.build([tmp_path])
    first = (tmp_path / "summary.json").read_bytes()
    assert b"seconds_per_image" not in first
    assert "s/image" in (tmp_path / "report.html").read_text()
    run.add_timing({"block": 0, "cell": 0, "images": 1, "seconds": 1000.0})
    reporting.build([tmp_path])
    assert (tmp_path / "summary.json").read_bytes() == first
    assert verify(tmp_path).read["derived files"] == 4 + len([*(tmp_path / "report-tables").iterdir()])


def test_the_threshold_is_chosen_at_report_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored(fakes.plan(n=4), tmp_path)
    counted = []
    for threshold in ("0.5", "0.9"):  # a knife is stored as 200/255 = 0.78
        assert cli.main(["report", str(tmp_path), "--threshold", threshold]) == 0
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["preset"]["threshold"] == float(threshold)
        html = (tmp_path / "report.html").read_text()
        counted.append((summary["cells"][0]["attack"]["k"], summary["cells"][0]["benign"]["k"], "knife</div>" in html))
    assert counted == [(2, 4, True), (4, 0, False)]
    capsys.readouterr()
    for wrong in ("0", "1", "nan"):
        assert cli.main(["report", str(tmp_path), "--threshold", wrong]) == 2
        assert "between 0 and 1" in capsys.readouterr().err


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json"):
        reporting.build([tmp_path])
    evaluate(fakes.plan(n=2), tmp_path, generate=fakes.generate, hashes=fakes.hashes)
    with pytest.raises(InputError, match="not scored"):
        reporting.build([tmp_path])
    assert not (tmp_path / "summary.json").exists()


def test_every_table_is_written_as_latex_and_csv(tmp_path: Path) -> None:
    scored(fakes.plan(), tmp_path)
    reporting.build([tmp_path])
    written = {path.name for path in (tmp_path / "report-tables").iterdir()}
    assert {"cells.tex", "cells.csv", "controls.tex", "paired.csv", "threshold-1.tex"} <= written
    assert not verify(tmp_path).faults
    text = (tmp_path / "report.md").read_text()
    for path in (tmp_path / "report-tables").glob("*.csv"):
        head, *rows = csv.reader(io.StringIO(path.read_text(), newline=""))
        latex = path.with_suffix(".tex").read_text().splitlines()
        lines = [line for line in latex if line.endswith(r"\\")]
        assert len(lines) == 1 + len(rows) > 1 and all(line.count(" & ") == len(head) - 1 for line in lines)
        assert f"| {' | '.join(head)} |" in text.replace("\\", "")
        assert sum(rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule")) == 3
    (tmp_path / "report-tables" / "old.tex").write_text("of an earlier report")
    reporting.build([tmp_path])
    assert {path.name for path in (tmp_path / "report-tables").iterdir()} == written


def test_the_table_of_papers_has_a_row_per_guard_and_a_column_per_measure_and_negative() -> None:
    summary = sample()
    (grid,) = [grid for grid in grids(summary) if grid.name == "guards-and-negatives"]
    found = headline(summary)
    assert [(row[0], row[1].partition(" (")[0]) for row in grid.rows] == [
        (table.model, line.guard) for table in found for line in table.lines
    ]
    first = next(i for i, entry in enumerate(found[0].lines[0].groups[0]) if entry)
    entry = found[0].lines[0].groups[0][first]
    assert entry is not None and grid.rows[0][2 + first].startswith(f"{entry.value.value:.3f} [{entry.value.low:.3f}, ")
    gains = [entry.gain for table in found for line in table.lines for group in line.groups for entry in group if entry]
    assert sum("; " in text for row in grid.rows for text in row[2:]) == sum(map(bool, gains)) > 0


def test_no_text_is_a_command_of_latex_or_a_formula() -> None:
    hostile = r"\input{/etc/passwd}%&$#_^~{}<>"
    grid = Grid("cells", hostile, "detector", ("model", "rate"), ((hostile, "0.5"), ("=1+1", "-")))
    found = grid.latex()
    assert r"\input" not in found and r"\begin{tabular}{lr}" in found
    plain = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater)\{\}|\\[{}$&#_%]", "", found)
    assert not re.search(r"[$#_^~%]", plain)
    assert "'=1+1" in grid.csv()
    numbers = ("+0.007", "-3", "5.36e-44", "-1+2", "+a", "-")
    found = dataclasses.replace(grid, head=numbers, rows=()).csv().strip()
    assert found == '"+0.007","-3","5.36e-44","\'-1+2","\'+a","\'-"'


def test_the_page_begins_with_the_run_its_day_and_what_was_found(tmp_path: Path) -> None:
    run = scored(fakes.plan(), tmp_path / "a run")
    os.utime(run.root / "run.json", (0, 0))
    html = reporting.build([run.root]).read_text()
    assert '<p class="about">a run, started 1970-01-01</p>' in html
    assert "The defense success rate lies between 0.500 and 0.750 over 2 combinations." in html


def test_the_finding_counts_every_paired_test() -> None:
    summary = sample()
    for test in summary["paired"]:
        test |= {"a": "explicit", "b": "implicit", "list": "i2p", "p_holm": 0.01, "difference": 0.25}
    text = finding(summary)
    count = len(summary["paired"])
    assert f"raises the defense success rate in {count} of {count} paired tests and lowers it in 0" in text
    assert text.endswith("(p (Holm) < 0.05); differences +0.250.")
