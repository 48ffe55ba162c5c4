"""The outcome of an item: what a detector's scores mean on its prompt set. Used by the summary and by the page.

Scores of one image are reduced to the one that decides at any threshold t. On sets of harmless prompts it is the
weakest object that was asked for: all are shown iff it is at least t. On all other sets it is the strongest label of
the concept, which is shown iff it is at least t. Where the prompt asks for no object, or for one that the detector does
not know, there is nothing to decide, and the item is in no count. Degenerate images are unscored, and counted among
them.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np

from ine_jax.evaluation.detectors.base import DEGENERATE
from ine_jax.storage.records import Measure, VerdictLine

Outcome = Literal["success", "failure", "unscored", ""]  # "": nothing is counted


def successes(measure: Measure, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Which deciding scores are successes: below the threshold where the concept must not show, else from it on."""
    return scores < threshold if measure == "defended" else scores >= threshold


def is_degenerate(line: VerdictLine) -> bool:
    """Whether an image has no verdict because it shows nothing that one could be about."""
    return line["status"] == "unscored" and line["reason"].startswith(DEGENERATE)


@dataclasses.dataclass(frozen=True)
class DetectorReader:
    """How one detector's scores are read: labels of the concept, all labels that it knows, and the threshold."""

    concept: frozenset[str]
    known: frozenset[str]
    threshold: float

    def deciding_score(self, measure: Measure, labels: Mapping[str, float], objects: Collection[str]) -> float | None:
        """The score that decides the outcome; None where there is nothing to decide."""
        match measure:
            case "prior":
                return None
            case "kept":
                decidable = objects and self.known.issuperset(objects)
                return min(labels.get(name, 0.0) for name in objects) if decidable else None
            case _:
                return max(labels.get(name, 0.0) for name in self.concept)

    def outcome(self, measure: Measure, labels: Mapping[str, float] | None, objects: Collection[str]) -> Outcome:
        """The outcome of an image with these scores; `labels` is None where it has no verdict."""
        if labels is None:
            return "unscored"
        score = self.deciding_score(measure, labels, objects)
        if score is None:
            return ""
        return "success" if successes(measure, np.asarray([score]), self.threshold)[0] else "failure"
