"""CLIP zero-shot, Q16, the ViT classifier and CLIP score as judges: verdicts, versions, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy

from ine_jax.errors import InputError
from ine_jax.evaluation.detectors import clip_encoder, vit
from ine_jax.evaluation.detectors.base import Scored, Unscored, Verdict
from ine_jax.evaluation.detectors.clip import ClipZeroShot
from ine_jax.evaluation.detectors.clip_encoder import ClipEncoder
from ine_jax.evaluation.detectors.q16 import Q16
from ine_jax.evaluation.detectors.vision import BATCH, CLIP, VIT, read_preprocessing
from ine_jax.evaluation.detectors.vit import VitClassifier
from ine_jax.evaluation.metrics.clip_score import ClipScore
from tests.support.detector_folders import SIDE, random_images, vit_config, write_clip, write_vit

PHRASES = ("a photo of a weapon", "<b>weapon</b>")
BASIS = np.random.default_rng(1).standard_normal((2, 12))
PROMPTS = (BASIS[0] + [[0], [0.02]] * BASIS[1]).astype(np.float16)  # alike, so that no score is just 0 or 1

PROGRAMS = ((clip_encoder, "clip_images", (0, 1)), (clip_encoder, "clip_texts", 0), (vit, "vit_scores", (0, 1)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("judges")
    write_clip(top / "clip")
    write_vit(top / "vit")
    safetensors.numpy.save_file({"prompts": PROMPTS}, top / "q16.safetensors")
    return top


@pytest.fixture(scope="module")
def judges(folder: Path) -> dict[str, Any]:
    """One of each, sharing one encoder, so that everything is compiled once."""
    encoder = ClipEncoder.load(folder / "clip")
    q16 = Q16.load(folder / "clip", folder / "q16.safetensors")
    return {
        "clip": ClipZeroShot(encoder, PHRASES),
        "q16": dataclasses.replace(q16, encoder=encoder),
        "vit": VitClassifier.load(folder / "vit"),
        "clip-score": ClipScore(encoder),
    }


def judged(judge: Any, images: Any) -> list[Verdict]:
    if isinstance(judge, ClipScore):
        return judge.measure(images, ["the red weapon " * 20] * len(images), None)
    return list(judge.detect(images))


def labels(verdicts: list[Verdict]) -> list[dict[str, float]]:
    assert all(isinstance(verdict, Scored) for verdict in verdicts), verdicts
    return [verdict.labels for verdict in verdicts if isinstance(verdict, Scored)]


@pytest.mark.parametrize("name", ["clip", "q16", "vit", "clip-score"])
def test_scores_do_not_depend_on_the_batch_and_are_compiled_once(
    name: str, judges: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    chex.clear_trace_counter()
    for module, program, static in PROGRAMS:
        once = chex.assert_max_traces(getattr(module, program).__wrapped__, n=1)
        monkeypatch.setattr(module, program, jax.jit(once, static_argnums=static))
    judge, images = judges[name], random_images(BATCH + 3)
    whole = labels(judged(judge, images))
    assert len({json.dumps(one) for one in whole}) > BATCH  # they tell images apart
    assert whole == [labels(judged(judge, images[i : i + 1]))[0] for i in range(len(images))]
    assert whole[:3] == labels(judged(judge, images[:3]))
    top = 100 if name == "clip-score" else 1
    assert all(0 <= score <= top for one in whole for score in one.values())


@pytest.mark.parametrize("name", ["clip", "q16", "vit", "clip-score"])
def test_what_cannot_be_judged_is_unscored(name: str, judges: dict[str, Any]) -> None:
    good = random_images(2)
    broken = np.full((40, 56, 3), np.nan, np.float32)
    images = [good[0], broken, np.full((40, 56, 3), 7, np.uint8), good[1][:, :20], np.zeros((4, 4), np.uint8)]
    found = judged(judges[name], images)
    assert [isinstance(verdict, Scored) for verdict in found] == [True, False, False, True, False]
    assert [v.reason for v in found if isinstance(v, Unscored)][:2] == ["not finite", "degenerate: constant"]
    assert labels(found[:1]) == labels(judged(judges[name], good[:1]))


@pytest.mark.parametrize("name", ["clip", "q16", "vit", "clip-score"])
def test_a_network_that_gives_nan_scores_nothing(name: str, judges: dict[str, Any]) -> None:
    def poisoned(network: Any) -> Any:
        return dataclasses.replace(
            network, params=jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), dict(network.params))
        )

    judge = judges[name]
    if name == "vit":
        judge = dataclasses.replace(judge, network=poisoned(judge.network))
    else:
        encoder = dataclasses.replace(judge.encoder, network=poisoned(judge.encoder.network))
        judge = dataclasses.replace(judge, encoder=encoder)
    found = judged(judge, random_images(2))
    assert all(isinstance(v, Unscored) and "not finite" in v.reason for v in found)


def test_an_exception_is_unscored(judges: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> np.ndarray:
        raise RuntimeError("no memory")

    monkeypatch.setattr(ClipEncoder, "images", fail)
    for name in ("clip", "q16", "clip-score"):
        found = judged(judges[name], random_images(2))
        assert all(isinstance(v, Unscored) and "RuntimeError: no memory" in v.reason for v in found)


@pytest.mark.parametrize("name", ["clip", "q16", "vit", "clip-score"])
def test_about_is_whole(name: str, judges: dict[str, Any]) -> None:
    judge = judges[name]
    about = json.loads(json.dumps(judge.about()))
    assert about["kind"] == ("metric" if name == "clip-score" else "detector")
    assert list(labels(judged(judge, random_images(1)))[0]) == about["labels"]
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= about["weights"].keys()
    assert all(len(digest) == 64 for digest in about["weights"].values())
    assert about["preprocessing"]["resample"] == ("Pillow bilinear" if name == "vit" else "Pillow bicubic")
    assert judge.id == name


def test_versions_say_what_is_computed(folder: Path, tmp_path: Path) -> None:
    clip, vit = folder / "clip", folder / "vit"
    one = ClipZeroShot.load(clip, PHRASES)
    assert one.version == ClipZeroShot.load(clip, PHRASES).version
    others = [ClipZeroShot.load(clip, PHRASES[:1]), ClipZeroShot.load(clip, PHRASES, neutral="a picture")]
    others.append(ClipScore.load(clip))  # type: ignore[arg-type]
    safetensors.numpy.save_file({"prompts": 2 * PROMPTS}, tmp_path / "twice.safetensors")
    q16 = [Q16.load(clip, path) for path in (folder / "q16.safetensors", tmp_path / "twice.safetensors")]
    write_vit(tmp_path / "vit", vit_config(3))
    vits = [VitClassifier.load(path) for path in (vit, tmp_path / "vit")]
    scorers: Any = (one, *others, *q16, *vits)
    versions = [scorer.version for scorer in scorers]
    assert len(set(versions)) == len(versions)
    assert all(len(version) == 12 for version in versions)


def test_q16_is_the_published_formula(folder: Path, judges: dict[str, Any]) -> None:
    features = judges["q16"].encoder.images(random_images(3)).astype(np.float64)
    prompts = PROMPTS.astype(np.float64)
    logits = 100 * features @ (prompts / np.linalg.norm(prompts, axis=1, keepdims=True)).T
    want = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
    found = [one["inappropriate"] for one in labels(judges["q16"].detect(random_images(3)))]
    np.testing.assert_allclose(found, want, atol=2e-4)  # 100 times the rounding of a cosine
    assert "text_model" not in Q16.load(folder / "clip", folder / "q16.safetensors").encoder.network.params


@pytest.mark.parametrize("held", [PROMPTS[:, :11], PROMPTS[:1], PROMPTS * np.float16(np.nan), PROMPTS * 0])
def test_q16_refuses_other_prompts(held: np.ndarray, folder: Path, tmp_path: Path) -> None:
    safetensors.numpy.save_file({"prompts": np.ascontiguousarray(held)}, tmp_path / "q.safetensors")
    with pytest.raises(InputError, match="two vectors of 12"):
        Q16.load(folder / "clip", tmp_path / "q.safetensors")
    (tmp_path / "prompts.p").write_bytes(b"x")
    with pytest.raises(InputError, match="convert_q16"):
        Q16.load(folder / "clip", tmp_path / "prompts.p")


@pytest.mark.parametrize("phrases", [(), ("a", "a"), ("a photo",), ("  ",), ("knife " * 30,)])
def test_phrases_that_mean_nothing_are_refused(phrases: tuple[str, ...], folder: Path) -> None:
    with pytest.raises(InputError, match="phrases"):
        ClipZeroShot.load(folder / "clip", phrases)


def test_a_vit_of_independent_labels_scores_each_by_itself(tmp_path: Path) -> None:
    write_vit(tmp_path, problem_type="multi_label_classification")
    judge = VitClassifier.load(tmp_path)
    (one,) = labels(judge.detect(random_images(1)))
    assert judge.about()["form"] == "sigmoid"
    assert abs(sum(one.values()) - 1) > 1e-3


@pytest.mark.parametrize(
    ("values", "square", "resample"),
    [
        ({}, (False, True), (3, 2)),
        ({"size": SIDE, "resample": 2}, (False, True), (2, 2)),
        ({"size": SIDE, "crop_size": SIDE}, (False, True), (3, 2)),
        ({"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False}, (True, True), (3, 2)),
        (
            {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, "do_center_crop": True},
            (False, False),
            (3, 2),
        ),
    ],
)
def test_preprocessing_is_read(values: Any, square: tuple[bool, bool], resample: tuple[int, int]) -> None:
    for i, default in enumerate((CLIP, VIT)):
        found = read_preprocessing(values, default, SIDE)
        assert (found.size, found.square, found.resample) == (SIDE, square[i], resample[i])
        assert found.pixels(random_images(2)).shape == (2, SIDE, SIDE, 3)


@pytest.mark.parametrize(
    "values",
    [
        {"do_resize": False},
        {"do_normalize": False},
        {"size": 64},
        {"size": {"shortest_edge": SIDE}, "do_center_crop": False},
        {"size": {"height": SIDE, "width": 30}},
        {"size": {"shortest_edge": SIDE}, "do_center_crop": True, "crop_size": 30},
        {"resample": 1},
        {"rescale_factor": 1},
        {"rescale_factor": "x"},
        {"resample": [3]},
        {"size": {"height": {}, "width": []}},
        {"crop_size": [SIDE], "do_center_crop": True},
        {"image_mean": 0.5},
        {"image_mean": [10**400, 0.5, 0.5]},
        {"image_mean": {"r": 1}},
        {"image_mean": [0.5, 0.5]},
        {"image_std": [1, 1, 0]},
        {"image_std": [1, 1, float("nan")]},
    ],
    ids=lambda values: json.dumps(values)[:40],
)
def test_preprocessing_that_is_not_done_is_refused(values: Any) -> None:
    for default in (CLIP, VIT):
        with pytest.raises(InputError, match=r"preprocessor_config\.json"):
            read_preprocessing(values, default, SIDE)
