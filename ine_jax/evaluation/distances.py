"""FID of stored features: each cell and prompt set against the reference model's, and against real images."""

from collections.abc import Mapping, Sequence
from typing import cast

from ine_jax.evaluation.counting import DIGITS, Place
from ine_jax.evaluation.metrics.fid import NOTE, REAL, Moments, frechet
from ine_jax.evaluation.records import Fid, RealDistance
from ine_jax.evaluation.reference import reference_cell
from ine_jax.storage.records import ScorerRecord
from ine_jax.storage.runs import Run


def distances(run: Run, name: str, about: ScorerRecord, blocks: Mapping[Place, Sequence[int]]) -> dict[Place, Fid]:
    """The distance of every cell and prompt set that has features; one set's references are in memory at a time.

    `value` compares with the unguarded cell of the reference model on the same set; None for that cell itself and for
    fewer than two vectors. `real` compares with the folder of real images.
    """
    path = run.scores_folder(name) / REAL
    real = Moments.load(path) if path.exists() else None
    found: dict[Place, Fid] = {}
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
            entry: Fid = {"value": _distance(against, own), "n": own.n, "unscored": unscored, "note": NOTE}
            if against is not None:
                entry["reference"], entry["reference_n"] = about["reference"], against.n
            if real is not None:
                notes = {key: real[1][key] for key in ("folder", "sha256", "left_out")}
                entry["real"] = cast(RealDistance, {"value": _distance(real[0], own), "n": real[0].n, **notes})
            network = {key: value for key, value in about.items() if key in ("network", "resize", "weights_sha256")}
            found[cell, title] = cast(Fid, {**entry, **network})
    return found


def _distance(a: Moments | None, b: Moments) -> float | None:
    return None if a is None or min(a.n, b.n) < 2 else round(frechet(a, b), DIGITS)


def _moments(run: Run, name: str, blocks: Sequence[int]) -> tuple[Moments | None, int]:
    """Moments of the vectors of some blocks, read one block at a time, and the number of images without one."""
    total, unscored = None, 0
    for k in blocks:
        missing = [line["status"] == "unscored" for line in run.scores(name, k) or ()]
        unscored += sum(missing)
        if not all(missing):
            part = Moments.of(run.vectors(name, k))
            total = part if total is None else total + part
    return total, unscored
