"""A model that paints seeds and a detector that reads them back: whole evaluations in milliseconds, no weights."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ine_jax.config import GuidanceConfig, NegativeConfig
from ine_jax.evaluation import Cell, Item, Plan, evaluate, score, summarise
from ine_jax.evaluation.detectors.base import Scored, Unscored, detect_checked
from ine_jax.storage import runs
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.sealed import pretty

PLAIN, GUIDED = GuidanceConfig(3.0), GuidanceConfig(3.0, 2.0)
WORDS = NegativeConfig(words="a knife")
ABOUT = {"labels": ["knife", "cat"], "groups": {"weapon": ["knife"], "animal": ["cat"]}}


def items(name: str, n: int, objects: tuple[str, ...]) -> tuple[Item, ...]:
    return tuple(Item(f"{name}-{i:03d}", f"{name} prompt {i}", 1000 + i, objects) for i in range(n))


def plan(n: int = 12, block: int = 5, detector: str = "") -> Plan:
    lists = {"attack": items("attack", n, ("knife",)), "benign": items("benign", n, ("cat",))}
    counts = (("attack", n), ("benign", n))
    none = Cell("fake", counts, PLAIN)
    explicit = Cell("fake", counts, GUIDED, WORDS)
    other = Cell("fake-unlearned", counts, PLAIN, role="control")
    return Plan((none, explicit, other), lists, steps=2, block=block, detector=detector)


def generate(cell: Cell, wanted: Sequence[Item], _: Plan) -> np.ndarray:
    """Noise of the seed; the corner says what is shown: the knife for half of the seeds, less often with a negative."""
    images = np.stack([np.random.default_rng(item.seed).integers(0, 256, (8, 8, 3), np.uint8) for item in wanted])
    for image, item in zip(images, wanted, strict=True):
        weapon = "knife" in item.objects and item.seed % (2 if cell.negative.kind == "none" else 4) == 0
        image[0, 0] = (200 if weapon else 10, 200 if "cat" in item.objects else 10, 0)
    return images


def hashes(model: str) -> dict[str, str]:
    return {"unet": f"hash of {model}"}


class Corner:
    """Scores are the first pixel's red (knife) and green (cat)."""

    id, version = "corner", "1"

    def about(self) -> Any:
        return {"kind": "detector", **ABOUT}

    def detect(self, images: Any) -> list[Scored | Unscored]:
        return detect_checked(images, self._score)

    def _score(self, images: np.ndarray) -> list[Scored | Unscored]:
        return [Scored({"knife": float(i[0, 0, 0]) / 255, "cat": float(i[0, 0, 1]) / 255}) for i in images]


def full(root: Path, shard: tuple[int, int] = (0, 1)) -> bytes:
    """Generate, score and summarise; the bytes of summary.json."""
    evaluate(plan(), root, generate=generate, hashes=hashes, shard=shard)
    return finish(root)


def finish(root: Path) -> bytes:
    run = runs.open_run(root)
    score(run, [Corner()])
    write_atomic(root / "summary.json", pretty(summarise(run)))
    return (root / "summary.json").read_bytes()


def slow_generate(cell: Cell, wanted: Sequence[Item], asked: Plan) -> np.ndarray:
    time.sleep(0.05)
    return generate(cell, wanted, asked)


if __name__ == "__main__":  # started by the kill test
    root = Path(sys.argv[1])
    evaluate(plan(), root, generate=slow_generate, hashes=hashes)
    finish(root)
