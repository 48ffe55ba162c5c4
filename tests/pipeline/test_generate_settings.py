"""What of the settings of `ine generate` reaches its images, and its folder's record."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ine_jax.config import GenerateConfig, GuidanceConfig, NegativeConfig, SamplerConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.guidance import Negative
from ine_jax.guidance.concept import Concept
from ine_jax.pipeline.generation import SETTINGS, generate
from ine_jax.pipeline.pipeline import load
from tests.support.tiny_pipeline import WIDTH

FRAMED = "a photo of a {}"
GUIDANCE = GuidanceConfig(3.0, 40.0)


def config(folder: Path, out: Path, **more: Any) -> GenerateConfig:
    settings = {"prompts": ("a cat",), "guidance": GUIDANCE, "sampler": SamplerConfig(steps=2, batch=2)}
    return GenerateConfig(model=str(folder), out=str(out), **{**settings, **more})


def drawn(asked: GenerateConfig) -> tuple[np.ndarray, dict[str, Any]]:
    """The image of the only prompt, and the settings that its folder is bound to."""
    generate(asked)
    out = Path(asked.out)
    with Image.open(out / "000000_00.png") as image:
        return np.asarray(image), json.loads((out / SETTINGS).read_text())


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Embedding, str]:
    """An embedding and its file."""
    vectors = np.random.default_rng(0).normal(size=(1, WIDTH)).astype(np.float32)
    found = Embedding(vectors, "token", "thing", "tiny")
    return found, str(found.save(tmp_path_factory.mktemp("learned") / "thing.safetensors"))


@pytest.mark.thorough
def test_the_template_of_an_embedding_is_used_and_binds_the_folder(
    tiny_folder: Path, tmp_path: Path, learned: tuple[Embedding, str]
) -> None:
    pipe = load(tiny_folder, batch_size=2)
    images = []
    for out, template in (("bare", "{}"), ("framed", FRAMED)):
        negative = NegativeConfig(embedding=learned[1], template=template)
        image, kept = drawn(config(tiny_folder, tmp_path / out, negative=negative))
        concept = Concept(embeddings=(learned[0],), template=template)
        expected = pipe("a cat", guidance=Negative(3.0, 40.0), negative=concept, seeds=0, steps=2).arrays
        np.testing.assert_array_equal(image, expected[0])
        assert kept["negative"]["template"] == template
        images.append(image)
    assert (images[0] != images[1]).any()
    with pytest.raises(InputError, match=r"negative\.template"):
        generate(config(tiny_folder, tmp_path / "bare", negative=NegativeConfig(embedding=learned[1], template=FRAMED)))


@pytest.mark.thorough
def test_own_scale_of_the_negative_is_used_and_binds_the_folder(tiny_folder: Path, tmp_path: Path) -> None:
    knife = NegativeConfig(words="knife")
    _, kept = drawn(config(tiny_folder, tmp_path / "out", negative=knife))
    assert "Negative" in kept["guidance"]["kind"]
    assert kept["guidance"]["numbers"] == {"scale": 3.0, "negative_scale": 40.0}
    assert kept["negative"] == {"words": ["knife"], "embeddings": [], "template": "{}", "blend": None}
    with pytest.raises(InputError, match=r"guidance\.numbers\.negative_scale: 40\.0 -> 5\.0"):
        generate(config(tiny_folder, tmp_path / "out", negative=knife, guidance=GuidanceConfig(3.0, 5.0)))


def test_without_a_negative_every_guidance_is_plain(tiny_folder: Path, tmp_path: Path) -> None:
    plain, kept = drawn(config(tiny_folder, tmp_path / "plain", guidance=GuidanceConfig(3.0)))
    guarded, same = drawn(config(tiny_folder, tmp_path / "sld", guidance=GuidanceConfig(3.0, method="sld")))
    np.testing.assert_array_equal(plain, guarded)
    assert kept == same
    assert kept["negative"] is None


def test_a_blend_mixes_words_and_embeddings_and_binds_the_folder(
    tiny_folder: Path, tmp_path: Path, learned: tuple[Embedding, str]
) -> None:
    def blend(out: str, weight: float) -> tuple[np.ndarray, dict[str, Any]]:
        negative = NegativeConfig(words=("knife", "gun"), embedding=learned[1], blend=weight)
        return drawn(config(tiny_folder, tmp_path / out, negative=negative))

    words, _ = drawn(config(tiny_folder, tmp_path / "words", negative=NegativeConfig(words="knife, gun")))
    found, _ = drawn(config(tiny_folder, tmp_path / "found", negative=NegativeConfig(embedding=learned[1])))
    half, kept = blend("half", 0.5)
    np.testing.assert_array_equal(blend("none", 0.0)[0], words)
    np.testing.assert_array_equal(blend("all", 1.0)[0], found)
    assert (half != words).any()
    assert (half != found).any()
    assert (kept["negative"]["words"], kept["negative"]["blend"]) == (["knife", "gun"], 0.5)
    (told,) = kept["negative"]["embeddings"]
    assert (told["token"], told["space"]) == ("<thing>", "token")
    with pytest.raises(InputError, match=r"negative\.blend: 0\.5 -> 0\.25"):
        blend("half", 0.25)
