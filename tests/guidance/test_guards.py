"""From the records of a config to guards: every method over every guard that it may wrap builds, runs, and acts."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ine_jax import schedulers
from ine_jax.config import GuidanceConfig, NegativeConfig
from ine_jax.config.guards import (
    WRAPPING,
    DngConfig,
    GateConfig,
    Inner,
    Method,
    SafeDenoiserConfig,
    SafreeConfig,
    SldConfig,
)
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.guidance import (
    Casg,
    Cfg,
    DynamicNegative,
    Gated,
    Guidance,
    Interval,
    Negative,
    SafeDenoiser,
    Safree,
    Sld,
    Texts,
    sld_preset,
)
from ine_jax.guidance import from_config as guards
from ine_jax.guidance import slots as conditioning
from ine_jax.guidance.base import phases
from ine_jax.guidance.concept import Concept
from ine_jax.guidance.interval import Unaware
from ine_jax.pipeline.sampling import sample
from scripts.train_world.manifest import write_manifest
from tests.support.concepts import DIM, ONE, encode
from tests.support.toys import ToyDenoiser

W, S, STEPS, ITEMS = 3.0, 4.5, 5, 2
LATENT = (4, 4, 2)
CHOOSING = (None, "negative", "gated", "sld")
PAIRS = [
    (method, inner)
    for method in get_args(Method)
    for inner in ((None, *get_args(Inner)) if method in WRAPPING else (None,))
    if method != "casg" or inner in CHOOSING
]
OWN = GuidanceConfig(
    W,
    S,
    gate=GateConfig(-0.5, 0.5, 0.25),
    sld=SldConfig("strong", threshold=0.5, warmup_unit="fraction"),
    safree=SafreeConfig(0.1, False, 8.0, 3.5, 5.5, True, True, "low"),
    dng=DngConfig(0.1, 0.3, 0.004, 20.0),
    safe_denoiser=SafeDenoiserConfig(strength=0.5, sigma=2.0, from_timestep=100.0, threshold=0.1),
)


class Vae:
    """What a guard of images asks of a pipeline: a model of 4 x 4 latents whose numbers are 8 pixels' mean."""

    image_side = 8

    def latents_of(self, images: np.ndarray) -> np.ndarray:
        mean = images.reshape(len(images), 4, 2, 4, 2, 3).mean(axis=(2, 4))[..., :2].astype(np.float32)
        return 0.5 * mean / 255


VAE = Vae()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two images of the concept."""
    for name, colour in (("red", (255, 0, 0)), ("grey", (51, 51, 51))):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    return tmp_path


def config(images: Path, method: Any, inner: Any = None, **more: Any) -> GuidanceConfig:
    """OWN with a method, and its scale of the negative where the method reads one."""
    own = dataclasses.replace(OWN.safe_denoiser, images=str(images))
    asked = {"method": method, "inner": inner, "safe_denoiser": own}
    reads = GuidanceConfig(method=method, inner=inner).acting in ("negative", "gated")
    return dataclasses.replace(OWN, **{"negative_scale": S if reads else None, **asked, **more})


def run(guard: Guidance, concept: Concept | None) -> np.ndarray:
    """A short run on the toy denoiser, the slots filled as the pipeline fills them, a projected prompt given."""
    slots = conditioning.fill(guard, concept, encode)

    def each(slot: np.ndarray | None) -> Any:
        return None if slot is None else jnp.asarray(np.repeat(slot, ITEMS, axis=0))

    prompts = encode(["a cat", "a dog"], ())[0]
    safe = jnp.asarray(encode(["a safe cat", "a safe dog"], ())[0])
    until = jnp.asarray([1, 1001], jnp.int32)
    texts = Texts(
        jnp.asarray(prompts), each(slots.uncond), each(slots.negative), each(slots.bank), jnp.asarray(safe), until
    )
    start = jnp.asarray(np.random.default_rng(3).standard_normal((ITEMS, *LATENT)), jnp.float32)
    sampler = schedulers.from_config({"clip_sample": False}, "ddim")
    return np.asarray(sample(ToyDenoiser(), sampler, sampler.tables(STEPS), guard, texts, start))


@pytest.mark.parametrize(("method", "inner"), PAIRS)
def test_every_method_over_every_guard_builds_and_acts(method: str, inner: str | None, images: Path) -> None:
    wide = SafeDenoiserConfig(str(images), sigma=20.0)  # the toy's latents lie far from those of the images
    asked = config(images, method, inner, safree=SafreeConfig(), safe_denoiser=wide)  # and it has no skip connections
    found = run(guards.guidance(asked, True, VAE), Concept(words=("gun", "bomb")))  # lies towards both prompts
    assert found.shape == (ITEMS, *LATENT)
    assert np.isfinite(found).all()
    assert np.abs(found - run(Cfg(W), None)).max() > 1e-3


@pytest.mark.parametrize("method", [method for method in get_args(Method) if method != "safe-denoiser"])
def test_without_a_concept_every_method_is_plain(method: str, images: Path) -> None:
    assert guards.guidance(config(images, method, interval=(0.0, 0.5)), False, VAE) == Cfg(W)


def test_the_numbers_of_the_config_reach_the_guard(images: Path) -> None:
    def made(method: str, inner: str | None = None, **more: Any) -> Guidance:
        return guards.guidance(config(images, method, inner, **more), True, VAE)

    sld = sld_preset("strong", W, "fraction", threshold=0.5)
    assert made("negative") == Negative(W, S)
    assert made("negative", negative_scale=None) == made("negative", negative_scale=W - 1) == Cfg(W)
    assert made("gated") == Gated(W, S, -0.5, 0.5, 0.25)
    assert made("gated", negative_scale=None) == Gated(W, W - 1, -0.5, 0.5, 0.25)
    assert made("sld") == sld
    assert isinstance(sld, Sld)
    assert made("dng") == DynamicNegative(W, strength=20.0, prior=0.1, temperature=0.3, offset=0.004)
    assert made("casg") == made("casg", "negative") == Casg(Negative(W, S))
    assert made("casg", negative_scale=None) == Casg(Negative(W, W - 1))  # three rows, also where two would do
    assert made("casg", "sld") == Casg(sld)
    safree = Safree(
        Cfg(W),
        alpha=0.1,
        validate=False,
        up_t=8.0,
        steepness=3.5,
        midpoint=5.5,
        steps_of_50=True,
        reattention="low",
        negative_in_cfg=True,
    )
    assert made("safree") == made("safree", "cfg") == safree
    assert made("safree", "sld") == dataclasses.replace(safree, inner=sld)


def test_a_preset_goes_with_the_scale() -> None:
    found = [guards.guidance(GuidanceConfig(w, preset="ine-balanced"), True, VAE) for w in (2.0, 4.0)]
    assert found == [sld_preset("max", w, momentum_scale=0.7) for w in (2.0, 4.0)]
    assert guards.guidance(GuidanceConfig(2.0, preset="ine-balanced"), False, VAE) == Cfg(2.0)


def test_safree_leaves_the_unconditional_row_alone_unless_asked(images: Path) -> None:
    def rows(inner: str | None, in_cfg: bool) -> np.ndarray:
        asked = config(images, "safree", inner, negative_scale=None, safree=SafreeConfig(negative_in_cfg=in_cfg))
        return run(guards.guidance(asked, True, VAE), Concept(words=("knife",)))

    projected = run(Safree(Cfg(W)), None)
    np.testing.assert_array_equal(rows("cfg", False), projected)
    np.testing.assert_array_equal(rows(None, False), projected)
    avoided = rows("cfg", True)
    assert np.abs(avoided - projected).max() > 1e-3
    np.testing.assert_array_equal(rows("negative", False), avoided)  # at s = w - 1 a negative is a Cfg, too


def test_a_guard_of_images(images: Path) -> None:
    def made(inner: str | None = None, with_concept: bool = True, **more: Any) -> SafeDenoiser:
        found = guards.guidance(config(images, "safe-denoiser", inner, **more), with_concept, VAE)
        assert isinstance(found, SafeDenoiser)
        return found

    found = made()
    told = 0.5 * np.asarray([[0.2, 0.2], [1.0, 0.0]])[:, None, None]  # grey, red: red and green, in the UNet's scale
    np.testing.assert_allclose(found.references, np.broadcast_to(told, (2, *LATENT)), atol=1e-6)
    assert (found.strength, found.sigma, found.from_timestep, found.threshold) == (0.5, 2.0, 100.0, 0.1)
    assert found.inner == Negative(W, S)
    assert made("sld").inner == sld_preset("strong", W, "fraction", threshold=0.5)
    # without a concept, and with cfg inside, nothing is avoided but the images
    assert made("cfg").inner == made(with_concept=False).inner == Unaware(Cfg(W))
    plain = run(made(with_concept=False), None)
    np.testing.assert_array_equal(run(made("cfg"), Concept(words=("knife",))), plain)
    usual = made(safe_denoiser=SafeDenoiserConfig(str(images)))
    assert usual.sigma == pytest.approx(3.15 * (32 / 16384) ** 0.25)  # 4 x 4 x 2 latents instead of 64 x 64 x 4
    with pytest.raises(InputError, match="absent"):
        made(safe_denoiser=SafeDenoiserConfig(str(images / "absent")))


@pytest.mark.parametrize("method", get_args(Method))
def test_outside_its_interval_a_guard_is_plain(method: str, images: Path) -> None:
    found = guards.guidance(config(images, method, interval=(0.2, 0.6)), True, VAE)
    assert isinstance(found, Interval)
    assert found.outside == Cfg(W)
    assert [count for _, count in phases(found, STEPS)] == [1, 2, 2]
    never = dataclasses.replace(found, start=0.0, stop=0.05)  # ends before the first call
    np.testing.assert_array_equal(run(never, Concept(words=("knife",))), run(Cfg(W), None))


def test_concepts_are_read_from_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ine_jax.assets.ROOT", tmp_path)
    (tmp_path / "tiny" / "embeddings").mkdir(parents=True)
    bundled = ONE.save(tmp_path / "tiny" / "embeddings" / "found.safetensors")
    write_manifest(tmp_path)
    other = Embedding(np.full((2, DIM), 3.0, np.float32), concept="other").save(tmp_path / "other.safetensors")
    assert guards.concept(NegativeConfig()) is None
    assert guards.concept(NegativeConfig(words="knife")) == Concept(words=("knife",))
    found = guards.concept(NegativeConfig("x", ("knife", "gun"), ("found", str(other)), "a {}", 0.25))
    assert found is not None
    assert (found.words, found.template, found.blend) == (("knife", "gun"), "a {}", 0.25)
    assert [e.concept for e in found.embeddings] == ["one", "other"]
    np.testing.assert_array_equal(found.embeddings[0].vectors, ONE.vectors)
    assert guards.concept(NegativeConfig(embedding=str(bundled))).template == "{}"  # type: ignore[union-attr]
    for wrong in ("lost", str(tmp_path / "lost.safetensors")):
        with pytest.raises(InputError, match="lost"):
            guards.concept(NegativeConfig(embedding=wrong))
