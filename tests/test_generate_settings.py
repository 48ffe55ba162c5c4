"""What of the settings of `ine generate` reaches its images, and its folder's record."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_pipeline import WIDTH, tiny_folder

from ine_jax.config import GenerateConfig, GuidanceConfig, SamplerConfig
from ine_jax.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.generate import SETTINGS, generate
from ine_jax.guidance import Negative
from ine_jax.pipeline import load

__all__ = ["tiny_folder"]

FRAMED = "a photo of a {}"


def test_the_template_of_an_embedding_is_used_and_binds_the_folder(tiny_folder: Path, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(1, WIDTH)).astype(np.float32)
    learned = Embedding(vectors, "token", "thing", "tiny")
    path = str(learned.save(tmp_path / "thing.safetensors"))

    def config(out: str, **more: str) -> GenerateConfig:
        guidance, sampler = GuidanceConfig(3.0, 40.0), SamplerConfig(steps=2, batch=2)
        settings = {"model": str(tiny_folder), "prompts": ("a cat",), "guidance": guidance, "sampler": sampler}
        return GenerateConfig(**settings, embedding=path, out=str(tmp_path / out), **more)  # type: ignore[arg-type]

    pipe = load(tiny_folder, batch_size=2)
    images = []
    for out, more in (("bare", {}), ("framed", {"template": FRAMED})):
        generate(config(out, **more))
        with Image.open(tmp_path / out / "000000_00.png") as image:
            images.append(np.asarray(image))
        expected = pipe(
            "a cat",
            guidance=Negative(3.0, 40.0),
            negative=learned,
            negative_template=more.get("template", "{}"),
            seeds=0,
            steps=2,
        )
        np.testing.assert_array_equal(images[-1], expected[0])
        kept = json.loads((tmp_path / out / SETTINGS).read_text())
        assert kept["negative"]["template"] == more.get("template", "{}")
    assert (images[0] != images[1]).any()
    with pytest.raises(InputError, match=r"negative\.template"):
        generate(config("bare", template=FRAMED))
