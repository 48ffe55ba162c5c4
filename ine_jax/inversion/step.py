"""The objective of an inversion, as the shared training step needs it (`ine_jax.training.step`)."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from ine_jax.config import InversionConfig
from ine_jax.inversion import objective
from ine_jax.inversion.stored import loss_name
from ine_jax.models.clip import ClipText, ClipTextConfig
from ine_jax.models.text import encode_ids
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.mesh import across, platform_of
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import Apply, native_unet
from ine_jax.schedulers import NoiseConfig, alphas_cumprod
from ine_jax.training.rows import Share
from ine_jax.training.step import Metrics
from ine_jax.types import Array, Context, Latents, Params

Vectors = Float[Array, "concept row dim"]


class Frozen(NamedTuple):
    """Parameters that no step changes."""

    text: Params
    unet: Params


@dataclass(frozen=True)
class InversionObjective:
    """The loss of all concepts of a run. Models of one shape share its compiled step, a base and its variants too."""

    text: ClipTextConfig
    unet: UNetConfig
    noise: NoiseConfig
    scaling_factor: float
    dtype: DTypeLike
    mesh: Mesh
    space: str
    batch: int  # rows per concept
    concepts: int

    def loss(
        self, vectors: Vectors, frozen: Frozen, data: objective.Data, i: Int[Array, ""], share: Share
    ) -> tuple[Array, Metrics]:
        """What the rows of `share` add to the sum of the concepts' losses at step `i`.

        Only the vectors are trained: a gradient flows through the frozen UNet and, in token space, through the frozen
        text encoder to a few rows of its input. That is why the encoder stays in float32 whatever the UNet computes
        in: its gradient is all that moves the vectors. The concepts share a batch for speed alone; their losses are
        summed, not averaged, so a concept's gradient does not depend on how many others are learned beside it.
        """
        batch = objective.sample(data, i, self.batch, self.noise.train_steps, self.scaling_factor, share)
        unet, clip = self.network(), ClipText(self.text)

        def denoise(latents: Latents, timesteps: Array, context: Context) -> Latents:
            return unet(frozen.unet, latents, timesteps, context)

        def encode(ids: Array, learned: Array) -> Context:
            return encode_ids(clip, frozen.text, ids, learned)

        each = objective.losses(
            vectors,
            batch,
            data.ids if self.space == "token" else None,
            denoise=denoise,
            encode=encode,
            alphas_cumprod=alphas_cumprod(self.noise),
            prediction_type=self.noise.prediction_type,
            most=(len(batch.concept) + self.batch - 2) // self.batch + 1,
        )
        at_work = self.running(data, i)
        each = jnp.where(at_work, each, jnp.zeros_like(each))
        mean = each.sum() / jnp.maximum(at_work.sum(), 1).astype(each.dtype)
        named = {loss_name(c, self.concepts): each[c] for c in range(self.concepts)}
        return each.sum(), {**named, "loss": mean}

    def network(self) -> Apply:
        """The UNet that is differentiated."""
        return native_unet(self.unet, self.dtype, platform_of(self.mesh))

    def running(self, data: objective.Data, i: Int[Array, ""]) -> Bool[Array, "concept"]:
        """The concepts whose own number of steps is not done yet."""
        return i < data.steps

    def factor(self) -> optax.Schedule:
        """The rate is constant."""
        return optax.constant_schedule(1.0)

    def rule(self, rate: Float[Array, ""]) -> optax.GradientTransformation:
        """Adam without weight decay: its arithmetic is elementwise, so concepts never mix."""
        return optax.adam(rate)

    def finish(
        self, vectors: Vectors, metrics: Metrics, data: objective.Data, i: Int[Array, ""], rate: Float[Array, ""]
    ) -> tuple[Array, Metrics]:
        """Pull the vectors towards their norm, where one is asked for, and report the mean length of those at work.

        The loss of a concept that has done its steps is NaN, which the log writes as null.
        """
        if data.norm is not None:
            vectors = objective.pull(vectors, data.norm, rate)
        at_work = self.running(data, i)
        lengths = jnp.linalg.norm(vectors, axis=-1).mean(axis=-1)
        metrics = metrics | {"norm": jnp.mean(lengths, where=at_work)}
        for c in range(self.concepts if self.concepts > 1 else 0):
            name = loss_name(c, self.concepts)
            metrics[name] = jnp.where(at_work[c], metrics[name], jnp.float32(jnp.nan))
        return vectors, metrics


def inversion_objective(pipe: Pipeline, config: InversionConfig, concepts: int) -> InversionObjective:
    """The objective of `concepts` concepts with these settings on this model."""
    parts = pipe.parts
    return InversionObjective(
        text=parts.text_config,
        unet=parts.unet_config,
        noise=pipe.scheduler.noise,
        scaling_factor=parts.vae_config.scaling_factor,
        dtype=pipe.dtype,
        mesh=across(pipe.programs.mesh),
        space=config.space,
        batch=config.batch,
        concepts=concepts,
    )
