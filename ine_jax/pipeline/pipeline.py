"""Text to images: the one place that compiles and shards for sampling."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ine_jax import schedulers
from ine_jax.config.methods import LatentsLayout, NoiseMode, SamplerConfig, UnetImpl
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.guidance import slots as conditioning
from ine_jax.guidance.base import Guidance, Texts, as_arrays, item_scales, with_scales
from ine_jax.guidance.concept import Encode, NegativeLike, as_concept
from ine_jax.models.checkpoints.configs import config_json
from ine_jax.models.checkpoints.pipeline_folder import read_pipeline
from ine_jax.models.parts import ModelParts
from ine_jax.models.text import Tokenizer, learned_rows
from ine_jax.pipeline import arguments, tpu
from ine_jax.pipeline import compile_cache as cache
from ine_jax.pipeline.batches import in_batches
from ine_jax.pipeline.bound import Bound, texts_of
from ine_jax.pipeline.mesh import device_mesh, platform_of
from ine_jax.pipeline.noise import Seeds, item_seeds, random_normal, starts_of
from ine_jax.pipeline.programs import Programs, build
from ine_jax.pipeline.samples import Samples, no_samples
from ine_jax.progress import Progress
from ine_jax.schedulers import AnyScheduler
from ine_jax.types import Array, HostArray, HostContext, HostImages, HostLatents, LatentShape, Params, TokenIds

STEPS = SamplerConfig.steps  # the command line's default


@dataclass(frozen=True)
class Pipeline:
    """A text-to-image model on its devices, ready to generate. `load` makes one.

    Every call works in batches of exactly `batch_size` items, rounded up to a multiple of the device count (the last
    batch padded), so an item's image does not depend on how many others are generated with it.
    """

    parts: ModelParts
    tokenizer: Tokenizer
    scheduler: AnyScheduler
    programs: Programs
    dtype: np.dtype[np.generic]
    batch_size: int
    unet_impl: UnetImpl = "native"

    def __repr__(self) -> str:
        """Model, devices and sizes, without the parameters."""
        mesh, side, scheduler = self.programs.mesh, self.image_side, type(self.scheduler).__name__
        return f"Pipeline({self.name!r}, {mesh.size} x {platform_of(mesh)}, {self.dtype}, {scheduler}, {side} px)"

    @property
    def name(self) -> str:
        """Name of the model, as given to `load`."""
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
        """Number of programs compiled for this model shape so far."""
        return sum(self.programs.traces.values())

    def rows(self, batch_size: int | None = None) -> int:
        """Return the items per batch: the batch size, rounded up to a multiple of the device count."""
        size = self.batch_size if batch_size is None else batch_size
        if size < 1:
            raise InputError(f"batch_size {size}", "1 or more", "change batch_size")
        devices = self.programs.mesh.size
        return -(-size // devices) * devices

    def with_unet(self, params: Params, name: str | None = None) -> "Pipeline":
        """Return the same pipeline with other UNet parameters of the same shape; compiled programs are shared."""
        placed = jax.device_put(params, self.programs.replicated())
        parts = dataclasses.replace(self.parts, unet_params=placed, name=name or self.name, hashes={})
        return dataclasses.replace(self, parts=parts)

    def encode(
        self, prompts: Sequence[str], embeddings: Sequence[Embedding] = (), batch_size: int | None = None
    ) -> HostContext:
        """Return the CLIP context of prompts; the token of every given embedding means its learned rows."""
        ids = self.tokenizer.ids(prompts, embeddings)
        learned = learned_rows(embeddings, self.parts.text_config.hidden_size)
        run, params = self.programs.encode, self.parts.text_params
        return self.programs.batched(lambda chunk: run(params, chunk, learned), [ids], self.rows(batch_size))

    def encode_images(self, images: HostArray, batch_size: int | None = None) -> tuple[HostLatents, HostLatents]:
        """Return mean and log variance of the VAE's latents of uint8 images [B, H, W, 3], not scaled for the UNet."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise InputError(f"images {images.dtype} {images.shape}", "uint8 [B, H, W, 3]", "convert them")
        run, params = self.programs.encode_images, self.parts.vae_params
        both = self.programs.batched(lambda chunk: jnp.stack(run(params, chunk), 1), [images], self.rows(batch_size))
        return both[:, 0], both[:, 1]

    def latents_of(self, images: HostImages) -> HostLatents:
        """Return the mean latents of images in the UNet's scale."""
        return np.asarray(self.encode_images(images)[0] * np.float32(self.parts.vae_config.scaling_factor))

    def decode(self, latents: HostLatents, batch_size: int | None = None) -> HostImages:
        """Return the images of latents in the UNet's scale."""
        run, params = self.programs.decode, self.parts.vae_params
        values = np.asarray(latents, np.float32)
        return self.programs.batched(lambda chunk: run(params, chunk), [values], self.rows(batch_size))

    @arguments.named_arguments
    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        guidance: Guidance | float | None = None,
        negative: NegativeLike = None,
        negative_scale: float | None = None,
        seeds: Seeds = 0,
        steps: int = STEPS,
        height: int | None = None,
        width: int | None = None,
        noise: NoiseMode | HostArray = "jax",
        noise_layout: LatentsLayout = "NHWC",
        embeddings: Sequence[Embedding] = (),
        batch_size: int | None = None,
        output: Literal["images", "latents"] = "images",
        progress: bool = False,
    ) -> Samples:
        """Generate images from prompts.

        Args:
            prompts: one prompt or several; one is used for all seeds.
            guidance: the guidance scale, or a guard; by default CFG at the command line's guidance scale, 7.5.
            negative: the concept to avoid: a phrase, an embedding, its file or bundled name, several of these, or a
                `Concept`. It fills the guard's slots; under CFG it replaces the empty prompt.
            negative_scale: s, under CFG: gives the negative a row and a scale of its own,
                ε_u + w (ε_c - ε_u) - s (ε_n - ε_u).
            seeds: one per prompt, or a number s for s, s + 1, ...
            steps: sampling steps; by default the command line's, 25.
            height, width: of the images, in pixels; the model's own size by default.
            noise: the random generator of the seeds ("torch-...": that of `torch.randn`), or the initial noise itself.
            noise_layout: axes of that noise, "NHWC" or "NCHW" (PyTorch's).
            embeddings: learned embeddings whose tokens the prompts use.
            batch_size: items per batch, in place of the pipeline's own.
            output: "images", or "latents" for latents alone, which are not decoded.
            progress: show how many images are finished.

        Raises:
            InputError: arguments that do not fit together or to the model; for a wrong type or name, InputTypeError.
        """
        texts = arguments.prompts_of(prompts, seeds)
        arguments.check_whole(steps=steps, height=height, width=width, batch_size=batch_size)
        arguments.check_types(negative_scale, embeddings, noise, output)
        shape, rows, places = self.latent_shape(height, width), self.rows(batch_size), self.programs.batch_sharding()
        starts = starts_of(noise, seeds, len(texts), shape, noise_layout)
        guard = conditioning.resolve(guidance, as_concept(negative), negative_scale)
        bound = self.bind(guard, negative, shape, steps=steps, embeddings=embeddings, rows=rows)
        if not texts:
            return no_samples(shape, self.parts.vae_config.downscale)
        shared = texts_of([bound] * rows, places)

        def run(ids: TokenIds, cut: Array, start: Array, *scales: Array) -> tuple[Array, ...]:
            scaled = dataclasses.replace(bound, guard=with_scales(bound.guard, scales))
            latents = self.sample(scaled, shared, ids, cut, start)
            decoded = [] if output == "latents" else [self.programs.decode(self.parts.vae_params, latents)]
            return latents, *decoded

        cut, ids = np.asarray(self.tokenizer.truncated(texts, embeddings), bool), self.tokenizer.ids(texts, embeddings)
        arrays = [ids, cut, starts, *item_scales(bound.guard, len(texts))]
        with Progress(len(texts), "images", unit="images", shown=progress) as bar:
            latents, *images = in_batches(run, arrays, rows, places, bar.update)
        numbers = item_seeds(seeds, len(texts)).tolist() if isinstance(noise, str) else ()
        return Samples(tuple(texts), tuple(numbers), latents, images[0] if images else None)

    def bind(
        self,
        guard: Guidance,
        negative: NegativeLike,
        shape: LatentShape,
        *,
        steps: int = STEPS,
        embeddings: Sequence[Embedding] = (),
        rows: int | None = None,
    ) -> Bound:
        """Return the guard with the texts of its slots, for latents of `shape`; raises as `__call__` does."""
        if steps < 1:
            raise InputError(f"steps {steps}", "1 or more", "change steps")
        tables, arrays = jax.device_put(self.scheduler.tables(steps), self.programs.replicated()), as_arrays(guard)
        encoder = self._encoder(embeddings, self.rows() if rows is None else rows)
        slots = conditioning.fill(arrays, as_concept(negative), encoder)
        return Bound(arrays, slots, shape, tables, learned_rows(embeddings, self.parts.text_config.hidden_size))

    def sample(self, bound: Bound, texts: Texts, ids: TokenIds, cut: Array, start: Array) -> Array:
        """Return the latents of one batch, on its devices and before they are computed.

        The guard's numbers are single ones or one per row; `ids` are the prompts' tokens, `cut` whether each was too
        long for the encoder, `start` seeds [batch] whose noise the device samples, or noise [batch, h, w, c].
        """
        prompt = self.programs.encode(self.parts.text_params, ids, bound.learned)
        texts = dataclasses.replace(texts, prompt=prompt)
        projects = conditioning.projection(bound.guard)
        if projects is not None:
            where = self.parts.text_params, ids, bound.learned, cut, np.int32(self.tokenizer.backend.eos_token_id)
            found = self.programs.project(*where, projects, prompt, bound.slots.columns, np.float32(bound.calls))
            texts = dataclasses.replace(texts, safe=found.safe, until=found.until)
        if start.ndim == 1:
            start = jax.device_put(random_normal(np.asarray(start), bound.shape), self.programs.batch_sharding())
        return self.programs.sample(self.parts.unet_params, self.scheduler, bound.tables, bound.guard, texts, start)

    def _encoder(self, embeddings: Sequence[Embedding], rows: int) -> Encode:
        """Return the encoder that fills slots; words may use the tokens of `embeddings`."""
        end = self.tokenizer.backend.eos_token_id

        def encode(prompts: Sequence[str], own: Sequence[Embedding]) -> tuple[np.ndarray, np.ndarray]:
            ids = self.tokenizer.ids(prompts, own or embeddings)
            return self.encode(prompts, own or embeddings, rows), np.argmax(ids == end, axis=1)

        return encode

    def latent_shape(self, height: int | None = None, width: int | None = None) -> LatentShape:
        """Return [h, w, c] of the latents of an image; InputError for a size that the model does not make."""
        unet, cell = self.parts.unet_config, self.parts.vae_config.downscale
        unit = cell * 2 ** (len(unet.block_out_channels) - 1)
        sides = [arguments.image_side(self.image_side if side is None else side, unit) for side in (height, width)]
        return sides[0] // cell, sides[1] // cell, unet.in_channels


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    unlearned: str | Path | Sequence[str | Path] = (),
    dtype: DTypeLike | None = None,
    devices: Sequence[jax.Device] | None = None,
    scheduler: str | None = None,
    batch_size: int = 8,
    unet_impl: UnetImpl = "native",
    compile_cache: bool | str | Path | None = None,
) -> Pipeline:
    """Read a model and place it on this process's devices.

    Args:
        name: a bundled model ("tiny", "tiny-unlearned-0"), a folder in diffusers' layout, or a Hugging Face id.
        revision: branch, tag or commit of a Hugging Face id.
        unlearned: a published checkpoint to put on top of the model, or several in this order: a file or folder, or
            `owner/name[/file or folder][@revision]`; a LoRA may have a weight, "place:0.8".
        dtype: of the computation and the parameters; float32 on CPU and bfloat16 elsewhere by default.
        devices: by default all of this process.
        scheduler: "ddim", "dpm++", "pndm" or "euler", in place of the model's own.
        batch_size: items per batch.
        unet_impl: "diffusers" runs diffusers 0.39's Flax UNet on the same parameters.
        compile_cache: a folder for compiled programs, or False; see `compile_cache.enable`.

    Raises:
        InputError: something cannot be read or does not fit.
    """
    arguments.check_load(name, batch_size, unet_impl)
    cache.enable(compile_cache)
    tpu.enlarge_stacks()
    chosen = list(jax.local_devices() if devices is None else devices)
    compute = jnp.dtype(dtype or (jnp.float32 if chosen[0].platform == "cpu" else jnp.bfloat16))
    given = [unlearned] if isinstance(unlearned, str | Path) else unlearned
    parts = read_pipeline(name, revision, dtype=compute, unlearned=given)
    return assemble(parts, compute, chosen, scheduler=scheduler, batch_size=batch_size, unet_impl=unet_impl)


def assemble(
    parts: ModelParts,
    dtype: DTypeLike,
    devices: Sequence[jax.Device],
    *,
    scheduler: str | None = None,
    batch_size: int = 8,
    unet_impl: UnetImpl = "native",
) -> Pipeline:
    """Return a pipeline over model parts in memory; arguments as in `load`."""
    mesh = device_mesh(devices)
    foreign = json.dumps(config_json(parts.unet_config)) if unet_impl == "diffusers" else None
    programs = build(parts.text_config, parts.unet_config, parts.vae_config, jnp.dtype(dtype), mesh, foreign)
    placed = jax.device_put((parts.text_params, parts.unet_params, parts.vae_params), programs.replicated())
    parts = dataclasses.replace(parts, text_params=placed[0], unet_params=placed[1], vae_params=placed[2])
    tokenizer = Tokenizer.from_dir(parts.tokenizer_dir, parts.text_config.max_position_embeddings)
    steps = schedulers.from_config(parts.scheduler_config, scheduler)
    pipe = Pipeline(parts, tokenizer, steps, programs, jnp.dtype(dtype), batch_size, unet_impl)
    pipe.rows()
    return pipe
