"""A metric with a closed form, and how tests read what is stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ine_jax.evaluation import Plan, evaluate
from ine_jax.evaluation.detectors.base import Scored, Verdict
from ine_jax.evaluation.metrics.base import measure_checked
from ine_jax.storage.runs import Run
from tests.support import fakes


class Away:
    """Mean absolute difference to the reference."""

    id, version, needs_reference = "away", "1", True

    def about(self) -> Any:
        return {"kind": "metric", "labels": ["away"]}

    def measure(self, images: Any, prompts: Sequence[str], references: Any) -> list[Verdict]:
        return measure_checked(images, prompts, references, self._measure)

    def _measure(self, images: np.ndarray, prompts: list[str], references: np.ndarray | None) -> list[Verdict]:
        assert references is not None
        away = np.abs(images.astype(float) - references).mean((1, 2, 3))
        return [Scored({"away": float(v)}) for v in away]


def generated(root: Path, plan: Plan | None = None, generate: Any = fakes.generate, **more: Any) -> Run:
    return evaluate(plan or fakes.plan(), root, generate=generate, hashes=fakes.hashes, **more)


def lines(run: Run, store: str) -> Any:
    """(cell, list, item) -> stored line."""
    found: dict[tuple[int, str, str], Any] = {}
    for k in run.blocks():
        rows = {row["id"]: row for row in run.rows(k)}
        for line in run.scores(store, k) or ():
            found[rows[line["id"]]["cell"], rows[line["id"]]["list"], line["id"]] = line
    return found
