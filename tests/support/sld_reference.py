"""Safe latent diffusion as diffusers computes it: StableDiffusionPipelineSafe, kept by 0.39 among the deprecated."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PROMPTS = ["a photo of a cat", "the red apple and the knife"]
NEGATIVE = "knife weapon"
SCALE = 7.5
REPEATS = 4


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
    "medium-25": Case("MEDIUM", steps=25),
    "medium-25-share": Case("MEDIUM", {"sld_warmup_steps": 5}, steps=25),
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

    from tests.support.tiny_pipeline import SCHEDULER, write_tiny

    written = write_tiny(folder)
    (path,) = (written / "unet").glob("*.safetensors")
    tensors = load_file(path)
    tensors |= {name: 0.2 * tensors[name] for name in ("conv_out.weight", "conv_out.bias")}
    save_file(tensors, path, {"format": "pt"})
    settings = SCHEDULER | {"beta_end": 0.0012}
    (written / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings), "utf-8")
    return written


def reference(folder: Path) -> dict[str, np.ndarray]:
    """Final latents [prompt, h, w, c] of every case, from the model in `folder` and the reference's own loop.

    `<case>/rounding` is how far the reference moves from itself when its noise changes in the last bit: where a
    difference lies at the threshold, rounding decides, and the final latents jump.
    """
    pipe = load(folder)
    found: dict[str, np.ndarray] = {}
    for name, case in CASES.items():
        found[name] = run(pipe, case).latents
        moved = [np.abs(run(pipe, case, rounded(seed)).latents - found[name]).max() for seed in range(REPEATS)]
        found[f"{name}/rounding"] = np.asarray(max(moved))
    return found


def rounded(seed: int) -> np.ndarray:
    """The noise of every run, changed by about one unit in the last place."""
    start = noise()
    ulps = np.random.default_rng(seed).standard_normal(start.shape)
    return (start * (1 + np.finfo(np.float32).eps * ulps)).astype(np.float32)


def load(folder: Path) -> Any:
    """The reference's pipeline over the model in `folder`."""
    import diffusers
    from diffusers.pipelines.deprecated.stable_diffusion_safe import StableDiffusionPipelineSafe
    from transformers import CLIPTextModel, CLIPTokenizer

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


@dataclass(frozen=True)
class Run:
    """One run of the reference.

    Attributes:
        latents: what the loop has at its end, as its callback hands it out, [prompt, h, w, c].
        outputs: what the network returned at every call, [call, prompt, branch, h, w, c].
    """

    latents: np.ndarray
    outputs: np.ndarray


def run(pipe: Any, case: Case, start: np.ndarray | None = None) -> Run:
    """Run the reference's loop from `start` (`noise()` by default)."""
    import diffusers
    import torch
    from diffusers.pipelines.deprecated.stable_diffusion_safe import SafetyConfig

    options = {"skip_prk_steps": True} if case.scheduler == "PNDMScheduler" else {}
    pipe.scheduler = getattr(diffusers, case.scheduler).from_config(pipe.scheduler.config, **options)
    last: list[Any] = []
    rows: list[np.ndarray] = []
    hook = pipe.unet.register_forward_hook(lambda module, given, output: rows.append(output.sample.numpy()))
    pipe(
        PROMPTS,
        guidance_scale=SCALE,
        num_inference_steps=case.steps,
        latents=torch.from_numpy((noise() if start is None else start).transpose(0, 3, 1, 2).copy()),
        output_type="np",
        callback=lambda step, timestep, values: last.append(values),
        **{**getattr(SafetyConfig, case.preset), **case.settings},
    )
    hook.remove()
    outputs = np.stack(rows)  # [call, branch * prompt, c, h, w]
    outputs = outputs.reshape(len(outputs), -1, len(PROMPTS), *outputs.shape[2:]).transpose(0, 2, 1, 4, 5, 3)
    return Run(last[-1].numpy().transpose(0, 2, 3, 1), outputs)
