"""The training step of an inversion, compiled once per shape of model and run."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ine_jax.config import InversionConfig
from ine_jax.inversion import objective
from ine_jax.models.clip import ClipText, ClipTextConfig
from ine_jax.models.text import encode_ids
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.mesh import platform_of, spread
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import native_unet
from ine_jax.schedulers import NoiseConfig, alphas_cumprod
from ine_jax.types import Params


class Recipe(NamedTuple):
    """All that the compiled step depends on beside its arguments."""

    text: ClipTextConfig
    unet: UNetConfig
    noise: NoiseConfig
    dtype: Any
    mesh: Mesh
    space: str
    batch: int
    concepts: int


# Adam without weight decay; its arithmetic is per number, so concepts stay apart. The rate is applied in the step.
ADAM = optax.scale_by_adam()


def loss_name(index: int, concepts: int) -> str:
    """Column of the log that holds a concept's own loss."""
    return "loss" if concepts == 1 else f"loss_{index}"


def compiled_step(pipe: Pipeline, config: InversionConfig, concepts: int) -> Callable[..., Any]:
    """The jitted step (params, data, state, i) -> (state, metrics), params {"text", "unet"}; the state is donated.

    Models of one shape share it: inverting on a base and on its unlearned variants compiles once.
    """
    parts, noise = pipe.parts, pipe.scheduler.noise
    shape = (parts.text_config, parts.unet_config, noise, pipe.dtype, pipe.programs.mesh)
    return _jitted(Recipe(*shape, config.space, config.batch, concepts))


@functools.lru_cache(maxsize=8)
def _jitted(recipe: Recipe) -> Callable[..., Any]:
    return jax.jit(make_step(recipe), donate_argnums=2)


def make_step(recipe: Recipe) -> Callable[..., Any]:
    """The pure training step, not yet compiled."""
    table, concepts = alphas_cumprod(recipe.noise), recipe.concepts
    # The text encoder stays in float32: its gradient is all that moves the vectors.
    denoise, clip = native_unet(recipe.unet, recipe.dtype, platform_of(recipe.mesh)), ClipText(recipe.text)
    layout = spread(recipe.mesh, recipe.batch * concepts)

    def step(params: Mapping[str, Params], data: objective.Data, state: Any, i: Any) -> tuple[Any, dict[str, Any]]:
        batch = objective.draw(data, i, recipe.batch, recipe.noise.train_steps)

        def loss(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
            each = objective.losses(
                vectors,
                batch,
                data.ids if recipe.space == "token" else None,
                denoise=lambda x, t, c: denoise(params["unet"], x, t, c),
                encode=lambda ids, learned: encode_ids(clip, params["text"], ids, learned),
                alphas_cumprod=table,
                prediction_type=recipe.noise.prediction_type,
                spread=lambda x: jax.lax.with_sharding_constraint(x, layout),
            )
            return each.sum(), each  # the sum, so that a concept's gradient does not know how many there are

        gradient, each = jax.grad(loss, has_aux=True)(state["vectors"])
        direction, memory = ADAM.update(gradient, state["optimizer"])
        vectors = state["vectors"] - data.rate * direction
        if data.norm is not None:
            vectors = objective.pull(vectors, data.norm, data.rate)
        metrics = {"loss": each.mean(), "norm": jnp.linalg.norm(vectors, axis=-1).mean()}
        if concepts > 1:
            metrics |= {loss_name(c, concepts): each[c] for c in range(concepts)}
        return {"vectors": vectors, "optimizer": memory}, metrics

    return step
