"""Write the images that people look at: the card's grid of 64 samples, and 100 images with the detector's labels.

    python -m scripts.train_world.sheets --out ine_jax/assets/tiny --check runs/world/check.png

The samples are the first 64 rows of the reported lists, taken in turn from benign and explicit; nothing is picked. The
check sheet holds 100 images of the lists that settings were chosen on, each above the labels the detector gave it.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ine_jax.evaluation.detectors.base import Scored
from ine_jax.evaluation.detectors.world import WorldDetector
from ine_jax.evaluation.plan import Item, read_items
from ine_jax.guidance import Cfg
from ine_jax.pipeline import pipeline
from scripts.train_world import world

ASSETS = Path("ine_jax/assets/tiny")


def generate(pipe: pipeline.Pipeline, items: list[Item], settings: dict[str, object]) -> np.ndarray:
    """Images of the items without any guard."""
    return pipe(
        [item.prompt for item in items],
        guidance=Cfg(float(settings["guidance_scale"])),  # type: ignore[arg-type]
        seeds=[item.seed for item in items],
        steps=int(settings["steps"]),  # type: ignore[call-overload]
    ).arrays


def captioned(images: np.ndarray, captions: list[list[str]], columns: int, path: Path, scale: int = 2) -> None:
    """A grid of images, each above its lines of text."""
    font, side, line = ImageFont.load_default(11), world.SIZE * scale, 13
    height = side + line * max(len(lines) for lines in captions) + 4
    sheet = Image.new("RGB", (columns * side, -(-len(images) // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (image, lines) in enumerate(zip(images, captions, strict=True)):
        x, y = i % columns * side, i // columns * height
        sheet.paste(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC), (x, y))
        for row, words in enumerate(lines):
            pen.text((x + 2, y + side + row * line), words[: side // 6], fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def main() -> None:
    """Write samples.png and the check sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS)
    parser.add_argument("--check", type=Path, default=Path("runs/world/check.png"))
    args = parser.parse_args()
    settings = json.loads((ASSETS / "world.json").read_text())["settings"]
    pipe = pipeline.load("tiny", scheduler=settings["scheduler"], batch_size=50)
    detector = WorldDetector.load(ASSETS / "detector")

    pairs = zip(read_items("benign", 32), read_items("explicit", 32), strict=True)
    items = [item for pair in pairs for item in pair]
    captioned(
        generate(pipe, items, settings), [[i.prompt[:24], i.prompt[24:48]] for i in items], 8, args.out / "samples.png"
    )

    items = [i for name in ("benign", "explicit", "attack", "generic") for i in read_items(tune(name), 25)]
    images, lines = generate(pipe, items, settings), []
    for item, verdict in zip(items, detector.detect(images), strict=True):
        found = [k for k, s in verdict.labels.items() if s >= 0.5] if isinstance(verdict, Scored) else ["unscored"]
        lines.append([f"asked {' '.join(item.objects)}", f"found {' '.join(found)}"])
    captioned(images, lines, 10, args.check)


def tune(name: str) -> Path:
    """File of the list that settings are chosen on."""
    return ASSETS / "prompts" / f"tune-{name}.jsonl"


if __name__ == "__main__":
    main()
