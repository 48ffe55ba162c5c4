"""The README's image from a finished run: every fifth attack prompt under each negative, with the detector's verdicts.

    python -m scripts.readme_image runs/readme --out docs/images/attack.webp

Images in the same place start from the same prompt and seed. The rates above them are those of the whole prompt set, so
the rule (the first item and every fifth after it) selects what is seen and nothing that is counted.
"""

import argparse
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ine_jax.errors import InputError
from ine_jax.evaluation import summarise
from ine_jax.evaluation.detectors.presets import concept, default_preset
from ine_jax.evaluation.outcomes import DetectorReader, Outcome
from ine_jax.evaluation.records import CellEntry, list_results
from ine_jax.reporting.labels import negative_scale, negative_text, scales_text
from ine_jax.reporting.tables import headline_detector
from ine_jax.storage.runs import Run, open_run

EVERY, COLUMNS = 5, 15
PROMPTS = "attack"
SIDE, FRAME, GAP, LINE = 64, 4, 4, 20  # pixels
PAPER, INK, SOFT = (255, 255, 255), (30, 34, 42), (91, 100, 117)
COLOURS: dict[Outcome, tuple[int, int, int]] = {"success": (31, 122, 70), "failure": (190, 52, 40)}
QUALITY = 88


@dataclasses.dataclass(frozen=True)
class Panel:
    """The images that are shown of one cell, their outcomes, and a heading with the rate of the whole set."""

    heading: str
    images: tuple[np.ndarray, ...]
    outcomes: tuple[Outcome, ...]


def panels(run: Run) -> tuple[list[Panel], str]:
    """A panel per main cell, and a line about the detector and the rule."""
    summary = summarise(run)
    detector = summary["detector"]
    about = run.about(detector)
    preset = default_preset(about["id"])
    reader = DetectorReader(concept(preset, about), frozenset(about["labels"]), preset.threshold)
    main = [i for i, spec in enumerate(run.config["cells"]) if spec["role"] == "main"]
    found = [_panel(run, i, cell, detector, reader) for i, cell in zip(main, summary["cells"], strict=True)]
    total = run.config["lists"][PROMPTS]["n"]
    rule = f"Every fifth of the {total} attack prompts; the same place, the same prompt and seed."
    return found, f"{rule} Verdicts and rates: {headline_detector(summary)}."


def _panel(run: Run, cell: int, entry: CellEntry, detector: str, reader: DetectorReader) -> Panel:
    images: list[np.ndarray] = []
    outcomes: list[Outcome] = []
    place = 0
    for k in run.blocks():
        rows = run.rows(k)
        if (rows[0]["cell"], rows[0]["list"]) != (cell, PROMPTS):
            continue
        lines = {line["id"]: line for line in run.scores(detector, k) or ()}
        sums = run.sums(k)
        for row in rows:
            if place % EVERY == 0:
                line = lines[row["id"]]
                labels = line["labels"] if line["status"] == "scored" else None
                images.append(run.image(k, row["file_name"], sums))
                outcomes.append(reader.outcome("defended", labels, row["objects"]))
            place += 1
    result = list_results(entry)[PROMPTS]
    shown = f"{outcomes.count('success')} of the {len(outcomes)} below"
    scales = scales_text(entry["scale"], negative_scale(entry["negative"], entry["negative_scale"]))
    rate = f"{result['k']} of {result['n']} without the concept (DSR {result['dsr']:.2f}); {shown}"
    return Panel(f"{negative_text(entry)}, {scales}: {rate}", tuple(images), tuple(outcomes))


def sheet(found: Sequence[Panel], note: str, columns: int = COLUMNS) -> bytes:
    """WebP bytes of the panels: a frame and a mark per image say whether the detector finds the concept."""
    if not found or {len(panel.images) for panel in found} != {len(found[0].images)} or not found[0].images:
        raise InputError("panels of different length", "the same items in every panel", "finish the run")
    step = SIDE + 2 * FRAME + GAP
    rows = -(-len(found[0].images) // columns)
    height = LINE + 4 + rows * step + 10
    image = Image.new("RGB", (columns * step + GAP, len(found) * height + 2 * LINE), PAPER)
    pen = ImageDraw.Draw(image)
    for number, panel in enumerate(found):
        top = number * height
        pen.text((GAP, top + 4), panel.heading, INK, ImageFont.load_default(size=17))
        for i, (pixels, outcome) in enumerate(zip(panel.images, panel.outcomes, strict=True)):
            x, y = GAP + i % columns * step, top + LINE + 6 + i // columns * step
            _framed(image, pen, pixels, outcome, x, y)
    small = ImageFont.load_default(size=14)
    legend = "Green, tick: the detector finds no concept. Red, cross: it does."
    for i, line in enumerate((legend, note)):
        pen.text((GAP, len(found) * height + i * LINE - 4), line, SOFT, small)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


def _framed(image: Image.Image, pen: ImageDraw.ImageDraw, pixels: np.ndarray, outcome: Outcome, x: int, y: int) -> None:
    """Paste an image in a frame of its outcome's colour, with a tick or a cross in its corner."""
    colour, end = COLOURS.get(outcome, SOFT), SIDE + 2 * FRAME - 1
    pen.rectangle((x, y, x + end, y + end), fill=colour)
    image.paste(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x + FRAME, y + FRAME))
    left, top = x + end - 15, y + end - 15
    pen.rectangle((left, top, x + end, y + end), fill=colour)
    marks = {"success": [[(3, 8), (6, 11), (12, 4)]], "failure": [[(4, 4), (11, 11)], [(4, 11), (11, 4)]]}
    for line in marks.get(outcome, []):
        pen.line([(left + a, top + b) for a, b in line], PAPER, 2)


def main() -> None:
    """Write the image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images/attack.webp"))
    args = parser.parse_args()
    found, note = panels(open_run(args.run))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(sheet(found, note))
    for panel in found:
        print(panel.heading)
    print(f"{args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
