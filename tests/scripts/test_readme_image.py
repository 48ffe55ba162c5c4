"""The README's image: what is shown follows a rule, what is counted is the whole prompt set."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ine_jax.errors import InputError
from ine_jax.evaluation import evaluate, score
from scripts.readme_image import COLOURS, GAP, LINE, Panel, panels, sheet
from tests.support import fakes
from tests.support.paths import ROOT


def test_every_fifth_item_with_its_verdict_below_the_rate_of_all(tmp_path: Path) -> None:
    plan = dataclasses.replace(fakes.plan(n=12, block=5), detector="corner@1")
    run = evaluate(plan, tmp_path, generate=fakes.generate, hashes=fakes.hashes)
    score(run, [fakes.Corner()])
    (plain, words), note = panels(run)
    items = plan.lists["attack"][::5]
    assert plain.outcomes == tuple("failure" if item.seed % 2 == 0 else "success" for item in items)
    for panel, cell in ((plain, plan.cells[0]), (words, plan.cells[1])):
        np.testing.assert_array_equal(np.stack(panel.images), fakes.generate(cell, items, plan))
    assert plain.heading == ("no negative, guidance scale 3: 6 of 12 without the concept (DSR 0.50); 1 of the 3 below")
    assert words.heading.startswith("explicit words, guidance scale 3, negative scale 2: 9 of 12 ")
    assert note.startswith("Every fifth of the 12 attack prompts") and "corner@1, preset world, threshold 0.5" in note


def test_frames_have_the_colour_of_the_outcome() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    one = Panel("heading", (image,) * 3, ("success", "failure", "unscored"))
    data = np.asarray(Image.open(io.BytesIO(sheet([one], "note", columns=3))).convert("RGB")).astype(int)
    row = data[LINE + 8 + 20]  # through the frames at the left of the images
    found = [row[GAP + i * 76 + 1] for i in range(3)]
    for pixel, colour in zip(found, (COLOURS["success"], COLOURS["failure"], (91, 100, 117)), strict=True):
        assert np.abs(pixel - colour).max() < 40
    for wrong in ([], [Panel("", (), ())], [one, Panel("", (image,), ("success",))]):
        with pytest.raises(InputError, match="panels of different length"):
            sheet(wrong, "note")


def test_the_image_of_the_readme_is_small() -> None:
    path = ROOT / "docs/images/attack.webp"
    assert str(path.relative_to(ROOT)) in (ROOT / "README.md").read_text("utf-8")
    assert path.stat().st_size < 400_000
