"""Optimizer steps of concept inversion per second, beside the step of diffusers' textual inversion in PyTorch.

Timed are the steps alone: the images are encoded before. PyTorch's step is that of diffusers' example
(`examples/textual_inversion/textual_inversion.py`): DDPM's noise on the latents, transformers' text encoder, diffusers'
UNet, AdamW over the whole table of token embeddings, and the rows of the other tokens put back. It gets this package's
random numbers and no weight decay, so that both learn the same vector, and the largest difference between the two is
reported. The gradient of this package's step can also run through diffusers' Flax UNet.
"""

import dataclasses
import functools
import json
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ine_jax import assets
from ine_jax.config import BenchConfig, InversionConfig
from ine_jax.errors import InputError
from ine_jax.inversion import objective
from ine_jax.inversion.run import training_data
from ine_jax.inversion.start import first_vectors
from ine_jax.inversion.step import Frozen, InversionObjective, inversion_objective
from ine_jax.models.checkpoints.configs import config_json
from ine_jax.models.text import PLACEHOLDER
from ine_jax.pipeline import from_config
from ine_jax.pipeline.bench import in_torch
from ine_jax.pipeline.bench.model import pipeline
from ine_jax.pipeline.bench.turns import PLAIN, Compared, Contender, Makers, compare, flops
from ine_jax.pipeline.mesh import everywhere
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import Apply, diffusers_unet, native_unet
from ine_jax.training.rows import ALL
from ine_jax.training.step import compiled_step, first_state
from ine_jax.types import HostArray


@dataclass(frozen=True)
class OtherUnet(InversionObjective):
    """The objective with another network: diffusers' Flax UNet of this `config.json`, or the one that XLA can count."""

    config_json: str = ""

    def network(self) -> Apply:
        """The other network."""
        if self.config_json:
            return diffusers_unet(self.config_json, self.dtype)
        return native_unet(self.unet, self.dtype, PLAIN)


@dataclass(frozen=True)
class Start:
    """What a run of steps begins with: the concept's settings, its data, and its first vectors [1, k, d]."""

    config: InversionConfig
    problem: InversionObjective
    data: objective.Data
    vectors: HostArray


def run(config: BenchConfig) -> Compared:
    """Load the model and return its result."""
    return measure(pipeline(config), config)


def measure(pipe: Pipeline, config: BenchConfig) -> Compared:
    """Return the result for a pipeline in memory."""
    start = begin(pipe, config.inversion)
    others: Makers = {
        "torch": functools.partial(_in_torch, pipe, start),
        "torch-compile": functools.partial(_in_torch, pipe, start, compiled=True),
        "diffusers-flax": lambda: _in_jax(pipe, _with_diffusers(pipe, start)),
    }
    steps, batch = config.inversion.steps, config.inversion.batch
    result = compare(pipe, config, _in_jax(pipe, start), others, "steps", steps, step_flops(pipe, start))
    return {**result, "what": "inversion", "steps": steps, "batch": batch}


def begin(pipe: Pipeline, config: InversionConfig) -> Start:
    """Return the start of an inversion of the bundled concept's images, as many as one batch has."""
    images = from_config.images(assets.concept_images(), pipe)[: config.batch]
    (vectors,) = first_vectors(pipe, [config])
    problem = inversion_objective(pipe, config, 1)
    data = everywhere(training_data(pipe, [images], [config], vectors), problem.mesh)
    return Start(config, problem, data, vectors[None])


def step_flops(pipe: Pipeline, start: Start) -> float:
    """Return the FLOPs of one step: the loss, and its gradient with respect to the vectors."""
    problem = _other(start.problem)
    frozen = Frozen(pipe.parts.text_params, pipe.parts.unet_params)
    gradient = jax.grad(functools.partial(problem.loss, share=ALL), has_aux=True)
    return flops(gradient, start.vectors, frozen, start.data, np.int32(0))


def _other(problem: InversionObjective, config_json: str = "") -> OtherUnet:
    fields = {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}
    return OtherUnet(**fields, config_json=config_json)


def _with_diffusers(pipe: Pipeline, start: Start) -> Start:
    text = json.dumps(config_json(pipe.parts.unet_config))
    return dataclasses.replace(start, problem=_other(start.problem, text))


def _in_jax(pipe: Pipeline, start: Start) -> Contender:
    """This package's step; every turn goes on where the last one ended."""
    problem = start.problem
    frozen = everywhere(Frozen(pipe.parts.text_params, pipe.parts.unet_params), problem.mesh)
    step = compiled_step(problem)
    state = [first_state(problem, start.vectors, start.config.learning_rate)]

    def turn() -> None:
        for i in range(start.config.steps):
            state[0], metrics = step(frozen, start.data, state[0], i)
        jax.block_until_ready((state, metrics))

    return Contender(turn, lambda: np.asarray(state[0].trained))


def _in_torch(pipe: Pipeline, start: Start, compiled: bool = False) -> Contender:
    """The step of diffusers' textual inversion; every turn goes on where the last one ended."""
    import torch
    from diffusers import DDPMScheduler

    config, known = start.config, pipe.parts.text_config.vocab_size
    if config.space != "token" or config.norm is not None:
        raise InputError("torch: context space, or a norm", "token space without a norm", "change inversion.space")
    unet, text = in_torch.unet(pipe, compiled), in_torch.text_encoder(pipe, "float32").requires_grad_(False)
    text.resize_token_embeddings(known + config.vectors, mean_resizing=False)
    table = text.get_input_embeddings().weight.requires_grad_()
    with torch.no_grad():
        table[known:] = in_torch.tensor(pipe, start.vectors[0], "float32")
    original = table.detach().clone()[:known]
    encode = torch.compile(text) if compiled else text
    scheduler = DDPMScheduler.from_config(pipe.parts.scheduler_config)
    velocity = scheduler.config.prediction_type == "v_prediction"
    optimizer = torch.optim.AdamW([table], lr=config.learning_rate, weight_decay=0.0)
    steps = [_Numbers.of(pipe, start, each, known) for each in _batches(start)]

    def turn() -> None:
        for each in steps:
            noisy = scheduler.add_noise(each.latents, each.noise, each.timesteps)
            context = encode(each.ids)[0]
            predicted = unet(noisy.to(unet.dtype), each.timesteps, context.to(unet.dtype)).sample
            wanted = scheduler.get_velocity(each.latents, each.noise, each.timesteps) if velocity else each.noise
            torch.nn.functional.mse_loss(predicted.float(), wanted).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                table[:known] = original
        if table.device.type == "cuda":
            torch.cuda.synchronize()

    return Contender(turn, lambda: in_torch.array(table[known:])[None])


@dataclass(frozen=True)
class _Numbers:
    """The random numbers of a step as tensors: latents and noise in NCHW, timesteps, and token ids."""

    latents: Any
    noise: Any
    timesteps: Any
    ids: Any

    @classmethod
    def of(cls, pipe: Pipeline, start: Start, batch: objective.Batch, known: int) -> "_Numbers":
        """Those of a batch; the learned tokens follow the `known` ones of the vocabulary."""
        ids = np.asarray(start.data.ids)[np.asarray(batch.sentence)]
        ids = np.where(ids >= PLACEHOLDER, ids - PLACEHOLDER + known, ids)
        latents, noise = (
            in_torch.tensor(pipe, each, "float32").permute(0, 3, 1, 2).contiguous()
            for each in (batch.latents, batch.noise)
        )
        return cls(latents, noise, in_torch.tensor(pipe, batch.timesteps, "int64"), in_torch.tensor(pipe, ids, "int64"))


def _batches(start: Start) -> list[objective.Batch]:
    """Return the random numbers of each step of a turn."""
    problem = start.problem
    batch, levels, scale = problem.batch, problem.noise.train_steps, problem.scaling_factor
    draw = jax.jit(lambda data, i: objective.sample(data, i, batch, levels, scale))
    return [draw(start.data, i) for i in range(start.config.steps)]
