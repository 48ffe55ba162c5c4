"""The guards under the conformance suite. A new guard is one more `Case` in the list."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.guidance import (
    Casg,
    Cfg,
    DynamicNegative,
    Gated,
    Guidance,
    Interval,
    Moment,
    Negative,
    NoGuidance,
    SafeDenoiser,
    Safree,
    Sld,
    Texts,
    sld_preset,
)
from ine_jax.guidance.base import is_per_item

ITEMS, TOKENS, DIM, CHOICES = 3, 5, 4, 3
LATENT = (4, 4, 2)
Telling = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Case:
    """One guard and what is known of it.

    Attributes:
        name: shown by pytest.
        guard: the value under test.
        other: the same guard with other numbers, which must not compile again.
        telling: float64 branches [batch, branch, h, w, c] -> ε, for the first step from the empty state.
        conditional: the guard at those numbers where it must return the conditional prediction, with its branch.
        plain: the guard at those numbers where it must do what plain CFG at scale `w` does, or None.
        w: that scale.
        texts: fields that the guard needs beside prompt and uncond.
    """

    name: str
    guard: Guidance
    other: Guidance
    telling: Telling
    conditional: Guidance
    prompt_branch: int
    plain: Guidance | None = None
    w: float = 7.5
    texts: tuple[str, ...] = ()


def each(*numbers: float) -> jax.Array:
    """A scale of its own for every item."""
    return jnp.asarray(numbers, jnp.float32)


def column(*numbers: float) -> np.ndarray:
    return np.asarray(numbers).reshape(-1, 1, 1, 1)


def cfg(w: Any) -> Telling:
    return lambda e: e[:, 0] + w * (e[:, 1] - e[:, 0])


def negative(w: Any, s: Any) -> Telling:
    return lambda e: e[:, 0] + w * (e[:, 1] - e[:, 0]) - s * (e[:, 2] - e[:, 0])


def sld(w: Any, s: Any, threshold: Any) -> Telling:
    """The first step of safe latent diffusion without a warm-up: no momentum has gathered."""

    def told(e: np.ndarray) -> np.ndarray:
        away = e[:, 1] - e[:, 2]
        strength = np.where((away < threshold) & (np.asarray(s) > 1), np.minimum(1, s * np.abs(away)), 0)
        return e[:, 0] + w * (e[:, 1] - e[:, 0] - strength * (e[:, 2] - e[:, 0]))

    return told


def local_gated(w: float, s: float, low: float, high: float, reach: int) -> Telling:
    def tell(e: np.ndarray) -> np.ndarray:
        toward, away = e[:, 1] - e[:, 0], e[:, 2] - e[:, 0]
        gate = np.zeros((*e.shape[:1], *e.shape[2:4], 1))
        for i, y, x in np.ndindex(gate.shape[:3]):
            part = i, slice(max(0, y - reach), y + reach + 1), slice(max(0, x - reach), x + reach + 1)
            a, b = toward[part].ravel(), away[part].ravel()
            gate[i, y, x] = np.clip((a @ b / np.linalg.norm(a) / np.linalg.norm(b) - low) / (high - low), 0, 1)
        return e[:, 0] + w * toward - s * gate * away

    return tell


def gated(w: Any, s: Any, low: Any, high: Any) -> Telling:
    def tell(e: np.ndarray) -> np.ndarray:
        toward, away = (e[:, i].reshape(len(e), -1) - e[:, 0].reshape(len(e), -1) for i in (1, 2))
        cosine = (toward * away).sum(1) / np.linalg.norm(toward, axis=1) / np.linalg.norm(away, axis=1)
        gate = np.clip((cosine.reshape(-1, 1, 1, 1) - low) / (np.asarray(high) - low), 0, 1)
        return e[:, 0] + w * (e[:, 1] - e[:, 0]) - s * gate * (e[:, 2] - e[:, 0])

    return tell


def dng(w: Any, strength: Any, prior: Any) -> Telling:
    """The first step of dynamic negative guidance: the posterior is the prior."""

    def told(e: np.ndarray) -> np.ndarray:
        base = e[:, 0] + w * (e[:, 1] - e[:, 0])
        return base - strength * prior / (1 - prior) * (e[:, 2] - base)

    return told


def casg(inner: Telling) -> Telling:
    """The guard inside, given the concept whose direction has the largest cosine with the prompt's."""

    def told(e: np.ndarray) -> np.ndarray:
        away = (e[:, 2:] - e[:, :1]).reshape(len(e), e.shape[1] - 2, -1)
        toward = (e[:, 1] - e[:, 0]).reshape(len(e), 1, -1)
        cosines = (away * toward).sum(-1) / np.linalg.norm(away, axis=-1) / np.linalg.norm(toward, axis=-1)
        nearest = e[np.arange(len(e)), 2 + cosines.argmax(1)]
        return inner(np.stack([e[:, 0], e[:, 1], nearest], 1))

    return told


def denoised(inner: Telling, s: Any, width: Any, squared: bool = False) -> Telling:
    """Safe Denoiser at the level of `moment()`, where x_0 = (x - 0.6 ε) / 0.8 and every sum of kernels counts."""

    def told(e: np.ndarray) -> np.ndarray:
        seen = np.asarray(moment().latents, np.float64)
        clean = (seen - 0.6 * inner(e)) / 0.8
        gap = np.sqrt(((clean[:, None] - REFERENCES[None]) ** 2).sum((2, 3, 4)))
        weight = np.exp(-(gap**2 if squared else gap) / (2 * np.reshape(width, (-1, 1)) ** 2))
        mean = np.einsum("bj,jhwc->bhwc", weight, REFERENCES) / (weight.sum(1) + 1e-8).reshape(-1, 1, 1, 1)
        return (seen - 0.8 * (clean - s * mean)) / 0.6

    return told


REFERENCES = np.random.default_rng(12).standard_normal((6, *LATENT)).astype(np.float32)
OTHER = jnp.asarray(-0.5 * REFERENCES)
NEVER = (99.0, 1001.0)

CASES = [
    Case("none", NoGuidance(), NoGuidance(), lambda e: e[:, 0], NoGuidance(), 0),
    Case("cfg", Cfg(7.5), Cfg(3.0), cfg(7.5), Cfg(1.0), 1, Cfg(7.5)),
    Case(
        "cfg-per-item",
        Cfg(each(7.5, 1.0, 3.0)),
        Cfg(each(2.0, 5.0, 0.0)),
        cfg(column(7.5, 1.0, 3.0)),
        Cfg(each(1.0, 1.0, 1.0)),
        1,
        Cfg(each(7.5, 7.5, 7.5)),
    ),
    Case("cfg-with-negative", Cfg(7.5), Cfg(3.0), cfg(7.5), Cfg(1.0), 1, texts=("negative",)),
    Case(
        "negative",
        Negative(7.5, 3.0),
        Negative(5.0, 4.0),
        negative(7.5, 3.0),
        Negative(1.0, 0.0),
        1,
        Negative(7.5, 0.0),
        texts=("negative",),
    ),
    Case(
        "negative-per-item",
        Negative(7.5, each(0.0, 2.0, 9.0)),
        Negative(4.0, each(1.0, 1.0, 1.0)),
        negative(7.5, column(0.0, 2.0, 9.0)),
        Negative(1.0, each(0.0, 0.0, 0.0)),
        1,
        Negative(7.5, each(0.0, 0.0, 0.0)),
        texts=("negative",),
    ),
    Case(
        "gated",
        Gated(7.5, 3.0, 0.1, 0.9),
        Gated(5.0, 4.0, 0.2, 0.7, 0.5),
        gated(7.5, 3.0, 0.1, 0.9),
        Gated(1.0, 0.0),
        1,
        Gated(7.5, 0.0),
        texts=("negative",),
    ),
    Case(
        "gated-local",
        Gated(7.5, 3.0, -0.2, 0.9, window=3),
        Gated(5.0, 4.0, 0.2, 0.7, 0.5, window=3),
        local_gated(7.5, 3.0, -0.2, 0.9, 1),
        Gated(1.0, 0.0, window=3),
        1,
        Gated(7.5, 0.0, window=3),
        texts=("negative",),
    ),
    Case(
        "gated-per-item",
        Gated(7.5, each(0.0, 2.0, 9.0), each(-1.0, 0.0, 0.3), each(1.0, 0.9, 0.6), each(0.0, 0.5, 0.9)),
        Gated(4.0, each(1.0, 1.0, 1.0), each(0.0, 0.0, 0.0), each(0.5, 0.5, 0.5), each(0.2, 0.2, 0.2)),
        gated(7.5, column(0.0, 2.0, 9.0), column(-1.0, 0.0, 0.3), column(1.0, 0.9, 0.6)),
        Gated(1.0, each(0.0, 0.0, 0.0)),
        1,
        Gated(7.5, each(0.0, 0.0, 0.0)),
        texts=("negative",),
    ),
    Case(
        "sld",
        Sld(7.5, 1.5, 0.5, 0.3, 0.4, 0.0),
        Sld(5.0, 1000.0, 0.01, 0.5, 0.7, 10.0),
        sld(7.5, 1.5, 0.5),
        Sld(1.0, 0.0),
        1,
        Sld(7.5, 0.0),
        texts=("negative",),
    ),
    Case(
        "sld-per-item",
        Sld(each(7.5, 3.0, 5.0), each(1.5, 1.0, 4.0), each(0.5, 1.0, 0.0), each(0, 1, 0.5), each(0, 0.4, 0.7), 0.0),
        Sld(each(2.0, 2.0, 2.0), each(9.0, 9.0, 9.0), each(1.0, 1.0, 1.0), each(0, 0, 0), each(0, 0, 0), 20.0),
        sld(column(7.5, 3.0, 5.0), column(1.5, 1.0, 4.0), column(0.5, 1.0, 0.0)),
        Sld(each(1.0, 1.0, 1.0), each(0.0, 1.0, 0.5)),
        1,
        Sld(7.5, each(0.0, 1.0, 0.5), warmup=each(0.0, 10.0, 50.0)),
        texts=("negative",),
    ),
    Case(
        "sld-skipping",
        sld_preset("weak"),
        sld_preset("weak-200", 3.0),
        cfg(7.5),
        sld_preset("weak", 1.0),
        1,
        sld_preset("weak", safety_scale=0.0),
        texts=("negative",),
    ),
    Case(
        "interval",
        Interval(Negative(7.5, 3.0), Cfg(7.5), 0.25, 0.75),
        Interval(Negative(5.0, 4.0), Cfg(4.0), 0.25, 0.75),
        negative(7.5, 3.0),
        Interval(Negative(1.0, 0.0), Cfg(2.0), 0.25, 0.75),
        1,
        Interval(Negative(7.5, 0.0), Cfg(7.5), 0.25, 0.75),
        texts=("negative",),
    ),
    Case(
        "dng",
        DynamicNegative(7.5, 5.0, 0.3, 0.5, 0.01),
        DynamicNegative(5.0, 2.0, 0.1, 0.2, 0.1),
        dng(7.5, 5.0, 0.3),
        DynamicNegative(1.0, 0.0),
        1,
        DynamicNegative(7.5, 0.0),
        texts=("negative",),
    ),
    Case(
        "dng-per-item",
        DynamicNegative(7.5, each(5.0, 1.0, 9.0), each(0.1, 0.3, 0.01), each(1.0, 0.5, 0.2), each(0.0, 0.1, 1.0)),
        DynamicNegative(4.0, each(3.0, 3.0, 3.0), each(0.2, 0.2, 0.2), each(0.1, 0.1, 0.1), each(0.2, 0.0, 0.2)),
        dng(7.5, column(5.0, 1.0, 9.0), column(0.1, 0.3, 0.01)),
        DynamicNegative(1.0, each(0.0, 0.0, 0.0)),
        1,
        DynamicNegative(7.5, each(0.0, 0.0, 0.0)),
        texts=("negative",),
    ),
    Case(
        "safe-denoiser",
        SafeDenoiser(Cfg(7.5), jnp.asarray(REFERENCES), 0.5, 1.5, 500.0),
        SafeDenoiser(Cfg(3.0), OTHER, 0.2, 2.5, 250.0),
        denoised(cfg(7.5), 0.5, 1.5),
        SafeDenoiser(Cfg(1.0), OTHER, 0.0),
        1,
        SafeDenoiser(Cfg(7.5), OTHER, 0.0, from_timestep=0.0),
    ),
    Case(
        "safe-denoiser-over-negative",
        SafeDenoiser(Negative(7.5, 3.0), jnp.asarray(REFERENCES), 0.5, each(2.0, 3.0, 4.0), 500.0, squared=True),
        SafeDenoiser(Negative(5.0, 1.0), OTHER, 0.2, each(4.0, 5.0, 6.0), 0.0, squared=True),
        denoised(negative(7.5, 3.0), 0.5, (2.0, 3.0, 4.0), squared=True),
        SafeDenoiser(Negative(1.0, 0.0), OTHER, each(0.0, 0.0, 0.0), squared=True),
        1,
        SafeDenoiser(Negative(7.5, 0.0), OTHER, each(0.0, 0.0, 0.0), from_timestep=0.0, squared=True),
        texts=("negative",),
    ),
    Case(
        "casg",
        Casg(Negative(7.5, 3.0)),
        Casg(Negative(5.0, 4.0)),
        casg(negative(7.5, 3.0)),
        Casg(Negative(1.0, 0.0)),
        1,
        Casg(Negative(7.5, 0.0)),
        texts=("bank",),
    ),
    Case(
        "casg-over-sld",
        Casg(Sld(7.5, 1.5, 0.5, 0.3, 0.4, 0.0)),
        Casg(Sld(5.0, 1000.0, 0.01, 0.5, 0.7, 10.0)),
        casg(sld(7.5, 1.5, 0.5)),
        Casg(Sld(1.0, 0.0)),
        1,
        Casg(Sld(7.5, 0.0)),
        texts=("bank",),
    ),
    Case(
        "safree",
        Safree(Cfg(7.5)),
        Safree(Cfg(3.0), window=(1.0, 1001.0)),
        cfg(7.5),
        Safree(Cfg(1.0), window=NEVER),
        1,
        Safree(Cfg(7.5), window=NEVER),
        texts=("safe", "until"),
    ),
    Case(
        "safree-per-item",
        Safree(Negative(7.5, each(0.0, 2.0, 9.0)), window=(each(-1.0, 1.0, 2.0), 1001.0)),
        Safree(Negative(4.0, each(1.0, 1.0, 1.0)), window=(each(0.0, 0.0, 1.0), 1001.0)),
        negative(7.5, column(0.0, 2.0, 9.0)),
        Safree(Negative(1.0, 0.0), window=NEVER),
        1,
        Safree(Negative(7.5, 0.0), window=NEVER),
        texts=("negative", "safe", "until"),
    ),
    Case(
        "safree-sld",
        Safree(Sld(7.5, 1.5, 0.5, 0.3, 0.4, 0.0)),
        Safree(Sld(5.0, 1000.0, 0.01, 0.5, 0.7, 10.0)),
        sld(7.5, 1.5, 0.5),
        Safree(Sld(1.0, 0.0), window=NEVER),
        1,
        Safree(Sld(7.5, 0.0), window=NEVER),
        texts=("negative", "safe", "until"),
    ),
]


def texts_for(case: Case, items: int = ITEMS) -> Texts:
    """Random texts with exactly the fields that the guard needs."""
    rng = np.random.default_rng(11)
    make: dict[str, np.ndarray] = {
        name: rng.standard_normal((items, TOKENS, DIM)) for name in ("prompt", "uncond", "negative")
    }
    # One of them lies towards the prompt, another for each item: the toy denoiser knows a single direction.
    sign = np.where(np.arange(CHOICES) == np.arange(items)[:, None] % CHOICES, 1.0, -1.0)[:, :, None, None]
    make["bank"] = make["uncond"][:, None] + sign * (make["prompt"] - make["uncond"])[:, None]
    make["safe"] = rng.standard_normal((items, TOKENS, DIM))
    make["until"] = np.arange(items, dtype=np.int32) - 1  # never for the first
    wanted = {name: make[name] for name in ("prompt", "uncond", *case.texts)}
    return Texts(**{n: jnp.asarray(v, v.dtype if v.dtype == np.int32 else np.float32) for n, v in wanted.items()})


def moment(step: Any = 0, items: int = ITEMS, calls: int = 4) -> Moment:
    """A step of a run of `calls` from timestep 999: α = 0.8, σ = 0.6, the same random latents for every item."""
    latents = jnp.asarray(np.random.default_rng(7).standard_normal((1, *LATENT)), jnp.float32)
    latents = jnp.broadcast_to(latents, (items, *LATENT))
    told = jnp.asarray(999.0 * (1.0 - jnp.asarray(step) / calls), jnp.float32)
    return Moment(jnp.asarray(step, jnp.int32), told, latents, jnp.float32(0.8), jnp.float32(0.6), calls)


def item(tree: Any, index: int) -> Any:
    """A batch of one: row `index` of every text, or of a guard's numbers per item; what all items share stays."""
    own = jnp.ndim if isinstance(tree, Texts) else is_per_item
    return jax.tree.map(lambda leaf: leaf[index : index + 1] if own(leaf) else leaf, tree)
