"""From config records to guards and concepts: the one place where a value becomes a class."""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from ine_jax import assets
from ine_jax.config import GuidanceConfig, NegativeConfig
from ine_jax.config.guards import SafeDenoiserConfig, phrases
from ine_jax.embeddings.embedding import Embedding
from ine_jax.guidance import Casg, Cfg, DynamicNegative, Gated, Guidance, Interval, Negative, SafeDenoiser, Safree
from ine_jax.guidance.concept import Concept
from ine_jax.guidance.interval import Unaware
from ine_jax.guidance.negative import negative_guidance
from ine_jax.guidance.sld import sld_preset
from ine_jax.storage.images import read_images
from ine_jax.types import Array, HostImages, HostLatents

PUBLISHED_SIGMA, PUBLISHED_SIZE = 3.15, 4 * 64 * 64  # of Safe Denoiser on Stable Diffusion 1.4


@runtime_checkable
class ImageEncoder(Protocol):
    """Encodes the images that a guard compares with; a `Pipeline` is one."""

    @property
    def image_side(self) -> int:
        """Side of the model's own images, in pixels."""

    def latents_of(self, images: HostImages) -> HostLatents:
        """Return the images' latents in the UNet's scale."""


def concept(config: NegativeConfig) -> Concept | None:
    """Return the concept to avoid, with its embeddings read from their files, or None."""
    if config.kind == "none":
        return None
    learned = tuple(Embedding.load(assets.embedding(name)) for name in phrases(config.embedding))
    return Concept(phrases(config.words), learned, config.template, config.blend)


def guidance(config: GuidanceConfig, with_concept: bool, encoder: ImageEncoder) -> Guidance:
    """Return the guard that a config names; CFG where there is no concept to avoid, except for guards of images."""
    config = config.resolved()
    if not with_concept and config.method != "safe-denoiser":
        return Cfg(config.scale)
    guard = _method(config, with_concept, encoder)
    first, last = config.interval
    return guard if (first, last) == (0.0, 1.0) else Interval(guard, Cfg(config.scale), first, last)


def _method(config: GuidanceConfig, with_concept: bool, encoder: ImageEncoder) -> Guidance:
    w, s = config.scale, config.negative_scale
    match config.method:
        case "safree":
            inner, own = _base(config, config.acting), config.safree
            return Safree(
                inner,
                alpha=own.alpha,
                up_t=own.up_t,
                steepness=own.steepness,
                midpoint=own.midpoint,
                validate=own.validate,
                steps_of_50=own.steps_of_50,
                reattention=own.reattention,
                overlong=own.overlong,
                # a negative with s = w - 1 is an inner Cfg too
                negative_in_cfg=own.negative_in_cfg or config.inner == "negative",
            )
        case "casg" if config.acting == "negative":
            return Casg(Negative(w, w - 1.0 if s is None else s))
        case "casg":
            return Casg(_base(config, config.acting))
        case "safe-denoiser":
            name = config.acting if with_concept else "cfg"
            inner = Unaware(Cfg(w)) if name == "cfg" else _base(config, name)
            return _safe_denoiser(config.safe_denoiser, inner, encoder)
        case name:
            return _base(config, name)


def _base(config: GuidanceConfig, name: str) -> Guidance:
    w, s = config.scale, config.negative_scale
    match name:
        case "cfg":
            return Cfg(w)
        case "gated":
            gate = config.gate
            return Gated(w, w - 1.0 if s is None else s, gate.low, gate.high, gate.momentum, gate.window)
        case "sld":
            return sld_preset(config.sld.preset, w, config.sld.warmup_unit, **config.sld.overrides())
        case "dng":
            d = config.dng
            return DynamicNegative(w, d.strength, d.prior, d.temperature, d.offset)
        case _:
            return negative_guidance(w, s)


def _safe_denoiser(config: SafeDenoiserConfig, inner: Guidance, encoder: ImageEncoder) -> SafeDenoiser:
    latents = references(config.images, encoder)
    # the published width belongs to 4 x 64 x 64 latents; distances grow with the root of the size
    usual = PUBLISHED_SIGMA * (latents[0].size / PUBLISHED_SIZE) ** 0.25
    sigma = usual if config.sigma is None else config.sigma
    return SafeDenoiser(inner, latents, config.strength, sigma, config.from_timestep, config.threshold)


def references(folder: str, encoder: ImageEncoder) -> Array:
    """Return the latents, in the UNet's scale, of the images of a folder; "" is the bundled one."""
    images = read_images(assets.concept_images(folder), encoder.image_side, encoder.image_side)
    return jnp.asarray(encoder.latents_of(images), jnp.float32)
