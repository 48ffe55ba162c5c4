"""Images per second of sampling, beside diffusers' Flax and PyTorch UNets with the same weights.

Timed is CFG sampling of latents from given noise and encoded prompts: this package's scan over the steps, the same scan
over diffusers 0.39's Flax UNet, and PyTorch's UNet in diffusers' own loop over its DDIM scheduler. Compilation and one
warm-up run are left out. The result is the median of the repeats; the implementations take turns, so that a change of
the machine's speed affects all of them.
"""

import dataclasses
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.config import BenchConfig
from ine_jax.errors import InputError
from ine_jax.guidance import Texts
from ine_jax.guidance.cfg import Cfg
from ine_jax.models.checkpoints import names
from ine_jax.pipeline import from_config
from ine_jax.pipeline.noise import item_noise
from ine_jax.pipeline.pipeline import Pipeline, assemble
from ine_jax.storage.atomic import write_json
from ine_jax.storage.provenance import versions
from ine_jax.storage.weight_files import read_json
from ine_jax.types import HostContext, HostLatents

Run: TypeAlias = Callable[[], np.ndarray]
Compiles: TypeAlias = Callable[[], int | None]  # programs compiled since the start; None where this is not known
SCALE = 7.5
PROMPT = "a photo of a cat"
OURS = "ine_jax"


class Timing(TypedDict):
    """One implementation: images per second, its speed relative to this package, and how far its latents differ."""

    implementation: str
    images_per_second: float
    lowest: float
    highest: float
    speed_of_ine_jax: float
    max_latent_difference: float
    compiles: int | None


class Setting(TypedDict):
    """Model, shapes, machine and versions of a benchmark."""

    model: str
    batch: int
    steps: int
    latents: list[int]
    repeats: int
    dtype: str
    device: str
    machine: str
    versions: dict[str, str]


class BenchResult(Setting):
    """The result file. `missing` gives the reason for each baseline that did not run."""

    schema: int
    rows: list[Timing]
    missing: dict[str, str]
    network_rows_per_image: int


def run(config: BenchConfig) -> BenchResult:
    """Time the model and the installed baselines, and write the result to `config.out`."""
    sampler = dataclasses.replace(config.sampler, scheduler="ddim")
    pipe = from_config.pipeline(config.model, config.revision, sampler, config.unlearned, dtype=jnp.float32)
    result = measure(pipe, config)
    write_json(Path(config.out), result, shared=True)
    return result


def measure(pipe: Pipeline, config: BenchConfig) -> BenchResult:
    """Return the result of `run` for a pipeline in memory (DDIM, float32)."""
    steps, batch = config.sampler.steps, pipe.rows()
    runs: dict[str, tuple[Run, Compiles]] = {OURS: _jax_run(pipe, steps, batch)}
    missing: dict[str, str] = {}
    makers = {"diffusers-flax": _flax_run, "torch": _torch_run}
    for name in config.baselines:
        try:
            runs[name] = makers[name](pipe, steps, batch)
        except (ImportError, InputError) as error:
            missing[name] = str(error).splitlines()[0]
    latents = {name: run() for name, (run, _) in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(max(3, config.repeats)):
        for name, (run, _) in runs.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    ours = statistics.median(seconds[OURS])
    rows: list[Timing] = [
        {
            "implementation": name,
            "images_per_second": batch / statistics.median(times),
            "lowest": batch / max(times),
            "highest": batch / min(times),
            "speed_of_ine_jax": statistics.median(times) / ours,
            "max_latent_difference": float(np.abs(latents[name] - latents[OURS]).max()),
            "compiles": runs[name][1](),
        }
        for name, times in seconds.items()
    ]
    return {
        **setting(pipe, steps, batch, config),
        "schema": 1,
        "rows": rows,
        "missing": missing,
        "network_rows_per_image": 2 * steps,
    }


def setting(pipe: Pipeline, steps: int, batch: int, config: BenchConfig) -> Setting:
    """Return the setting of a benchmark."""
    shape = (pipe.parts.unet_config.sample_size,) * 2
    return {
        "model": pipe.name,
        "batch": batch,
        "steps": steps,
        "latents": [*shape, pipe.parts.unet_config.in_channels],
        "repeats": max(3, config.repeats),
        "dtype": pipe.dtype.name,
        "device": f"{pipe.programs.mesh.devices.flat[0].device_kind} x {pipe.programs.mesh.size}",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "versions": versions() | _baseline_versions(),
    }


def _baseline_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "diffusers") if importlib.util.find_spec(name)}


def _inputs(pipe: Pipeline, batch: int) -> tuple[HostLatents, HostContext, HostContext]:
    """Return noise and the contexts of a prompt and of the empty prompt."""
    unet = pipe.parts.unet_config
    noise = item_noise(list(range(batch)), (unet.sample_size, unet.sample_size, unet.in_channels))
    prompt, empty = pipe.encode([PROMPT, ""])
    return noise, np.repeat(prompt[None], batch, 0), np.repeat(empty[None], batch, 0)


def _jax_run(pipe: Pipeline, steps: int, batch: int) -> tuple[Run, Compiles]:
    placed = jax.device_put(_inputs(pipe, batch), pipe.programs.batch_sharding())
    tables = jax.device_put(pipe.scheduler.tables(steps), pipe.programs.replicated())
    texts, guidance = Texts(prompt=placed[1], uncond=placed[2], negative=placed[2]), Cfg(np.asarray(SCALE, np.float32))
    before = pipe.programs.traces["sample"]

    def run() -> np.ndarray:
        made = pipe.programs.sample(pipe.parts.unet_params, pipe.scheduler, tables, guidance, texts, placed[0])
        return np.asarray(made)

    return run, lambda: pipe.programs.traces["sample"] - before


def _flax_run(pipe: Pipeline, steps: int, batch: int) -> tuple[Run, Compiles]:
    """Run the same program with diffusers' Flax UNet on the same parameters."""
    devices = list(pipe.programs.mesh.devices.flat)
    other = assemble(pipe.parts, pipe.dtype, devices, scheduler="ddim", batch_size=batch, unet_impl="diffusers")
    return _jax_run(other, steps, batch)


def _torch_run(pipe: Pipeline, steps: int, batch: int) -> tuple[Run, Compiles]:
    """Run diffusers' PyTorch UNet on the CPU, CFG rows stacked in one call, with diffusers' DDIM scheduler."""
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel

    settings = read_json(Path(pipe.parts.path) / "unet" / "config.json")
    unet = UNet2DConditionModel.from_config(settings)
    state: Mapping[str, np.ndarray] = names.to_torch(pipe.parts.unet_params)
    unet.load_state_dict({key: torch.from_numpy(np.array(value, np.float32)) for key, value in state.items()})
    unet.eval()
    scheduler = DDIMScheduler.from_config(pipe.parts.scheduler_config)
    noise, prompt, empty = (torch.from_numpy(np.array(a)) for a in _inputs(pipe, batch))
    context = torch.cat([empty, prompt])

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def run() -> np.ndarray:
        scheduler.set_timesteps(steps)
        latents = noise.permute(0, 3, 1, 2).contiguous()
        for timestep in scheduler.timesteps:
            uncond, cond = unet(torch.cat([latents, latents]), timestep, context).sample.chunk(2)
            latents = scheduler.step(uncond + SCALE * (cond - uncond), timestep, latents).prev_sample
        return np.asarray(latents.permute(0, 2, 3, 1).numpy())

    return run, lambda: None
