"""The whole pipeline against diffusers' PyTorch one: same weights, same initial latents, 50 steps, fp32."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_pipeline import CELLS

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from ine_jax.guidance.cfg import Cfg  # noqa: E402
from ine_jax.pipeline import pipeline  # noqa: E402  only where the oracle is installed

PROMPTS = ["a photo of a cat", "the red apple and the knife"]
NEGATIVE = "knife weapon"
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
}


@pytest.fixture(scope="module")
def oracle(tiny_folder: Path) -> Any:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        tiny_folder, local_files_only=True, torch_dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@functools.cache
def ours(folder: Path, scheduler: str) -> pipeline.Pipeline:
    """Loaded once per scheduler, so that every case of it shares the compiled sampler."""
    return pipeline.load(folder, scheduler=scheduler, batch_size=2, compile_cache=False)


def latents() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((len(PROMPTS), CELLS, CELLS, 4)).astype(np.float32)


def theirs(oracle: Any, scheduler: str, output: str, negative: str | None) -> np.ndarray:
    kind, options = SCHEDULERS[scheduler]
    oracle.scheduler = getattr(diffusers, kind).from_config(oracle.scheduler.config, **options)
    out = oracle(
        PROMPTS,
        negative_prompt=None if negative is None else [negative] * len(PROMPTS),
        guidance_scale=7.5,
        num_inference_steps=50,
        latents=torch.from_numpy(latents().transpose(0, 3, 1, 2).copy()),
        output_type=output,
    ).images
    return np.asarray(out).transpose(0, 2, 3, 1) if output == "latent" else np.asarray(out)


@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_latents_after_fifty_steps(
    scheduler: str,
    negative: str | None,
    oracle: Any,
    tiny_folder: Path,
) -> None:
    pipe = ours(tiny_folder, scheduler)
    got = pipe(PROMPTS, guidance=Cfg(7.5), negative=negative, noise=latents(), steps=50, output="latents").latents
    want = theirs(oracle, scheduler, "latent", negative)
    assert want.std() > 0.1
    assert np.abs(got - want).max() <= 1e-3


def test_images_after_fifty_steps(oracle: Any, tiny_folder: Path) -> None:
    got = ours(tiny_folder, "ddim")(PROMPTS, guidance=Cfg(7.5), negative=NEGATIVE, noise=latents(), steps=50).arrays
    want = np.round(theirs(oracle, "ddim", "np", NEGATIVE) * 255).astype(np.int32)
    assert np.abs(got.astype(np.int32) - want).max() <= 1


@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
def test_published_seeds_mean_what_they_mean_in_diffusers(scheduler: str, oracle: Any, tiny_folder: Path) -> None:
    kind, options = SCHEDULERS[scheduler]
    oracle.scheduler = getattr(diffusers, kind).from_config(oracle.scheduler.config, **options)
    seeds = [42, 2**32 - 1]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    want = np.asarray(oracle(PROMPTS, num_inference_steps=50, generator=generators, output_type="latent").images)
    pipe = ours(tiny_folder, scheduler)
    got = pipe(PROMPTS, guidance=Cfg(7.5), seeds=seeds, noise="torch-cpu", steps=50, output="latents").latents
    assert np.abs(got - want.transpose(0, 2, 3, 1)).max() <= 1e-3
