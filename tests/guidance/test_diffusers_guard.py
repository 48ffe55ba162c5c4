"""`ine export-guard`: the exported file, loaded by diffusers, and this package from the same latents."""

import base64
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.cli import main as cli
from ine_jax.config import GuidanceConfig, NegativeConfig
from ine_jax.config.guards import SldConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.guidance import from_config
from ine_jax.guidance.diffusers_guard import export_guard, stored_settings
from ine_jax.pipeline import pipeline
from tests.support.cases import sample
from tests.support.sld_reference import PROMPTS, SCALE, noise, quiet_model
from tests.support.tiny_pipeline import LENGTH, WIDTH

STEPS = 12
LIMIT = 1e-3
SCHEDULERS = {"ddim": ("DDIMScheduler", {}), "pndm": ("PNDMScheduler", {"skip_prk_steps": True})}
GUIDANCE = {
    "negative": GuidanceConfig(SCALE, 4.0),
    "tied": GuidanceConfig(SCALE),
    "sld": GuidanceConfig(SCALE, method="sld", sld=SldConfig("max")),
    "warm-up": GuidanceConfig(SCALE, method="sld", sld=SldConfig("strong", warmup=5)),
    "share": GuidanceConfig(SCALE, method="sld", sld=SldConfig("weak-200", warmup_unit="fraction")),
    "interval": GuidanceConfig(SCALE, 4.0, interval=(0.25, 0.75)),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quiet_model(tmp_path_factory.mktemp("guarded"))


@pytest.fixture(scope="module")
def negatives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NegativeConfig]:
    """One of each kind; the embeddings are random."""
    folder, draw = tmp_path_factory.mktemp("embeddings"), np.random.default_rng(0)
    token, context = str(folder / "token.safetensors"), str(folder / "context.safetensors")
    Embedding(draw.standard_normal((2, WIDTH)).astype(np.float32), concept="thing").save(token)
    Embedding(draw.standard_normal((LENGTH, WIDTH)).astype(np.float32), "context", "other").save(context)
    return {
        "words": NegativeConfig(words=("knife", "weapon")),
        "token": NegativeConfig(embedding=token, template="a photo of {} and knife"),
        "blend": NegativeConfig(words="knife", embedding=(token, context), blend=0.3),
    }


def test_the_file_holds_settings_and_vectors_and_refuses_what_it_cannot_do(
    negatives: dict[str, NegativeConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(negatives["token"].embedding)
    words = ["export-guard", "--negative.embedding", source, "--guidance.preset", "ine-balanced", "--json"]
    assert cli.main([*words, "--out", str(tmp_path / "guard"), "--dry-run"]) == 0 and not (tmp_path / "guard").exists()
    assert cli.main([*words, "--out", str(tmp_path / "guard")]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    (path,) = (tmp_path / "guard").iterdir()
    assert f"custom_pipeline='{path}'" in line["use"]
    held: Any = stored_settings(path)
    assert held["method"] == "sld" and held["momentum_scale"] == 0.7 and held["safety_scale"] == 5000.0
    (found,) = held["embeddings"]
    vectors = np.frombuffer(base64.b64decode(found["float32"]), "<f4").reshape(found["shape"])
    np.testing.assert_array_equal(vectors, Embedding.load(source).vectors)
    for arguments, named in (
        ((negatives["token"], GuidanceConfig(method="safree"), tmp_path / "new"), "safree"),
        ((NegativeConfig(), GuidanceConfig(), tmp_path / "new"), "without a negative"),
        ((negatives["token"], GuidanceConfig(), tmp_path / "guard"), "exists"),
    ):
        with pytest.raises(InputError, match=named):
            export_guard(*arguments)
    assert not (tmp_path / "new").exists()


@functools.cache
def ours(folder: Path, scheduler: str) -> pipeline.Pipeline:
    return pipeline.load(folder, scheduler=scheduler, batch_size=2, compile_cache=False)


@pytest.fixture
def diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, which copies code that it runs into a folder of this test."""
    pytest.importorskip("torch")
    found = pytest.importorskip("diffusers")
    monkeypatch.setattr(found.utils.dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    return found


def load(diffusers: Any, model: Path, guard: Path, scheduler: str = "ddim") -> Any:
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        model, custom_pipeline=str(guard), trust_remote_code=True, local_files_only=True
    )
    name, options = SCHEDULERS[scheduler]
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(pipe: Any, steps: int = STEPS, **more: Any) -> np.ndarray:
    import torch

    start = torch.from_numpy(noise().transpose(0, 3, 1, 2).copy())
    found = pipe(PROMPTS, num_inference_steps=steps, latents=start, output_type="latent", **more).images
    return found.numpy().transpose(0, 2, 3, 1)


CASES = (
    "negative, token, ddim",
    "negative, blend, pndm",
    "tied, words, ddim",
    "sld, token, ddim",
    "warm-up, token, pndm",
    "share, words, ddim",
    "interval, token, ddim",
)


@pytest.mark.oracle
@pytest.mark.parametrize("case", sample(CASES, CASES[:1]))
def test_latents_are_those_of_this_package(
    case: str, diffusers: Any, model: Path, negatives: dict[str, NegativeConfig], tmp_path: Path
) -> None:
    guidance, negative, scheduler = case.split(", ")
    settings, avoided = GUIDANCE[guidance], negatives[negative]
    pipe = load(diffusers, model, export_guard(avoided, settings, tmp_path / "guard").path, scheduler)
    got = theirs(pipe)
    jax_pipe = ours(model, scheduler)
    guard, concept = from_config.guidance(settings, True, jax_pipe), from_config.concept(avoided)

    def made(guard: Any, concept: Any) -> np.ndarray:
        return jax_pipe(PROMPTS, guidance=guard, negative=concept, noise=noise(), steps=STEPS, output="latents").latents

    want = made(guard, concept)
    assert np.abs(want - made(SCALE, None)).max() > 50 * LIMIT  # the guard acts
    assert np.abs(got - want).max() <= LIMIT


@pytest.mark.oracle
def test_two_guards_in_one_program_and_what_they_refuse(
    diffusers: Any, model: Path, negatives: dict[str, NegativeConfig], tmp_path: Path
) -> None:
    """diffusers copies both files, of one size, to one folder in one second; each pipeline keeps its own guard."""
    weak, strong = (
        load(diffusers, model, export_guard(negatives["token"], GuidanceConfig(SCALE, s), tmp_path / str(s)).path)
        for s in (0.0, 4.0)
    )
    plain = diffusers.StableDiffusionPipeline.from_pretrained(model, local_files_only=True)
    plain.scheduler = weak.scheduler
    plain.set_progress_bar_config(disable=True)
    unguarded = theirs(plain, 3, guidance_scale=SCALE)
    np.testing.assert_allclose(theirs(weak, 3), unguarded, atol=1e-5)
    assert np.abs(theirs(strong, 3) - unguarded).max() > 50 * LIMIT
    with pytest.raises(ValueError, match="negative_prompt: not supported"):
        weak("a cat", negative_prompt="dog")
    assert not weak.unet._forward_hooks and not weak.unet._forward_pre_hooks
