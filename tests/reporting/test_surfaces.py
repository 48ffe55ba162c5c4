"""No number without its detector, no interval outside its frame, no image without its scales."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ine_jax import reporting
from ine_jax.cli import main as cli
from ine_jax.errors import InputError
from ine_jax.evaluation import Plan, evaluate, score, summarise
from ine_jax.evaluation.detectors.base import Scored
from ine_jax.reporting import csvfile, figures, svg
from ine_jax.reporting.filters import Filters
from ine_jax.reporting.headline import headline
from ine_jax.reporting.measures import Value
from ine_jax.storage.runs import Run, open_run
from scripts.insert_table import titled
from tests.support import fakes
from tests.support.samples import summary as sample

NAMED = dataclasses.replace(fakes.plan(n=4), detector="corner@1")


class Blind(fakes.Corner):
    """A detector that comes first by name and finds nothing."""

    id = "blind"

    def _score(self, images: Any) -> Any:
        return [Scored(dict.fromkeys(fakes.ABOUT["labels"], 0.0)) for _ in images]


def generated(root: Path, plan: Plan = NAMED) -> Run:
    return evaluate(plan, root, generate=fakes.generate, hashes=fakes.hashes)


def main_rates(root: Path) -> tuple[str, list[float]]:
    summary = json.loads((root / "summary.json").read_text())
    return summary["detector"], [cell["attack"]["dsr"] for cell in summary["cells"]]


def test_a_detector_that_is_added_does_not_become_the_headline(tmp_path: Path) -> None:
    run = generated(tmp_path)
    score(run, [fakes.Corner()])
    reporting.build([tmp_path])
    first = main_rates(tmp_path)
    assert first == ("corner@1", [0.5, 0.75])
    score(run, [Blind()])
    assert cli.main(["report", str(tmp_path)]) == 0
    assert main_rates(tmp_path) == first
    text = (tmp_path / "report.md").read_text()
    assert "### Cells\n\nRates by corner\\@1, preset world" in text
    assert "### By another detector: blind\n\nRates by blind\\@1, preset world" in text  # the report shows all
    assert cli.main(["report", str(tmp_path), "--detector", "blind"]) == 0
    assert main_rates(tmp_path) == ("blind@1", [1.0, 1.0])
    assert "### By another detector: corner" in (tmp_path / "report.md").read_text()


def test_without_a_named_detector_two_are_no_headline_and_the_old_report_stays(tmp_path: Path) -> None:
    run = generated(tmp_path, dataclasses.replace(NAMED, detector=""))
    assert "detector" not in run.config
    score(run, [fakes.Corner()])
    reporting.build([tmp_path])
    old = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    score(run, [Blind()])
    with pytest.raises(InputError, match=r"has 2 detectors, and its config names none\nallowed: blind@1, corner@1\n"):
        reporting.build([tmp_path])
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == old
    assert summarise(run, "corner")["detector"] == "corner@1"


def test_a_headline_detector_that_has_not_scored_is_not_replaced(tmp_path: Path) -> None:
    run = generated(tmp_path)
    score(run, [Blind()])
    with pytest.raises(InputError, match=r"is not scored by its corner@1\nallowed: blind@1\n"):
        summarise(run)


def test_a_run_is_bound_to_its_headline_detector(tmp_path: Path) -> None:
    generated(tmp_path)
    assert open_run(tmp_path).config["detector"] == "corner@1"
    with pytest.raises(InputError, match=r'config.detector: "corner@1" -> "blind@1"'):
        generated(tmp_path, dataclasses.replace(NAMED, detector="blind@1"))


def test_every_table_and_every_plot_names_its_detector() -> None:
    whole = sample()
    own, other = "nudenet@3, preset duo", "q16@1, preset q16, threshold 0.5"
    html = reporting.page(whole)
    assert "<title>Safety report by nudenet@3</title>" in html
    before = [html[: match.start()] for match in re.finditer("<table", html)]
    headed = [place[max(place.rindex("<h2>"), place.rfind("<h3>")) :] for place in before]
    rated = [place for place in headed if "sha256 of models" not in place]
    assert len(rated) > 6
    for place in rated:
        assert re.search(rf"Rates by ({own}|{other})", place), place
    assert html.count(other) >= 1
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert len(captions) == html.count('<svg class="scatter"') + html.count('<svg class="sensitivity"') > 3
    assert all(f"by {own}" in caption for caption in captions)
    assert all(
        own in label for label in re.findall(r'<svg class="(?:scatter|sensitivity)"[^>]*aria-label="([^"]*)"', html)
    )
    text = reporting.markdown(whole)
    assert text.count("### ") == len(re.findall(r"\n\nRates by (?:nudenet\\@3, preset duo|q16\\@1)", text))
    assert [line for line in reporting.plain(whole) if not line.startswith(" ")] == [
        f"{title}, rates by {own}, threshold 0.2" for title in ("Cells", "Controls")
    ]
    detectors = {str(row["detector"]) for row in csvfile.rows(whole)}
    assert detectors == {"", f"{own}, threshold 0.2", own, other}


def test_titles_of_a_table_in_a_page_end_in_bold() -> None:
    found = titled(reporting.markdown(sample()))
    assert found.startswith("Rates by nudenet\\@3") and "### " not in found
    titles = [line for line in found.splitlines() if line.startswith("**")]
    assert len(titles) > 4 and all(title.endswith("**") for title in titles)


def crosses(figure: figures.Figure) -> list[tuple[float, ...]]:
    """Left, right and x, and bottom, top and y, of the two intervals of each point."""
    found = re.findall(r'<path class="cross" d="M([\d.]+) ([\d.]+)H([\d.]+)M([\d.]+) ([\d.]+)V([\d.]+)"', figure.svg)
    return [
        (float(a), float(b), float(c), float(d), float(e), float(f))
        for a, c, b, d, e, f in ((left, y, right, x, down, up) for left, y, right, x, down, up in found)
    ]


def test_intervals_are_inside_of_their_frame_and_models_share_it() -> None:
    whole = sample()
    for i, cell in enumerate(whole["cells"]):
        rates = (
            ((0.9, 0.875, 0.972), (0.5, 0.2, 0.61)) if cell["model"] == "model-0" else ((0.3, 0.02, 0.4), (1, 0.6, 1))
        )
        for name, key, (value, low, high) in zip(("i2p", "benign"), ("dsr", "rate"), rates, strict=True):
            cell[name] |= {key: value - 0.001 * (i % 3), "low": low, "high": high}
    shown = figures.scatters(whole, Filters(whole["cells"], ["i2p", "benign"]))
    benign = [figure for figure in shown if "PP (objects), benign" in figure.svg]
    assert [figure.model for figure in benign] == ["model-0", "model-1"]
    assert len({tuple(re.findall(r'text-anchor="(?:middle|end)">([\d.]+)<', figure.svg)) for figure in benign}) == 1
    for figure, ((x, x0, x1), (y, y0, y1)) in zip(
        benign, (((0.9, 0.875, 0.972), (0.5, 0.2, 0.61)), ((0.3, 0.02, 0.4), (1, 0.6, 1))), strict=True
    ):
        assert crosses(figure)
        for left, right, _, px, down, up in crosses(figure):
            assert svg.LEFT <= left < px < right <= svg.WIDTH - svg.RIGHT
            assert svg.TOP <= up < down <= figures.HEIGHT - svg.BOTTOM
            # a clipped end would shorten one side of the point
            assert (px - left) / (right - left) == pytest.approx((x - x0) / (x1 - x0), abs=0.03)
        (_, _, py, _, down, up), *_ = crosses(figure)
        assert (down - py) / (down - up) == pytest.approx((y - y0) / (y1 - y0), abs=0.03)


@pytest.mark.parametrize(
    ("values", "frame"),
    [
        ([Value(0.9, 0.875, 0.972)], (0.8, 1.0)),
        ([Value(0.2, 0.0, 0.43), Value(0.5)], (0.0, 0.55)),
        ([Value(1.0, 0.96, 1.04)], (0.84, 1.04)),  # the mean of a metric may leave [0, 1]
        ([Value(0.0)], (0.0, 0.2)),
    ],
)
def test_frames_hold_values_and_intervals(values: list[Value], frame: tuple[float, float]) -> None:
    assert figures._frame(values) == pytest.approx(frame)


def test_a_bar_ends_without_a_cap_where_its_interval_goes_on() -> None:
    assert str(svg.bar(Value(0.9, 0.8, 1.1), "none")).count("3.5V10.5") == 1
    assert str(svg.bar(Value(0.9, 0.8, 1.0), "none")).count("3.5V10.5") == 2


def test_loss_curves_share_their_axes() -> None:
    curves = {"a": [{"step": 1, "loss": 1.0}, {"step": 10, "loss": 0.5}], "b": [{"step": 5, "loss": 0.2}], "c": []}
    found = figures.losses(curves)
    assert len(found) == 2
    assert len({tuple(re.findall(r">([\d.]+)</text>", figure)) for figure in found}) == 1
    assert "a: loss over 10 steps" in found[0] and "b: loss over 5 steps" in found[1]
    assert figures.losses({"c": [{"step": 1, "loss": None}]}) == []


def test_every_image_shows_both_scales_and_an_items_own(tmp_path: Path) -> None:
    tied = dataclasses.replace(NAMED.cells[1], guidance=fakes.PLAIN, guard="tied")
    items = NAMED.lists["attack"]
    lists = {**NAMED.lists, "attack": (dataclasses.replace(items[0], guidance=5.5), *items[1:])}
    score(
        generated(tmp_path, dataclasses.replace(NAMED, cells=(*NAMED.cells[:2], tied), lists=lists)), [fakes.Corner()]
    )
    html = reporting.build([tmp_path]).read_text()
    heads = re.findall(r'<div class="who">(.*?)</div>', html)
    scales = [" ".join(re.findall(r"<span>((?:guidance|negative) scale [^<]*)</span>", head)) for head in heads]
    assert scales[:3] == [f"guidance scale 5.5{own}" for own in ("", " negative scale 2", " negative scale default")]
    assert scales[3:6] == [f"guidance scale 3{own}" for own in ("", " negative scale 2", " negative scale default")]
    assert len(set(heads[:3])) == len(set(heads[3:6])) == 3


def test_rows_of_the_headline_name_their_scales() -> None:
    assert headline(sample())[0].lines[0].scales == "guidance scale 7.5, negative scale 6.5"
