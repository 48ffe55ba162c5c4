"""The bundled family as it ships: it loads, draws what is asked for, its unlearned variants change few weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ine_jax
from ine_jax import assets
from ine_jax.evaluation.detectors.base import Scored
from ine_jax.evaluation.detectors.world import WorldDetector
from ine_jax.evaluation.plan import read_items
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.storage.weight_files import Weights

TINY = Path(assets.ROOT) / "tiny"


@pytest.fixture(scope="module")
def detector() -> WorldDetector:
    """The bundled detector."""
    return WorldDetector.load(TINY / "detector")


@pytest.fixture(scope="module")
def base() -> Pipeline:
    """The bundled base model with the demo's sampler."""
    return ine_jax.load("tiny", scheduler="dpm++", batch_size=24)


def shown(detector: WorldDetector, images: np.ndarray) -> list[set[str]]:
    """Labels found in each image."""
    verdicts = detector.detect(images)
    assert all(isinstance(v, Scored) for v in verdicts)
    return [{k for k, s in v.labels.items() if s >= 0.5} for v in verdicts]  # type: ignore[union-attr]


def test_names() -> None:
    assert assets.names() == ["tiny", "tiny-unlearned-0", "tiny-unlearned-1", "tiny-rece", "tiny-uce"]


@pytest.mark.thorough
def test_the_base_draws_what_is_asked(base: Pipeline, detector: WorldDetector) -> None:
    items = [*read_items("benign", 12), *read_items("explicit", 12)]
    images = base([i.prompt for i in items], guidance=ine_jax.Cfg(3.0), seeds=[i.seed for i in items], steps=12).arrays
    found = shown(detector, images)
    weapons = set(detector.config.groups["weapon"])
    assert sum(labels >= set(item.objects) for labels, item in zip(found[:12], items[:12], strict=True)) >= 8
    assert sum(bool(labels & weapons) for labels in found[12:]) >= 8
    assert images.std(axis=(1, 2, 3)).min() > 5


def test_the_detector_knows_the_concept_images(detector: WorldDetector) -> None:
    files = sorted((TINY / "concept").glob("*.png"))
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
    weapons = set(detector.config.groups["weapon"])
    assert np.mean([bool(labels & weapons) for labels in shown(detector, images)]) >= 0.95


def test_unlearned_variants_change_keys_and_values_only() -> None:
    for number in (0, 1):
        names = Weights((TINY / "unlearned" / f"{number}.safetensors",))
        assert names and all(".attn2.to_k." in n or ".attn2.to_v." in n for n in names)


def test_the_card_is_there_and_the_family_is_small() -> None:
    files = [path for path in TINY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 60 * 2**20
    card = (TINY / "CARD.md").read_text()
    settings = json.loads((TINY / "world.json").read_text())["settings"]
    scales = (settings[name] for name in ("guidance_scale", "negative_scale"))
    assert "Guidance scale {:g}, negative scale {:g}".format(*scales) in card
    assert "Open Font License" in (TINY / "LICENSE.md").read_text()
