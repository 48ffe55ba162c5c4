"""Images per second of sampling, beside diffusers' PyTorch and Flax UNets with the same weights.

Timed is CFG sampling of latents from given noise and encoded prompts: this package's scan over the steps, the same scan
over diffusers 0.39's Flax UNet, and PyTorch's UNet, as it is and through `torch.compile`, in diffusers' own loop over
its DDIM scheduler. One run before the turns, which compiles, is left out.
"""

import dataclasses
import functools

import jax
import numpy as np

from ine_jax.config import BenchConfig
from ine_jax.guidance import Texts
from ine_jax.guidance.cfg import Cfg
from ine_jax.pipeline.bench import in_torch
from ine_jax.pipeline.bench.model import pipeline
from ine_jax.pipeline.bench.turns import Compared, Contender, Makers, compare, network_flops
from ine_jax.pipeline.noise import item_noise
from ine_jax.pipeline.pipeline import Pipeline, assemble
from ine_jax.types import HostArray, HostContext, HostLatents

SCALE = 7.5
PROMPT = "a photo of a cat"


def run(config: BenchConfig) -> Compared:
    """Load the model and return its result."""
    return measure(pipeline(config, scheduler="ddim"), config)


def measure(pipe: Pipeline, config: BenchConfig) -> Compared:
    """Return the result for a pipeline in memory, with DDIM."""
    steps, batch = config.sampler.steps, pipe.rows()
    others: Makers = {
        "torch": functools.partial(_in_torch, pipe, steps, batch),
        "torch-compile": functools.partial(_in_torch, pipe, steps, batch, compiled=True),
        "diffusers-flax": lambda: _in_jax(with_diffusers(pipe), steps, batch),
    }
    each = 2 * steps * network_flops(pipe)
    return {**compare(pipe, config, _in_jax(pipe, steps, batch), others, "images", batch, each), "what": "sampling"}


def with_diffusers(pipe: Pipeline) -> Pipeline:
    """Return the pipeline with diffusers' Flax UNet on the same parameters.

    Raises:
        InputError: there is none for this model.
    """
    devices = list(pipe.programs.mesh.devices.flat)
    other = assemble(pipe.parts, pipe.dtype, devices, batch_size=pipe.rows(), unet_impl="diffusers")
    return dataclasses.replace(other, scheduler=pipe.scheduler)


def _inputs(pipe: Pipeline, batch: int) -> tuple[HostLatents, HostContext, HostContext]:
    """Return noise and the contexts of a prompt and of the empty prompt."""
    unet = pipe.parts.unet_config
    noise = item_noise(list(range(batch)), (unet.sample_size, unet.sample_size, unet.in_channels))
    prompt, empty = pipe.encode([PROMPT, ""])
    return noise, np.repeat(prompt[None], batch, 0), np.repeat(empty[None], batch, 0)


def _in_jax(pipe: Pipeline, steps: int, batch: int) -> Contender:
    placed = jax.device_put(_inputs(pipe, batch), pipe.programs.batch_sharding())
    tables = jax.device_put(pipe.scheduler.tables(steps), pipe.programs.replicated())
    texts, guidance = Texts(prompt=placed[1], uncond=placed[2], negative=placed[2]), Cfg(np.asarray(SCALE, np.float32))
    before = pipe.programs.traces["sample"]
    made: list[HostArray] = []

    def turn() -> None:
        latents = pipe.programs.sample(pipe.parts.unet_params, pipe.scheduler, tables, guidance, texts, placed[0])
        made[:] = [np.asarray(latents)]

    return Contender(turn, lambda: made[0], lambda: pipe.programs.traces["sample"] - before)


def _in_torch(pipe: Pipeline, steps: int, batch: int, compiled: bool = False) -> Contender:
    """PyTorch's UNet, CFG rows stacked in one call, with diffusers' DDIM scheduler."""
    unet = in_torch.unet(pipe, compiled)
    noise, prompt, empty = (in_torch.tensor(pipe, array) for array in _inputs(pipe, batch))
    sample = in_torch.sampler(pipe, unet, steps, SCALE)
    made: list[HostArray] = []

    def turn() -> None:
        made[:] = [in_torch.array(sample(noise.permute(0, 3, 1, 2), prompt, empty).permute(0, 2, 3, 1))]

    return Contender(turn, lambda: made[0])
