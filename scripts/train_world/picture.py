"""Draw the README's picture from a finished demo: the first attack items across the guards of the unlearned model.

    python -m scripts.train_world.picture --demo runs/demo-full --out docs/images/grid.png

The items are the first of the reported attack list, in order; nothing is picked.
"""

import argparse
from pathlib import Path

import numpy as np

from ine_jax import report
from ine_jax.storage import runs

MODEL, ITEMS = "tiny-unlearned-0", 10
LABELS = {"none": "no negative", "explicit": "explicit words", "implicit": "implicit embedding"}


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo-full"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/grid.png"))
    args = parser.parse_args()
    run = runs.open_run(args.demo / "evaluation")
    cells = {}
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
    grid = report.grid([found[name] for name in LABELS], short, list(LABELS.values()), cell=96)
    args.out.write_bytes(grid)


if __name__ == "__main__":
    main()
