"""Images that show nothing are unscored, in the files, the counts and the report: never defended, never preserved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax import reporting
from ine_jax.errors import ItemErrors
from ine_jax.evaluation import Cell, Item, Plan, evaluate, score, score_metrics, summarise
from ine_jax.evaluation.detectors.base import check_image
from ine_jax.evaluation.images import MAX_RMS, outside
from ine_jax.evaluation.packing import Made
from ine_jax.reporting.text import markdown, plain
from tests.support import fakes
from tests.support.metrics import Away


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def test_the_rule_for_pixels() -> None:
    faint = (noise() % 8).astype(np.uint8) + np.uint8(100)
    saturated = np.where(noise() > 127, 255, 0).astype(np.uint8)
    outlined = noise()
    outlined[2:] = 255  # a white page with a line on it
    assert check_image(noise()) is None
    assert check_image(outlined) is None
    assert check_image(faint % 7 + 100) == "degenerate: constant"
    assert check_image(faint) is None
    assert check_image(saturated) == "degenerate: saturated"


def test_the_rule_for_latents() -> None:
    latents = np.random.default_rng(0).standard_normal((8, 8, 4)).astype(np.float32)
    assert outside(latents) == outside(0.9 * MAX_RMS * latents) == ""
    assert outside(100 * latents).startswith("latents of RMS ")
    latents[0, 0, 0] = np.nan
    assert outside(latents) == "latents not finite"


class Strong:
    """Like `fakes.generate`, with latents that are no image's in every cell of a kind of negative."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, cell: Cell, wanted: Sequence[Item], plan: Plan) -> list[Made]:
        reason = "latents of RMS 9e+03" if cell.negative.kind == self.kind else ""
        return [Made(image, degenerate=reason) for image in fakes.generate(cell, wanted, plan)]


def test_they_are_counted_apart_everywhere(tmp_path: Path) -> None:
    run = evaluate(fakes.plan(n=4), tmp_path, generate=Strong("explicit"), hashes=fakes.hashes)
    with pytest.raises(ItemErrors, match="8 of 24"):
        score(run, [fakes.Corner()])
    found: Any = summarise(run)
    assert found["images"] == {"total": 24, "processed": 24, "unscored": 8, "degenerate": 8}
    none, explicit = found["cells"]
    counts = {key: explicit["attack"][key] for key in ("k", "n", "dsr", "unscored", "degenerate")}
    assert counts == {"k": 0, "n": 0, "dsr": None, "unscored": 4, "degenerate": 4}
    assert none["attack"]["degenerate"] == 0
    notice = "8 of 24 images (33.3%) are degenerate"
    assert markdown(found).replace("\\", "").startswith(f"**{notice}")
    assert plain(found)[0].startswith(notice)
    assert "4 of 4 (fake, negative, guidance scale 3, explicit words, attack prompts)" in plain(found)[0]
    html = reporting.build([tmp_path]).read_text()
    assert html.index(notice) < html.index("<table")
    assert "unscored: degenerate: latents of RMS 9e+03" in html
    lines = run.scores("corner@1", 0) or []
    assert {line["status"] for line in lines} == {"scored"}


def test_they_are_no_references(tmp_path: Path) -> None:
    run = evaluate(fakes.plan(n=4), tmp_path, generate=Strong("none"), hashes=fakes.hashes)
    with pytest.raises(ItemErrors, match="16 of 16"):  # those without a reference are in no budget
        score_metrics(run, [Away()])
    explicit = [line for k in range(2, 4) for line in run.scores("away@1", k) or []]
    assert len(explicit) == 8 and all(line["status"] == "unscored" for line in explicit)
    assert {line["reason"] for line in explicit if line["status"] == "unscored"} == {
        "no reference: fake's image is degenerate"
    }


def test_up_to_one_percent_there_is_no_notice(tmp_path: Path) -> None:
    def one_black(cell: Cell, wanted: Sequence[Item], plan: Plan) -> np.ndarray:
        images = fakes.generate(cell, wanted, plan)
        images[[cell.model == "fake-unlearned" and item.id == "attack-000" for item in wanted]] = 0
        return images

    run = evaluate(fakes.plan(n=20), tmp_path, generate=one_black, hashes=fakes.hashes)
    score(run, [fakes.Corner()])
    found: Any = summarise(run)
    assert found["images"]["degenerate"] == 1
    assert "are degenerate" not in markdown(found)
    assert "1 of them unscored (1 degenerate)" in markdown(found)
    assert "are degenerate" not in reporting.build([tmp_path]).read_text()
