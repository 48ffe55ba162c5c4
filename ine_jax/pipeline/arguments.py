"""The arguments of a pipeline's call: their names and types, checked before anything runs."""

import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError, InputTypeError, shown
from ine_jax.pipeline.noise import Seeds

P = ParamSpec("P")
R = TypeVar("R")

# Arguments of diffusers' pipelines, and what they are here.
DIFFUSERS = {
    "prompt": "prompts",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "negative_prompt": "negative",
    "negative_prompt_embeds": "negative, an Embedding in context space",
    "num_images_per_prompt": "seeds, several for one prompt",
    "generator": "seeds",
    "latents": "noise",
    "output_type": "output",
    "callback_on_step_end": "progress",
}


def named_arguments(call: Callable[P, R]) -> Callable[P, R]:
    """Return `call`, which for an unknown keyword raises an error that names the nearest one, or diffusers' one."""
    known = [name for name in inspect.signature(call).parameters if name != "self"]

    @functools.wraps(call)
    def checked(*args: P.args, **given: P.kwargs) -> R:
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                here = DIFFUSERS.get(name) or (near[0] if near else "")
                todo = f"use {here}" if here else "leave it out"
                raise InputTypeError(f"unknown argument {name}", ", ".join(known), todo)
        return call(*args, **given)

    return checked


def require(name: str, value: object, ok: bool, allowed: str) -> None:
    """Raise `InputTypeError` for an argument of a wrong type, unless `ok`."""
    if not ok:
        raise InputTypeError(f"{name}: {shown(value)} ({type(value).__name__})", allowed, f"change {name}")


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, and not a truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def prompts_of(prompts: str | Sequence[str], seeds: Seeds) -> list[str]:
    """Return the prompts; a single one is repeated for several seeds."""
    texts = [prompts] if isinstance(prompts, str) else prompts
    ok = isinstance(texts, Sequence | np.ndarray) and all(isinstance(text, str) for text in texts)
    require("prompts", prompts, ok, "a text, or several")
    count = 1 if np.ndim(seeds) == 0 or isinstance(seeds, str) else len(seeds)  # type: ignore[arg-type]
    return list(texts) * count if len(texts) == 1 and count else list(texts)


def check_whole(steps: object, **sizes: object) -> None:
    """Raise `InputTypeError` where the steps are not a whole number, or a size neither that nor None."""
    require("steps", steps, is_whole(steps), "a whole number")
    for name, size in sizes.items():
        require(name, size, size is None or is_whole(size), "a whole number, or None")


def check_types(negative_scale: object, embeddings: object, noise: object, output: object) -> None:
    """Raise `InputTypeError` for an argument of a wrong type, `InputError` for another output."""
    ok = negative_scale is None or (isinstance(negative_scale, Real) and not isinstance(negative_scale, bool))
    require("negative_scale", negative_scale, ok, "a number, or None")
    ok = isinstance(embeddings, Sequence) and all(isinstance(each, Embedding) for each in embeddings)
    require("embeddings", embeddings, ok, "a list of Embedding")
    require(
        "noise", noise, isinstance(noise, str) or hasattr(noise, "__array__"), "the name of a generator, or an array"
    )
    if output not in ("images", "latents"):
        raise InputError(f"output {output!r}", "'images' or 'latents'", "change output")


def check_load(name: object, batch_size: object, unet_impl: object) -> None:
    """Raise `InputTypeError` for a model or batch size of a wrong type, `InputError` for another UNet."""
    allowed = "a bundled name, a folder in diffusers' layout, or a hub id"
    require("name", name, isinstance(name, str | Path), allowed)
    require("batch_size", batch_size, is_whole(batch_size), "a whole number")
    if unet_impl not in ("native", "diffusers"):
        raise InputError(f"unet_impl {unet_impl!r}", "'native' or 'diffusers'", "change unet_impl")


def image_side(side: int, unit: int) -> int:
    """Return the side of an image in pixels; InputError unless it is a multiple of `unit`."""
    if side < unit or side % unit:
        raise InputError(f"image side {side} px", f"multiples of {unit} px", "change height and width")
    return side
