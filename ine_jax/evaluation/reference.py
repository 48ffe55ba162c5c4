"""The image that another is compared with: the reference model's, unguarded, of the same item and noise."""

from collections.abc import Sequence

import numpy as np

from ine_jax.errors import InputError
from ine_jax.storage.records import CellSpec, Row, RunConfig
from ine_jax.storage.runs import Run

NO_REFERENCE = "no reference: "  # begins the reason of an item without a reference


def reference_model(config: RunConfig, name: str = "") -> str:
    """The reference model's name as cells have it: `name`, or the first cell's. InputError where no cell has it."""
    models = list(dict.fromkeys(spec["model"] for spec in config["cells"]))
    if name and name not in models:
        raise InputError(f"reference model {name!r}", ", ".join(models), "choose a model of this run")
    return name or models[0]


def is_unguarded(spec: CellSpec) -> bool:
    """Whether a cell has no guard: classifier-free guidance alone, no negative."""
    return spec["negative"] == "none" and spec["guidance"]["method"] == "negative"


def reference_cell(config: RunConfig, cell: int, name: str, model: str) -> int | None:
    """The reference model's unguarded cell on the set `name`: that of the cell's own scale, or else the first."""
    specs = config["cells"]
    plain = [
        i for i, spec in enumerate(specs) if spec["model"] == model and is_unguarded(spec) and name in spec["lists"]
    ]
    scale = specs[cell]["guidance"]["scale"]
    return next((i for i in plain if specs[i]["guidance"]["scale"] == scale), plain[0] if plain else None)


class References:
    """The references of a run's images. Keeps the first item of each block of the reference model, no image."""

    def __init__(self, run: Run, model: str) -> None:
        """Read with which prompt set and item every finished block of an unguarded cell of `model` begins."""
        self.run, self.model = run, model
        specs = run.config["cells"]
        self._blocks: dict[tuple[int, str, str], int] = {}
        blocks = run.blocks()
        self._complete = len(blocks) == run.config["blocks"]
        for k in blocks:
            first = next(iter(run.rows(k)), None)
            if first and specs[first["cell"]]["model"] == model and is_unguarded(specs[first["cell"]]):
                self._blocks[first["cell"], first["list"], first["id"]] = k

    def of(self, rows: Sequence[Row]) -> list[np.ndarray | str] | None:
        """The reference of each row of a block, or why it has none; None where its block is not finished yet."""
        first = rows[0]
        cell = reference_cell(self.run.config, first["cell"], first["list"], self.model)
        if cell is None:
            return [f"{NO_REFERENCE}{self.model} has no unguarded cell on this prompt set"] * len(rows)
        # cells cut a list into the same blocks, so that the block of the same items begins with the same one
        k = self._blocks.get((cell, first["list"], first["id"]))
        missing = f"{NO_REFERENCE}{self.model} has no image of the item"
        if k is None:
            return [missing] * len(rows) if self._complete else None
        sums = self.run.sums(k)
        known = {(row["id"], row["prompt"], row["seed"]): row for row in self.run.rows(k)}
        found: list[np.ndarray | str] = []
        for row in rows:
            other = known.get((row["id"], row["prompt"], row["seed"]))
            if other is None or "degenerate" in other:
                found.append(missing if other is None else f"{NO_REFERENCE}{self.model}'s image is degenerate")
            else:
                found.append(self.run.image(k, other["file_name"], sums))
        return found
