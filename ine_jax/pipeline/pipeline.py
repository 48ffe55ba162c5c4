"""Text to images: the one place that compiles and shards for sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax import schedulers
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.guidance import slots as conditioning
from ine_jax.guidance.base import Guidance, Texts, is_per_item
from ine_jax.guidance.concept import Encode, NegativeLike, as_concept
from ine_jax.models.checkpoints.pipeline_folder import read_pipeline
from ine_jax.models.parts import ModelParts
from ine_jax.models.text import Tokenizer, learned_rows
from ine_jax.pipeline import compile_cache as cache
from ine_jax.pipeline.mesh import device_mesh
from ine_jax.pipeline.noise import NoiseMode, draw, starts_of
from ine_jax.pipeline.programs import Programs, build
from ine_jax.types import HostImages, HostLatents, Params

Output = Literal["uint8", "latents"]


@dataclass(frozen=True)
class Pipeline:
    """A model on its devices, ready to sample; ``parts`` hold the parameters, ``programs`` what is compiled.

    Every call works in batches of exactly ``batch_size`` items (the last one padded), so that an item's image does
    not depend on how many others were asked for.
    """

    parts: ModelParts
    tokenizer: Tokenizer
    scheduler: schedulers.Scheduler
    programs: Programs
    dtype: Any
    batch_size: int
    unet_impl: str = "native"

    @property
    def name(self) -> str:
        """Name of the model: what was given to ``load``."""
        return self.parts.name

    @property
    def model_id(self) -> str:
        """Content id of the model, the same for every dtype, device and process (`ModelParts.model_id`)."""
        return self.parts.model_id

    @property
    def image_side(self) -> int:
        """Side of the model's own images, in pixels."""
        return self.parts.unet_config.sample_size * self.parts.vae_config.downscale

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
            self, parts=dataclasses.replace(self.parts, unet_params=placed, name=name or self.name, hashes={})
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

    def latents_of(self, images: HostImages) -> HostLatents:
        """Return the mean latents of images in the UNet's scale."""
        return np.asarray(self.encode_images(images)[0] * np.float32(self.parts.vae_config.scaling_factor))

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
        seeds: int | Sequence[int] = 0,
        steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        noise: NoiseMode | np.ndarray = "jax",
        embeddings: Sequence[Embedding] = (),
        batch_size: int | None = None,
        output: Output = "uint8",
    ) -> np.ndarray:
        """Images uint8 ``[B, H, W, 3]`` of the prompts, or their scaled latents float32 ``[B, h, w, c]``.

        ``guidance`` is ``Cfg(7.5)`` by default. ``negative`` says what is to be avoided: a phrase, several, an
        embedding, several, or a :class:`Concept`; it fills the slots that the guard has. Under CFG
        it takes the place of the empty prompt, and with ``negative_scale`` s it gets a row and a scale of its own, ε_u
        + w(ε_c − ε_u) − s(ε_n − ε_u). ``seeds``: one per prompt, or a number s for s, s + 1, ...; ``noise`` says what
        they mean: ``"jax"``, or the numbers of ``torch.randn`` on ``"torch-cpu"`` or ``"torch-cuda"``; an array ``[B,
        h, w, c]`` or ``[B, c, h, w]`` takes their place. ``height`` and ``width`` are in pixels. Raises ``InputError``
        for whatever does not fit together.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        shape = self._latent_shape(height, width)
        starts = starts_of(noise, seeds, len(prompts), shape)
        tables = self._tables(steps)
        concept = as_concept(negative)
        guard = _as_arrays(conditioning.resolve(guidance, concept, negative_scale))
        rows = self.rows(batch_size)
        slots = conditioning.fill(guard, concept, self._encoder(embeddings, rows))
        shared = Texts(*(self._repeat(slot, rows) for slot in (slots.uncond, slots.uncond, slots.negative, slots.bank)))
        columns, calls = slots.columns, np.float32(len(tables.timestep))
        end = np.int32(self.tokenizer.backend.eos_token_id)
        learned = learned_rows(embeddings, self.parts.text_config.hidden_size)
        ids = self.tokenizer.ids(prompts, embeddings)

        def run(ids: Any, start: Any, *scales: Any) -> Any:
            prompt = self.programs.encode(self.parts.text_params, ids, learned)
            texts = dataclasses.replace(shared, prompt=prompt)
            guided = _with_scales(guard, scales)
            projects = conditioning.projection(guided)
            if projects is not None:
                where = self.parts.text_params, ids, learned, end
                found = self.programs.project(*where, projects, prompt, columns, calls)
                texts = dataclasses.replace(texts, safe=found.safe, until=found.until)
            if start.ndim == 1:  # seeds: drawn on the device
                start = jax.device_put(draw(np.asarray(start), shape), self.programs.batch_sharding())
            latents = self.programs.sample(self.parts.unet_params, self.scheduler, tables, guided, texts, start)
            return latents if output == "latents" else self.programs.decode(self.parts.vae_params, latents)

        arrays = [ids, starts, *_per_item(guard, len(prompts))]
        return self.programs.batched(run, arrays, rows, empty=self._empty(shape, output))

    def _encoder(self, embeddings: Sequence[Embedding], rows: int) -> Encode:
        """Encoding as slots are filled with it; words may hold the tokens of `embeddings`."""
        end = self.tokenizer.backend.eos_token_id

        def encode(prompts: Sequence[str], own: Sequence[Embedding]) -> tuple[np.ndarray, np.ndarray]:
            ids = self.tokenizer.ids(prompts, own or embeddings)
            return self.encode(prompts, own or embeddings, rows), np.argmax(ids == end, axis=1)

        return encode

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

    def _repeat(self, context: np.ndarray | None, rows: int) -> Any:
        if context is None:
            return None
        return jax.device_put(np.repeat(context, rows, axis=0), self.programs.batch_sharding())

    def _empty(self, shape: tuple[int, int, int], output: Output) -> np.ndarray:
        if output not in ("uint8", "latents"):
            raise InputError(f"output {output!r}", "'uint8' or 'latents'", "mend output")
        if output == "latents":
            return np.zeros((0, *shape), np.float32)
        cell = self.parts.vae_config.downscale
        return np.zeros((0, shape[0] * cell, shape[1] * cell, 3), np.uint8)


def _as_arrays(guidance: Guidance) -> Guidance:
    """Numbers as float32 arrays: a Python number and an array would count as different arguments and compile twice."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), guidance)


def _per_item(guidance: Guidance, count: int) -> list[np.ndarray]:
    """The scales that differ from item to item, each ``[count]``; they travel with the batch."""
    found = [leaf for leaf in jax.tree.leaves(guidance) if is_per_item(leaf)]
    for leaf in found:
        if leaf.shape != (count,):
            raise InputError(f"a scale of shape {leaf.shape}", f"one number, or one per prompt: ({count},)", "mend it")
    return found


def _with_scales(guidance: Guidance, scales: Sequence[Any]) -> Guidance:
    """The guard with its per-item scales replaced by those of one batch."""
    rest = iter(scales)
    return jax.tree.map(lambda leaf: next(rest) if is_per_item(leaf) else leaf, guidance)


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    unlearned: str | Path | Sequence[str | Path] = (),
    dtype: Any = None,
    devices: Sequence[jax.Device] | None = None,
    scheduler: str | None = None,
    batch_size: int = 8,
    unet_impl: Literal["native", "diffusers"] = "native",
    compile_cache: bool | str | Path | None = None,
) -> Pipeline:
    """Read a model and place it on this process's devices.

    ``name``: ``"tiny"``, ``"tiny-unlearned-0"``, a diffusers folder, or a hub id (with ``revision``). ``unlearned``: a
    published checkpoint to put on top of it, or several in this order: a file or folder of any known layout, or
    ``owner/name[/file or folder][@revision]``; ``place:0.8`` adds a LoRA 0.8 times. ``dtype``: what is computed in and
    parameters are held in; float32 on CPU and bfloat16 elsewhere by default. ``scheduler`` overrides the folder's own
    (``ddim``, ``dpm++``, ``pndm``, ``euler``). ``unet_impl="diffusers"`` runs diffusers 0.39's Flax UNet on the same
    parameters. ``compile_cache`` as in :func:`compile_cache.enable`. Raises ``InputError`` for anything that cannot be
    read or does not fit.
    """
    if unet_impl not in ("native", "diffusers"):
        raise InputError(f"unet_impl {unet_impl!r}", "'native' or 'diffusers'", "mend unet_impl")
    cache.enable(compile_cache)
    chosen = list(jax.local_devices() if devices is None else devices)
    compute = jnp.dtype(dtype or (jnp.float32 if chosen[0].platform == "cpu" else jnp.bfloat16))
    given = [unlearned] if isinstance(unlearned, str | Path) else list(unlearned)
    parts = read_pipeline(name, revision, dtype=compute, unlearned=given)
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
    mesh = device_mesh(devices)
    foreign = (Path(parts.path) / "unet" / "config.json").read_text("utf-8") if unet_impl == "diffusers" else None
    programs = build(parts.text_config, parts.unet_config, parts.vae_config, jnp.dtype(dtype), mesh, foreign)
    placed = jax.device_put((parts.text_params, parts.unet_params, parts.vae_params), programs.replicated())
    parts = dataclasses.replace(parts, text_params=placed[0], unet_params=placed[1], vae_params=placed[2])
    tokenizer = Tokenizer.from_dir(parts.tokenizer_dir, parts.text_config.max_position_embeddings)
    steps = schedulers.from_config(parts.scheduler_config, scheduler)
    pipe = Pipeline(parts, tokenizer, steps, programs, jnp.dtype(dtype), batch_size, unet_impl)
    pipe.rows()
    return pipe
