"""The world's detector: its file, what it refuses, and verdicts that do not depend on the batch."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ine_jax.errors import InputError
from ine_jax.evaluation.detectors import Scored, Unscored
from ine_jax.evaluation.detectors.world import BATCH, WorldConfig, WorldDetector, WorldNet

CONFIG = WorldConfig(("knife", "cat", "dog"), (8, 8), 16, {"weapon": ("knife",), "animal": ("cat", "dog")})


@pytest.fixture(scope="module")
def detector() -> WorldDetector:
    net = WorldNet(len(CONFIG.labels), CONFIG.channels)
    return WorldDetector(CONFIG, net.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"])


def pictures(n: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)


def test_verdicts_are_the_sigmoids_of_the_net(detector: WorldDetector) -> None:
    images = pictures(3)
    logits = WorldNet(3, CONFIG.channels).apply({"params": detector.params}, images.astype(np.float32) / 127.5 - 1)
    for verdict, row in zip(detector.detect(images), np.asarray(jax.nn.sigmoid(jnp.asarray(logits))), strict=True):
        assert isinstance(verdict, Scored)
        np.testing.assert_allclose(list(verdict.labels.values()), row, atol=2e-6)


def test_verdicts_do_not_depend_on_the_batch(detector: WorldDetector) -> None:
    images = pictures(BATCH + 5)
    together = detector.detect(images)
    assert together == [verdict for image in images for verdict in detector.detect(image[None])]
    assert detector.detect(images[:0]) == []


def test_blank_images_are_unscored_and_sizes_are_fitted(detector: WorldDetector) -> None:
    images = pictures(3, side=24)
    images[1] = 0
    verdicts = detector.detect(images)
    assert verdicts[1] == Unscored("degenerate: constant")
    assert isinstance(verdicts[0], Scored)


def test_save_load(detector: WorldDetector, tmp_path: Path) -> None:
    detector.save(tmp_path)
    again = WorldDetector.load(tmp_path)
    assert again.version == detector.version
    assert again.config == detector.config
    assert again.detect(pictures(2)) == detector.detect(pictures(2))
    half = {name: value.astype(np.float16) for name, value in load_file(tmp_path / "model.safetensors").items()}
    save_file(half, tmp_path / "model.safetensors")
    assert WorldDetector.load(tmp_path).version != detector.version  # other weights are another detector


def test_damaged_folders_are_refused(detector: WorldDetector, tmp_path: Path) -> None:
    detector.save(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    tensors, text = load_file(weights), config.read_text()
    head = tensors["head.kernel"]
    for bad in (
        {k: v for k, v in tensors.items() if k != "head.bias"},
        {**tensors, "extra": head},
        {**tensors, "head.kernel": head[:-1]},
        {**tensors, "head.kernel": np.full_like(head, np.nan)},
    ):
        save_file(bad, weights)
        with pytest.raises(InputError, match=r"head|extra"):
            WorldDetector.load(tmp_path)
    save_file(tensors, weights)
    record = json.loads(text)
    for broken in (
        "{",
        "[]",
        json.dumps({**record, "labels": []}),
        json.dumps({**record, "odd": 1}),
        json.dumps({**record, "groups": {"weapon": ["spoon"]}}),
    ):
        config.write_text(broken)
        with pytest.raises(InputError):
            WorldDetector.load(tmp_path)
    config.write_text(text)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError):
        WorldDetector.load(tmp_path)
    with pytest.raises(InputError):
        WorldDetector.load(tmp_path / "nowhere")
