"""FID of stored features: each cell and list against the reference model's, and against real images where given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ine_jax.evaluation.counting import DIGITS, Place
from ine_jax.evaluation.metrics.fid import NOTE, REAL, Moments, decode, frechet
from ine_jax.evaluation.reference import reference_cell
from ine_jax.storage.runs import Run


def distances(
    run: Run, name: str, about: Mapping[str, Any], blocks: Mapping[Place, Sequence[int]]
) -> dict[Place, dict[str, Any]]:
    """Cell and list -> {"value", "n", "unscored", "reference", "reference_n", "real", "network", "resize", "note"}.

    `value` is the distance to the unguarded cell of the reference model on the same list; None for that cell itself and
    where either side has fewer than two vectors. `real` is the same against the folder of real images. List by list, so
    that the moments of one list's reference and of one cell are in memory, and no features but those of a block.
    """
    path = run.scores_path(name, 0).with_name(REAL)
    real = Moments.load(path) if path.is_file() else None
    found: dict[Place, dict[str, Any]] = {}
    for title in run.config["lists"]:
        references: dict[int, Moments | None] = {}
        for cell, _ in sorted(place for place in blocks if place[1] == title):
            own, unscored = _moments(run, name, blocks[cell, title])
            if own is None:
                continue
            other = reference_cell(run.config, cell, title, about.get("reference", ""))
            if other is not None and other != cell and other not in references:
                references[other] = _moments(run, name, blocks.get((other, title), ()))[0]
            against = references.get(other) if other is not None else None
            entry: dict[str, Any] = {"value": _distance(against, own), "n": own.n, "unscored": unscored}
            if against is not None:
                entry |= {"reference": about["reference"], "reference_n": against.n}
            if real is not None:
                entry["real"] = {"value": _distance(real[0], own), "n": real[0].n, **real[1]}
            told = {key: about[key] for key in ("network", "resize", "weights_sha256") if key in about}
            found[cell, title] = {**entry, **told, "note": NOTE}
    return found


def _distance(a: Moments | None, b: Moments) -> float | None:
    return None if a is None or min(a.n, b.n) < 2 else round(frechet(a, b), DIGITS)


def _moments(run: Run, name: str, blocks: Sequence[int]) -> tuple[Moments | None, int]:
    """Moments of the vectors in some blocks, read one block at a time, and how many images have none."""
    total, unscored = None, 0
    for k in blocks:
        lines = run.scores(name, k) or []
        rows = [decode(line["boxes"][0]["features"]) for line in lines if line["status"] == "scored"]
        unscored += len(lines) - len(rows)
        if rows:
            part = Moments.of(np.stack(rows))
            total = part if total is None else total + part
    return total, unscored
