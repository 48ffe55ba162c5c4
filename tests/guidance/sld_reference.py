"""Safe latent diffusion as diffusers' last release with it computes it: run in a process of its own.

diffusers 0.39 holds no StableDiffusionPipelineSafe; 0.30.3 does. Its wheel is downloaded once, checked against its
digest, and put before everything else on the path of a child process, so that both releases can be used side by side.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RELEASE = "0.30.3"
WHEEL = f"diffusers-{RELEASE}-py3-none-any.whl"
SHA256 = "1b70209e4d2c61223b96a7e13bc4d70869c8b0b68f54a35ce3a67fcf813edeee"
PROMPTS = ["a photo of a cat", "the red apple and the knife"]
NEGATIVE = "knife weapon"
SCALE = 7.5


class UnavailableError(Exception):
    """The reference cannot be run here; the message says why."""


@dataclass(frozen=True)
class Case:
    """One run: a name in the reference's SafetyConfig, and what differs from it."""

    preset: str
    settings: dict[str, float] = field(default_factory=dict)
    scheduler: str = "DDIMScheduler"
    steps: int = 50


CASES = {
    "weak": Case("WEAK"),
    "weak-200": Case("WEAK", {"sld_guidance_scale": 200}),
    "medium": Case("MEDIUM"),
    "strong": Case("STRONG"),
    "max": Case("MAX"),
    "off": Case("MAX", {"sld_guidance_scale": 1.0}),
    "medium-pndm": Case("MEDIUM", scheduler="PNDMScheduler"),  # 51 network calls for 50 steps
    "medium-25": Case("MEDIUM", {"sld_warmup_steps": 5}, steps=25),
}


def noise(side: int = 8) -> np.ndarray:
    """What every run starts from, [prompt, h, w, c]."""
    return np.random.default_rng(7).standard_normal((len(PROMPTS), side, side, 4)).astype(np.float32)


def quiet_model(folder: Path) -> Path:
    """Write a random model with predictions and latents of the size of real ones; returns its folder.

    The plain random network is louder: its differences are far beyond the published thresholds, and as it removes no
    noise, x_T / α_T leaves latents of 60 in which float32 rounding alone moves the reference by more than 1e-3
    (max: 1.7e-3 beside itself in float64). So its output is scaled, and its schedule ends at a larger α_T.
    """
    from safetensors.numpy import load_file, save_file
    from tiny_pipeline import SCHEDULER, write_tiny

    written = write_tiny(folder)
    (path,) = (written / "unet").glob("*.safetensors")
    tensors = load_file(path)
    tensors |= {name: 0.2 * tensors[name] for name in ("conv_out.weight", "conv_out.bias")}
    save_file(tensors, path, {"format": "pt"})
    settings = SCHEDULER | {"beta_end": 0.0012}
    (written / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings), "utf-8")
    return written


def wheel() -> Path:
    """The release's file, from the cache or the package index; `UnavailableError` where there is neither."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(base) if base.startswith("/") else Path.home() / ".cache") / "ine_jax" / "oracles"
    if not (folder / WHEEL).is_file():
        command = [sys.executable, "-m", "pip", "download", f"diffusers=={RELEASE}", "--no-deps"]
        command += ["--only-binary", ":all:", "--retries", "0", "--dest", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"diffusers {RELEASE} is not in {folder} and its download took too long") from error
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise UnavailableError(f"diffusers {RELEASE} is not in {folder} and cannot be downloaded: {reason}")
    found = hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()
    if found != SHA256:
        raise RuntimeError(f"{folder / WHEEL} has the digest {found}, not {SHA256}: remove it")
    return folder / WHEEL


def reference(folder: Path) -> dict[str, np.ndarray]:
    """Final latents [prompt, h, w, c] of every case, from the model in `folder` and the reference's own loop."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "latents.npz"
        command = [sys.executable, str(Path(__file__).resolve()), str(wheel()), str(folder), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | OFFLINE)
        if done.returncode:
            raise RuntimeError(f"the reference failed:\n{done.stderr[-4000:]}")
        with np.load(out) as file:
            return dict(file)


OFFLINE = {"HF_HUB_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "critical", "OMP_NUM_THREADS": "1"}


def load(folder: Path) -> Any:
    """The reference's pipeline over the model in `folder`; part by part, since transformers is younger than it."""
    import diffusers
    from diffusers.pipelines.stable_diffusion_safe import StableDiffusionPipelineSafe
    from transformers import CLIPTextModel, CLIPTokenizer

    assert diffusers.__version__ == RELEASE
    pipe = StableDiffusionPipelineSafe(
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        scheduler=diffusers.DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.safety_concept = NEGATIVE
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe: Any, case: Case) -> np.ndarray:
    """What the loop has at its end, as its callback hands it out."""
    import diffusers
    import torch
    from diffusers.pipelines.stable_diffusion_safe import SafetyConfig

    options = {"skip_prk_steps": True} if case.scheduler == "PNDMScheduler" else {}
    pipe.scheduler = getattr(diffusers, case.scheduler).from_config(pipe.scheduler.config, **options)
    last: list[Any] = []
    pipe(
        PROMPTS,
        guidance_scale=SCALE,
        num_inference_steps=case.steps,
        latents=torch.from_numpy(noise().transpose(0, 3, 1, 2).copy()),
        output_type="np",
        callback=lambda step, timestep, values: last.append(values),
        **{**getattr(SafetyConfig, case.preset), **case.settings},
    )
    return last[-1].numpy().transpose(0, 2, 3, 1)


def child(wheel: str, folder: str, out: str) -> None:
    """Run every case and write `out`."""
    sys.path.insert(0, wheel)
    import transformers.utils

    transformers.utils.FLAX_WEIGHTS_NAME = "flax_model.msgpack"  # a name that transformers 5 no longer has
    pipe = load(Path(folder))
    np.savez_compressed(out, **{name: latents(pipe, case) for name, case in CASES.items()})


if __name__ == "__main__":
    child(*sys.argv[1:])
