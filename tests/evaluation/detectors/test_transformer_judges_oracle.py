"""CLIP, ViT, their preprocessing and what is made of them, against transformers in PyTorch on the same folders."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.detector_folders import SIDE, random_images, vit_config, write_clip, write_vit

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ine_jax.evaluation.detectors.base import Scored  # noqa: E402  only where its oracles are installed
from ine_jax.evaluation.detectors.clip import ClipZeroShot  # noqa: E402
from ine_jax.evaluation.detectors.clip_encoder import ClipEncoder  # noqa: E402
from ine_jax.evaluation.detectors.vision import CLIP, VIT, Preprocessing  # noqa: E402
from ine_jax.evaluation.detectors.vit import VitClassifier  # noqa: E402
from ine_jax.evaluation.metrics.clip_score import ClipScore  # noqa: E402
from ine_jax.models.vit import Vit  # noqa: E402

SHAPES = {"openai": ("quick_gelu", (2, 2)), "open_clip": ("gelu", (2, 2)), "deep": ("quick_gelu", (12, 24))}
TEXTS = ["a photo of a cat", "", "the red weapon and the dog", "knife " * 40]


def loaded(kind: Any, folder: Path) -> Any:
    """transformers' model of a folder; every key must have been wanted and found."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def processor(kind: str, **options: Any) -> Any:
    """The Pillow backend, which is the one that CLIPImageProcessor is where torchvision is not installed."""
    return getattr(
        transformers, f"{kind}ImageProcessor{'Pil' if hasattr(transformers, kind + 'ImageProcessorPil') else ''}"
    )(**options)


def difference(ours: Any, theirs: Any) -> float:
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.05  # else anything would be equal
    return float(np.abs(ours - theirs).max())


@pytest.mark.parametrize("recipe", SHAPES)
def test_clip_equals_transformers(recipe: str, tmp_path: Path) -> None:
    write_clip(folder := tmp_path / "clip", *SHAPES[recipe])
    model, encoder = loaded(transformers.CLIPModel, folder), ClipEncoder.load(folder)
    pixels = np.array(encoder.preprocessing.normalise(jnp.asarray(encoder.preprocessing.pixels(random_images(3)))))
    assert encoder.tokenizer is not None
    ids = torch.tensor(encoder.tokenizer.ids(TEXTS).astype(np.int64))
    with torch.no_grad():
        want = model(input_ids=ids, pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2).copy()))
        scale = float(model.logit_scale.exp())
    images, texts = encoder.images(random_images(3)), encoder.texts(TEXTS)
    assert difference(images, want.image_embeds) <= 1e-5
    assert difference(texts, want.text_embeds) <= 1e-5
    assert difference(encoder.scale * images @ texts.T, want.logits_per_image) <= 1e-4
    assert abs(encoder.scale - scale) <= 1e-4


@pytest.mark.parametrize(("depth", "options"), [(2, {}), (12, {"qkv_bias": False, "labels": ("a", "b", "c")})])
def test_vit_equals_transformers(depth: int, options: dict[str, Any], tmp_path: Path) -> None:
    write_vit(tmp_path, vit_config(depth, **options))
    model, judge = loaded(transformers.ViTForImageClassification, tmp_path), VitClassifier.load(tmp_path)
    pixels = np.array(judge.preprocessing.normalise(jnp.asarray(judge.preprocessing.pixels(random_images(3)))))
    logits = model(torch.tensor(pixels.transpose(0, 3, 1, 2).copy())).logits
    config, params = judge.network.config, judge.network.params
    assert difference(jax.jit(Vit(config).apply)({"params": params}, pixels), logits) <= 1e-4
    want = logits.softmax(-1).detach().numpy()
    for verdict, row in zip(judge.detect(random_images(3)), want, strict=True):
        assert isinstance(verdict, Scored)
        assert list(verdict.labels) == list(model.config.id2label.values())
        np.testing.assert_allclose(list(verdict.labels.values()), row, atol=1e-5)


def test_whole_pipelines_equal_transformers(tmp_path: Path) -> None:
    """From images and words to scores: processor, tokenizer and model of transformers against one call of ours."""
    write_clip(folder := tmp_path / "clip")
    model = loaded(transformers.CLIPModel, folder)
    phrases, images = ("a photo of a weapon", "a red apple"), random_images(3)
    pixels = processor("CLIP", size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    given = pixels(list(images), return_tensors="pt")
    words = transformers.CLIPTokenizer.from_pretrained(folder)
    inputs = words([*phrases, "a photo"], padding=True, return_tensors="pt")
    logits = model(**given, **inputs).logits_per_image.detach()
    for i, verdict in enumerate(ClipZeroShot.load(folder, phrases).detect(images)):
        assert isinstance(verdict, Scored)
        for j, phrase in enumerate(phrases):
            pair = torch.stack([logits[i, j], logits[i, 2]])
            assert abs(verdict.labels[phrase] - float(pair.softmax(0)[0])) <= 1e-5
    prompts = ["a cat", "a knife", "the dog"]
    inputs = words(prompts, padding=True, return_tensors="pt")
    out = model(**given, **inputs)
    cosines = (out.image_embeds * out.text_embeds).sum(-1).clamp(min=0)
    for verdict, want in zip(ClipScore.load(folder).measure(images, prompts), cosines, strict=True):
        assert isinstance(verdict, Scored)
        assert abs(verdict.labels["clip_score"] - 100 * float(want)) <= 1e-3


@pytest.mark.parametrize("size", [(224, 224), (512, 512), (768, 512), (301, 517), (64, 48), (223, 1000), (225, 224)])
@pytest.mark.parametrize(("kind", "ours"), [("CLIP", CLIP), ("ViT", VIT)])
def test_preprocessing_equals_transformers(kind: str, ours: Preprocessing, size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    bare = processor(kind, do_rescale=False, do_normalize=False)(list(images), return_tensors="np")["pixel_values"]
    pixels = ours.pixels(images)
    np.testing.assert_array_equal(pixels, np.stack(bare).transpose(0, 2, 3, 1))
    whole = np.stack(processor(kind)(list(images), return_tensors="np")["pixel_values"]).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(np.asarray(ours.normalise(jnp.asarray(pixels))), whole, atol=2e-6)
