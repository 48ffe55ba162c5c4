"""Text to images: the one place that compiles and shards for sampling."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ine_jax import assets, cache, schedule
from ine_jax.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.guidance import negative_guidance
from ine_jax.guidance.base import Guidance, Texts
from ine_jax.guidance.cfg import Cfg
from ine_jax.guidance.negative import Negative
from ine_jax.models.weights import ModelParts, apply_unet_delta, read_pipeline, read_unet_delta
from ine_jax.noise import draw, item_seeds
from ine_jax.programs import Programs, build
from ine_jax.text import Tokenizer, learned_rows, negative_text, phrases_text
from ine_jax.types import Params

NegativeLike = str | Sequence[str] | Embedding | None
Output = Literal["uint8", "latents"]


@dataclass(frozen=True)
class Pipeline:
    """A model on its devices, ready to sample; ``parts`` hold the parameters, ``programs`` what is compiled.

    Every call works in batches of exactly ``batch_size`` items (the last one padded), so that an item's image does
    not depend on how many others were asked for.
    """

    parts: ModelParts
    tokenizer: Tokenizer
    scheduler: schedule.Scheduler
    programs: Programs
    dtype: Any
    batch_size: int
    unet_impl: str = "native"

    @property
    def name(self) -> str:
        """Name of the model: what was given to ``load``."""
        return self.parts.name

    @property
    def compiles(self) -> int:
        """How many programs were compiled for this model shape so far."""
        return sum(self.programs.traces.values())

    def rows(self, batch_size: int | None = None) -> int:
        """Items per call: the batch size, raised to a multiple of the device count."""
        size = self.batch_size if batch_size is None else batch_size
        if size < 1:
            raise InputError(f"batch_size {size}", "1 or more", "mend batch_size")
        devices = self.programs.mesh.size
        return -(-size // devices) * devices

    def with_unet(self, params: Params, name: str | None = None) -> Pipeline:
        """The same pipeline over other UNet parameters of the same shape; compiled programs are shared."""
        placed = jax.device_put(params, self.programs.replicated())
        return dataclasses.replace(
            self, parts=dataclasses.replace(self.parts, unet_params=placed, name=name or self.name)
        )

    def encode(
        self, prompts: Sequence[str], embeddings: Sequence[Embedding] = (), batch_size: int | None = None
    ) -> np.ndarray:
        """CLIP context float32 ``[B, T, D]`` of prompts; the token of every given embedding means its learned rows."""
        ids = self.tokenizer.ids(prompts, embeddings)
        learned = learned_rows(embeddings, self.parts.text_config.hidden_size)
        run = self.programs.encode
        return self.programs.batched(
            lambda chunk: run(self.parts.text_params, chunk, learned), [ids], self.rows(batch_size)
        )

    def encode_images(self, images: np.ndarray, batch_size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log variance ``[B, h, w, c]`` of the VAE's latents of uint8 images ``[B, H, W, 3]``; not scaled
        for the UNet.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise InputError(f"images {images.dtype} {images.shape}", "uint8 [B, H, W, 3]", "convert them")
        run, params = self.programs.encode_images, self.parts.vae_params
        both = self.programs.batched(lambda chunk: jnp.stack(run(params, chunk), 1), [images], self.rows(batch_size))
        return both[:, 0], both[:, 1]

    def decode(self, latents: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        """uint8 images ``[B, H, W, 3]`` of the UNet's (scaled) latents ``[B, h, w, c]``."""
        run, params = self.programs.decode, self.parts.vae_params
        values = np.asarray(latents, np.float32)
        return self.programs.batched(lambda chunk: run(params, chunk), [values], self.rows(batch_size))

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        guidance: Guidance | None = None,
        negative: NegativeLike = None,
        negative_scale: float | None = None,
        negative_template: str = "{}",
        seeds: int | Sequence[int] = 0,
        steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        noise: np.ndarray | None = None,
        embeddings: Sequence[Embedding] = (),
        batch_size: int | None = None,
        output: Output = "uint8",
    ) -> np.ndarray:
        """Images uint8 ``[B, H, W, 3]`` of the prompts, or their scaled latents float32 ``[B, h, w, c]``.

        ``guidance`` is ``Cfg(7.5)`` by default. ``negative`` (a phrase, several, or an embedding) takes the place of
        the empty prompt; with ``negative_scale`` s it gets a row and a scale of its own, ε_u + w(ε_c − ε_u) − s(ε_n −
        ε_u). ``seeds``: one per prompt, or a number s for s, s + 1, ...; ``noise`` ``[B, h, w, c]`` replaces what the
        seeds draw. ``height`` and ``width`` are in pixels. Raises ``InputError`` for whatever does not fit together.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        shape = self._latent_shape(height, width)
        starts = item_seeds(seeds, len(prompts)) if noise is None else _given_noise(noise, (len(prompts), *shape))
        tables = self._tables(steps)
        guard = _as_arrays(resolve_guidance(guidance, negative, negative_scale))
        rows = self.rows(batch_size)
        uncond = self.encode([""], batch_size=rows)
        against = uncond if negative is None else self._negative(negative, negative_template, embeddings, rows)
        uncond, against = self._repeat(uncond, rows), self._repeat(against, rows)
        learned = learned_rows(embeddings, self.parts.text_config.hidden_size)
        ids = self.tokenizer.ids(prompts, embeddings)

        def run(ids: Any, start: Any, *scales: Any) -> Any:
            prompt = self.programs.encode(self.parts.text_params, ids, learned)
            texts = Texts(prompt=prompt, uncond=uncond, negative=against)
            guided = _with_scales(guard, scales)
            if noise is None:
                start = jax.device_put(draw(np.asarray(start), shape), self.programs.batch_sharding())
            latents = self.programs.sample(self.parts.unet_params, self.scheduler, tables, guided, texts, start)
            return latents if output == "latents" else self.programs.decode(self.parts.vae_params, latents)

        arrays = [ids, starts, *_per_item(guard, len(prompts))]
        return self.programs.batched(run, arrays, rows, empty=self._empty(shape, output))

    def _negative(
        self, negative: str | Sequence[str] | Embedding, template: str, embeddings: Sequence[Embedding], rows: int
    ) -> np.ndarray:
        """Context ``[1, T, D]`` that stands for the negative."""
        if not isinstance(negative, Embedding):
            return self.encode([phrases_text(negative)], embeddings, rows)
        if negative.space == "token":
            return self.encode([negative_text(negative, template)], [negative], rows)
        expected = (self.tokenizer.max_length, self.parts.text_config.hidden_size)
        if tuple(negative.vectors.shape) != expected:
            raise InputError(
                f"context embedding {negative.token} of shape {tuple(negative.vectors.shape)}",
                f"{expected} for model {self.name}",
                "use an embedding made for this model family",
            )
        return np.asarray(negative.vectors, np.float32)[None]

    def _latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        unet, cell = self.parts.unet_config, self.parts.vae_config.downscale
        unit = cell * 2 ** (len(unet.block_out_channels) - 1)
        sides = [unet.sample_size * cell if side is None else side for side in (height, width)]
        for side in sides:
            if side < unit or side % unit:
                raise InputError(f"image side {side} px", f"multiples of {unit} px", "mend height and width")
        return sides[0] // cell, sides[1] // cell, unet.in_channels

    def _tables(self, steps: int) -> Any:
        if steps < 1:
            raise InputError(f"steps {steps}", "1 or more", "mend steps")
        return jax.device_put(self.scheduler.tables(steps), self.programs.replicated())

    def _repeat(self, context: np.ndarray, rows: int) -> Any:
        return jax.device_put(np.repeat(context, rows, axis=0), self.programs.batch_sharding())

    def _empty(self, shape: tuple[int, int, int], output: Output) -> np.ndarray:
        if output not in ("uint8", "latents"):
            raise InputError(f"output {output!r}", "'uint8' or 'latents'", "mend output")
        if output == "latents":
            return np.zeros((0, *shape), np.float32)
        cell = self.parts.vae_config.downscale
        return np.zeros((0, shape[0] * cell, shape[1] * cell, 3), np.uint8)


def resolve_guidance(guidance: Guidance | None, negative: NegativeLike, negative_scale: float | None) -> Guidance:
    """The guard that a call means: plain CFG, CFG over a negative (two rows), or a negative with a scale of its own
    (three).
    """
    guard = Cfg(7.5) if guidance is None else guidance
    if isinstance(guard, Negative) and negative is None:
        raise InputError(
            "guidance Negative without a negative", "negative: words or an embedding", "give negative, or use Cfg"
        )
    if negative_scale is None:
        return guard
    if negative is None:
        raise InputError(
            f"negative_scale {negative_scale} without a negative", "both or neither", "give negative as well"
        )
    if not isinstance(guard, Cfg):
        raise InputError(
            f"negative_scale beside {type(guard).__name__}", "negative_scale with Cfg", "set it in the guidance"
        )
    return negative_guidance(guard.scale, negative_scale)


def _given_noise(noise: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    given = np.asarray(noise, np.float32)
    if given.shape != shape:
        raise InputError(f"noise of shape {given.shape}", f"{shape}", "give one row per prompt")
    return given


def _as_arrays(guidance: Guidance) -> Guidance:
    """Numbers as float32 arrays: a Python number and an array would count as different arguments and compile twice."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), guidance)


def _per_item(guidance: Guidance, count: int) -> list[np.ndarray]:
    """The scales that differ from item to item, each ``[count]``; they travel with the batch."""
    found = [leaf for leaf in jax.tree.leaves(guidance) if leaf.ndim]
    for leaf in found:
        if leaf.shape != (count,):
            raise InputError(f"a scale of shape {leaf.shape}", f"one number, or one per prompt: ({count},)", "mend it")
    return found


def _with_scales(guidance: Guidance, scales: Sequence[Any]) -> Guidance:
    """The guard with its per-item scales replaced by those of one batch."""
    rest = iter(scales)
    return jax.tree.map(lambda leaf: next(rest) if leaf.ndim else leaf, guidance)


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: Any = None,
    devices: Sequence[jax.Device] | None = None,
    scheduler: str | None = None,
    batch_size: int = 8,
    unet_impl: Literal["native", "diffusers"] = "native",
    compile_cache: bool | str | Path | None = None,
) -> Pipeline:
    """Read a model and place it on this process's devices.

    ``name``: ``"tiny"``, ``"tiny-unlearned-0"``, a diffusers folder, or a hub id (with ``revision``). ``dtype``: what
    is computed in and what parameters are held in; float32 on CPU and bfloat16 elsewhere by default. ``scheduler``
    overrides the folder's own (``ddim``, ``dpm++``, ``pndm``, ``euler``). ``unet_impl="diffusers"`` runs diffusers
    0.39's Flax UNet on the same parameters. ``compile_cache`` as in :func:`ine_jax.cache.enable`. Raises
    ``InputError`` for anything that cannot be read or does not fit.
    """
    if unet_impl not in ("native", "diffusers"):
        raise InputError(f"unet_impl {unet_impl!r}", "'native' or 'diffusers'", "mend unet_impl")
    cache.enable(compile_cache)
    bundled = assets.resolve(str(name))
    source, delta = bundled if bundled is not None else (name, None)
    chosen = list(jax.local_devices() if devices is None else devices)
    compute = jnp.dtype(dtype or (jnp.float32 if chosen[0].platform == "cpu" else jnp.bfloat16))
    parts = read_pipeline(source, revision=revision, dtype=compute)
    if delta is not None:
        params = apply_unet_delta(parts.unet_params, read_unet_delta(delta))
        digest = hashlib.sha256(delta.read_bytes()).hexdigest()
        parts = dataclasses.replace(parts, unet_params=params, hashes={**parts.hashes, "unet_delta": digest})
    if bundled is not None:
        parts = dataclasses.replace(parts, name=str(name))
    return assemble(parts, compute, chosen, scheduler=scheduler, batch_size=batch_size, unet_impl=unet_impl)


def assemble(
    parts: ModelParts,
    dtype: Any,
    devices: Sequence[jax.Device],
    *,
    scheduler: str | None = None,
    batch_size: int = 8,
    unet_impl: str = "native",
) -> Pipeline:
    """A pipeline over model parts that are already in memory; arguments as in :func:`load`."""
    mesh = Mesh(np.asarray(devices), ("data",))
    foreign = (Path(parts.path) / "unet" / "config.json").read_text("utf-8") if unet_impl == "diffusers" else None
    programs = build(parts.text_config, parts.unet_config, parts.vae_config, jnp.dtype(dtype), mesh, foreign)
    placed = jax.device_put((parts.text_params, parts.unet_params, parts.vae_params), programs.replicated())
    parts = dataclasses.replace(parts, text_params=placed[0], unet_params=placed[1], vae_params=placed[2])
    tokenizer = Tokenizer.from_dir(parts.tokenizer_dir, parts.text_config.max_position_embeddings)
    steps = schedule.from_config(parts.scheduler_config, scheduler)
    pipe = Pipeline(parts, tokenizer, steps, programs, jnp.dtype(dtype), batch_size, unet_impl)
    pipe.rows()
    return pipe
