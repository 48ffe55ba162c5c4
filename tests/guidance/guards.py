"""The guards under the conformance suite. A new guard is one more `Case` in the list."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.guidance import Cfg, Gated, Guidance, Moment, Negative, NoGuidance, Sld, Texts, sld_preset

ITEMS, TOKENS, DIM = 3, 5, 4
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


def gated(w: Any, s: Any, low: Any, high: Any) -> Telling:
    def tell(e: np.ndarray) -> np.ndarray:
        toward, away = (e[:, i].reshape(len(e), -1) - e[:, 0].reshape(len(e), -1) for i in (1, 2))
        cosine = (toward * away).sum(1) / np.linalg.norm(toward, axis=1) / np.linalg.norm(away, axis=1)
        gate = np.clip((cosine.reshape(-1, 1, 1, 1) - low) / (np.asarray(high) - low), 0, 1)
        return e[:, 0] + w * (e[:, 1] - e[:, 0]) - s * gate * (e[:, 2] - e[:, 0])

    return tell


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
]


def texts_for(case: Case, items: int = ITEMS) -> Texts:
    """Random texts with exactly the fields that the guard needs."""
    rng = np.random.default_rng(11)
    make = {name: rng.standard_normal((items, TOKENS, DIM)) for name in ("prompt", "uncond", "negative")}
    wanted = {name: jnp.asarray(make[name], jnp.float32) for name in ("prompt", "uncond", *case.texts)}
    return Texts(**wanted)


def moment(step: Any = 0, items: int = ITEMS, calls: int = 4) -> Moment:
    """A step of a run of `calls` from timestep 999: α = 0.8, σ = 0.6, the same random latents for every item."""
    latents = jnp.asarray(np.random.default_rng(7).standard_normal((1, *LATENT)), jnp.float32)
    latents = jnp.broadcast_to(latents, (items, *LATENT))
    told = jnp.asarray(999.0 * (1.0 - jnp.asarray(step) / calls), jnp.float32)
    return Moment(jnp.asarray(step, jnp.int32), told, latents, jnp.float32(0.8), jnp.float32(0.6), calls)


def item(tree: Any, index: int) -> Any:
    """A batch of one: row `index` of every leaf that has the batch axis; scalars stay."""
    return jax.tree.map(lambda leaf: leaf[index : index + 1] if jnp.ndim(leaf) else leaf, tree)
