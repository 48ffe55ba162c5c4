"""The image of the README from a finished demo: the first attack items under the negatives of the unlearned model.

    python -m scripts.train_world.grid --demo runs/demo-full --out docs/images/grid.png

The items are the first of the attack prompts, in order; nothing is selected.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ine_jax.errors import InputError, clean
from ine_jax.storage import runs

MODEL, ITEMS = "tiny-unlearned-0", 10
PAPER, INK = (255, 255, 255), (30, 34, 42)
GAP, LINE = 6, 17  # pixels between images, and per line of a heading
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
LABELS = {"none": "no negative", "explicit": "explicit words", "implicit": "implicit"}


def main() -> None:
    """Write the image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo-full"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/grid.png"))
    args = parser.parse_args()
    run = runs.open_run(args.demo / "evaluation")
    cells: dict[int, str] = {}
    for number, spec in enumerate(run.config["cells"]):
        if spec["model"] == MODEL and spec["role"] == "main" and spec["negative"] not in cells.values():
            cells[number] = spec["negative"]
    found: dict[str, list[np.ndarray]] = {name: [] for name in LABELS}
    prompts: list[str] = []
    for k in run.blocks():
        rows = run.rows(k)
        if rows[0]["list"] != "attack" or rows[0]["cell"] not in cells:
            continue
        name = cells[rows[0]["cell"]]
        for row, image in zip(rows, run.images(k), strict=True):
            if len(found[name]) < ITEMS:
                found[name].append(image)
                prompts += [row["prompt"]] if name == "none" else []
    args.out.parent.mkdir(parents=True, exist_ok=True)
    short = [prompt.split(" on a ")[0] for prompt in prompts]
    args.out.write_bytes(grid([found[name] for name in LABELS], short, list(LABELS.values()), cell=96))


def grid(
    images: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    *,
    cell: int = 96,
    title: str = "",
) -> bytes:
    """PNG bytes of a labelled grid of `images[r][c]`, uint8 [H, W, 3], each shown at `cell` pixels.

    Small images are first enlarged by a whole factor without smoothing, so that their pixels stay visible.

    Raises:
        InputError: rows differ in length, or labels do not fit.
    """
    count = len(images[0]) if images else 0
    fitting = {len(row) for row in images} == {count} and len(columns) in (0, count) and len(rows) in (0, len(images))
    if not count or not fitting:
        given = f"a grid with rows of {sorted({len(row) for row in images})} images"
        raise InputError(given, "rows of one length, one label for each row and column", "")
    font = ImageFont.load_default(size=13)
    left = max((_width(font, clean(label)) + 12 for label in rows), default=0)
    headings = [_wrap(font, clean(label), cell + GAP - 2) for label in columns]
    top = (26 if title else 0) + max((LINE * len(lines) + 6 for lines in headings), default=0)
    step = cell + GAP
    sheet = Image.new("RGB", (left + count * step + GAP, top + len(images) * step + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 5), clean(title), INK, ImageFont.load_default(size=15))
    for c, lines in enumerate(headings):
        for i, line in enumerate(lines):
            x = left + GAP + c * step + (cell - _width(font, line)) // 2
            pen.text((max(0, x), top - LINE * (len(lines) - i) - 3), line, INK, font)
    for r, row in enumerate(images):
        y = top + GAP // 2 + r * step
        if rows:
            pen.text((GAP, y + cell // 2 - 8), clean(rows[r]), INK, font)
        for c, image in enumerate(row):
            sheet.paste(_fit(image, cell), (left + GAP + c * step, y))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _fit(pixels: np.ndarray, cell: int) -> Image.Image:
    image = Image.fromarray(pixels)
    factor = max(1, cell // max(image.size))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image.resize((cell, cell), Image.Resampling.LANCZOS)


def _width(font: Font, text: str) -> int:
    return int(font.getlength(text)) + 1


def _wrap(font: Font, text: str, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and _width(font, f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


if __name__ == "__main__":
    main()
