"""What a user asks in the end: the converted embedding as negative prompt of diffusers' own PyTorch pipeline gives the
latents that it gives here: same weights, same initial latents, 50 DDIM steps, fp32.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.embeddings import FORMATS, convert, read_embedding
from ine_jax.embeddings.embedding import Embedding
from ine_jax.guidance.cfg import Cfg
from ine_jax.pipeline import pipeline
from tests.support.tiny_pipeline import CELLS, LENGTH, WIDTH

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

PROMPTS = ["a photo of a cat", "the red apple and the knife"]
STEPS = 50


def latents() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((len(PROMPTS), CELLS, CELLS, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def ours(tiny_folder: Path) -> pipeline.Pipeline:
    return pipeline.load(tiny_folder, scheduler="ddim", batch_size=2, compile_cache=False)


@pytest.fixture(scope="module")
def oracle(tiny_folder: Path) -> Any:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        tiny_folder, local_files_only=True, torch_dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    return pipe


def drawn(oracle: Any, **negative: Any) -> np.ndarray:
    start = torch.from_numpy(latents().transpose(0, 3, 1, 2).copy())
    settings = {"guidance_scale": 7.5, "num_inference_steps": STEPS, "output_type": "latent", "latents": start}
    return np.asarray(oracle(PROMPTS, **settings, **negative).images).transpose(0, 2, 3, 1)


def far(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def test_a_converted_token_embedding_draws_the_same_in_diffusers(
    tmp_path: Path, ours: pipeline.Pipeline, oracle: Any
) -> None:
    rows = np.random.default_rng(3).standard_normal((3, WIDTH)).astype(np.float32)
    origin = Embedding(rows, concept="weapon").save(tmp_path / "weapon.safetensors")
    here = ours(
        PROMPTS, guidance=Cfg(7.5), negative=Embedding.load(origin), noise=latents(), steps=STEPS, output="latents"
    ).latents
    without = ours(PROMPTS, guidance=Cfg(7.5), noise=latents(), steps=STEPS, output="latents").latents
    assert far(here, without) > 0.1  # the embedding matters
    for form in ("native", "diffusers-bin", "tensor"):
        word = f"from-{form}"
        path = convert(origin, tmp_path / f"{word}{FORMATS[form].suffixes[0]}", form, token=word).path
        if form == "tensor":
            oracle.load_textual_inversion(torch.load(path, weights_only=True), token=f"<{word}>")
        else:
            oracle.load_textual_inversion(str(path), local_files_only=True)
        assert far(drawn(oracle, negative_prompt=[f"<{word}>"] * len(PROMPTS)), here) <= 1e-3


def test_a_converted_context_embedding_draws_the_same_in_diffusers(
    tmp_path: Path, ours: pipeline.Pipeline, oracle: Any
) -> None:
    rows = np.random.default_rng(4).standard_normal((LENGTH, WIDTH)).astype(np.float32)
    origin = Embedding(rows, "context", "weapon").save(tmp_path / "weapon.safetensors")
    path = convert(origin, tmp_path / "weapon.pt", "tensor").path
    embeds = torch.load(path, weights_only=True)[None].expand(len(PROMPTS), -1, -1)
    back = read_embedding(path, space="context")[0].embedding
    here = ours(PROMPTS, guidance=Cfg(7.5), negative=back, noise=latents(), steps=STEPS, output="latents").latents
    assert far(drawn(oracle, negative_prompt_embeds=embeds), here) <= 1e-3
