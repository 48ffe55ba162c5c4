"""Whole sampler runs on one fixed nonlinear denoiser: the cases, our run, and the run in PyTorch."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax import schedulers
from tests.support import paths

GOLDEN = paths.GOLDEN / "trajectories.safetensors"
SHAPE = (2, 3, 3, 2)
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
V = {"prediction_type": "v_prediction"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} | V
LEADING, TRAILING, LINSPACE = ({"timestep_spacing": kind} for kind in ("leading", "trailing", "linspace"))
SD1 = LATENT | {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1}


@dataclass(frozen=True)
class Case:
    """A run: name, class in diffusers, settings on top of Stable Diffusion's, number of steps."""

    name: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    steps: int = 50

    @property
    def config(self) -> dict[str, Any]:
        return {"_class_name": self.kind} | SD1 | self.settings


DDIM, DPM, PNDM, EULER = "DDIMScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler", "EulerDiscreteScheduler"
CASES = [
    Case("ddim", DDIM),
    Case("ddim-v", DDIM, V),
    Case("ddim-clip", DDIM, {"clip_sample": True, "clip_sample_range": 0.8, "set_alpha_to_one": True}),
    Case("ddim-linspace", DDIM, LINSPACE | {"beta_schedule": "linear"}),
    Case("ddim-trailing-7", DDIM, TRAILING, 7),
    Case("ddim-cosine", DDIM, {"beta_schedule": "squaredcos_cap_v2"}),
    Case("ddim-zero-snr-v", DDIM, ZERO_SNR),
    Case(
        "ddim-trained-betas",
        DDIM,
        {"trained_betas": np.linspace(0.001, 0.015, 600).tolist(), "num_train_timesteps": 600},
    ),
    Case("dpm", DPM),
    Case("dpm-v", DPM, V | LEADING),
    Case("dpm-trailing-v", DPM, V | TRAILING),
    Case("dpm-karras", DPM, {"use_karras_sigmas": True}),
    Case("dpm-heun", DPM, LEADING | {"solver_type": "heun", "final_sigmas_type": "sigma_min"}),
    Case("dpm-short", DPM, {"final_sigmas_type": "sigma_min"}, 9),
    Case("dpm-short-high", DPM, {"final_sigmas_type": "sigma_min", "lower_order_final": False}, 9),
    Case("dpm-euler-final", DPM, {"final_sigmas_type": "sigma_min", "euler_at_final": True}, 20),
    Case("dpm-first-order", DPM, {"solver_order": 1}),
    Case("dpm-cosine", DPM, {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}),
    Case("dpm-zero-snr-v", DPM, ZERO_SNR),
    Case("pndm", PNDM),
    Case("pndm-v", PNDM, V),
    Case("pndm-alpha-one", PNDM, {"set_alpha_to_one": True, "steps_offset": 0}),
    Case("pndm-linspace", PNDM, LINSPACE),
    Case("pndm-trailing-7", PNDM, TRAILING, 7),
    Case("pndm-2", PNDM, {}, 2),
    Case("pndm-1", PNDM, {}, 1),
    Case("euler", EULER),
    Case("euler-v", EULER, V | LEADING),
    Case("euler-trailing-7", EULER, TRAILING, 7),
    Case("euler-karras", EULER, {"use_karras_sigmas": True}),
    Case("euler-karras-range", EULER, {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 12.0}),
    Case("euler-log-linear", EULER, {"interpolation_type": "log_linear"}),
    Case("euler-sigma-min", EULER, {"final_sigmas_type": "sigma_min"}),
    Case("euler-zero-snr-v", EULER, ZERO_SNR),
]


def first_noise() -> np.ndarray:
    return np.random.default_rng(2511).standard_normal(SHAPE).astype(np.float32)


def network(latents: Any, timestep: Any, sin: Any) -> Any:
    """Answer 0.6 sin(1.3 x + t / 250) + 0.3 x, for whichever library `sin` belongs to."""
    return 0.6 * sin(1.3 * latents + timestep / 250.0) + 0.3 * latents


def ours(case: Case) -> np.ndarray:
    """Return the latents after every network call, [calls, batch, h, w, c]."""
    sampler = schedulers.from_config(case.config)
    tables = sampler.tables(case.steps)

    def body(carry: Any, row: Any) -> tuple[Any, jax.Array]:
        latents, state = carry
        output = network(sampler.scale_input(latents, row), row.timestep, jnp.sin)
        latents, state = sampler.step(state, latents, output, row)
        return (latents, state), latents

    run = jax.jit(lambda tables, noise: jax.lax.scan(body, sampler.initial(noise, tables), tables)[1])
    return np.asarray(run(tables, jnp.asarray(first_noise())))


def torch_run(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return the latents after every call and the timesteps, by diffusers' PyTorch sampler."""
    import diffusers
    import torch

    sampler = getattr(diffusers, case.kind).from_config(case.config)
    sampler.set_timesteps(case.steps)
    latents = torch.from_numpy(first_noise()) * sampler.init_noise_sigma
    history = []
    for timestep in sampler.timesteps:
        output = network(sampler.scale_model_input(latents, timestep), timestep.float(), torch.sin)
        latents = sampler.step(output, timestep, latents).prev_sample
        history.append(latents.numpy().copy())
    return np.stack(history), sampler.timesteps.numpy()


def kept(calls: int) -> list[int]:
    """Return the calls whose latents are stored: every tenth and the last."""
    return sorted({*range(0, calls, 10), calls - 1})
