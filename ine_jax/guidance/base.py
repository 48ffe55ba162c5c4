"""The contract of a guard: how rows of network output become one prediction.

A guard is a small frozen pytree. Its scales are leaves, one number or one per item ([batch]), so another scale never
compiles again. How many network rows it needs is structure. The network call stays in the sampler:

    texts ─→ contexts [batch, branch, token, dim] ─→ network ─→ combine [batch, branch, h, w, c] ─→ ε [batch, h, w, c]

Nothing in a guard looks across the batch axis: the image of an item never depends on its neighbours.

A guard that needs other rows in other parts of a run (none before a warm-up, say) implements `Phased`, and one that
compares its rows with another inside the network implements `Referring`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from ine_jax.errors import InputError
from ine_jax.types import STATIC, Array, BranchContext, BranchLatents, Context, Latents, Scalar, Scale, Step

State: TypeAlias = PyTree[Array]  # a guard's own; () where it remembers nothing


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Texts:
    """Encoded texts of a batch, each [batch, token, dim]; prepared once, outside the sampling loop.

    Attributes:
        prompt: the prompt.
        uncond: the empty prompt.
        negative: the concept to avoid, from words or a learned embedding, or None.
        bank: several such texts, [batch, choice, token, dim], for guards that choose among them, or None.
        safe: the prompt with the concept projected out (SAFREE), or None.
        until: the last step at which `safe` replaces the prompt, int32 [batch], or None.
    """

    prompt: Context
    uncond: Context
    negative: Context | None = None
    bank: Float[Array, "batch choice token dim"] | None = None
    safe: Context | None = None
    until: Int[Array, "batch"] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moment:
    """The state of a run when a prediction is combined: x_t = α x_0 + σ ε, as the network sees it.

    Attributes:
        step: index of the network call, counted through the whole run from 0.
        timestep: the network's timestep, float32, a scalar; high where noisy.
        latents: x_t, float32 [batch, h, w, c].
        alpha: α of this level, a scalar.
        sigma: σ of this level, a scalar.
        calls: network calls of the whole run; static.
        prediction: what the network predicts, "epsilon" or "v_prediction"; static.
    """

    step: Step
    timestep: Scalar
    latents: Latents
    alpha: Scalar
    sigma: Scalar
    calls: int = field(metadata=STATIC)
    prediction: str = field(default="epsilon", metadata=STATIC)


@runtime_checkable
class Guidance(Protocol):
    """One way of steering; all methods are pure and run inside `jit`, `vmap` and `scan`."""

    @property
    def branches(self) -> int:
        """Number of network rows per image and step, without those of a bank; static."""

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the state before the first step, each leaf with a leading batch axis."""

    def contexts(self, texts: Texts, step: Step) -> BranchContext:
        """Return the text of every row at this step (the index of the network call)."""

    def combine(self, state: State, eps: BranchLatents, at: Moment) -> tuple[Latents, State]:
        """Return the guided prediction, computed in float32 and in the dtype of `eps`, and the new state."""


@runtime_checkable
class Phased(Protocol):
    """A guard whose rows differ between parts of a run; the sampler runs one loop for each part."""

    def phases(self, calls: int) -> list[tuple[Guidance, int]]:
        """Return the guards of the parts in order, each with its number of network calls."""


@runtime_checkable
class ReferenceRow(Protocol):
    """The text of one more row, [batch, token, dim]; the network receives the whole value too."""

    @property
    def context(self) -> Context:
        """The row's text."""


@runtime_checkable
class Referring(Protocol):
    """A guard that may compare its rows with one more inside the network."""

    def reference(self, texts: Texts, step: Step) -> ReferenceRow | None:
        """Return that row, or None where this guard needs none."""


class Checked:
    """Base of guards: their numbers are checked when one is made."""

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]  # guards are dataclasses
            if not each.metadata.get("static"):
                check_number(f"{type(self).__name__} {each.name}", getattr(self, each.name))


def check_number(name: str, value: object) -> None:
    """Raise `InputError` for text, a list, NaN or infinity; what JAX puts in a guard's leaves passes."""
    if isinstance(value, tuple):
        for each in value:
            check_number(name, each)
    wrong = isinstance(value, str | bytes | list)
    if isinstance(value, int | float | np.generic | np.ndarray) and not wrong:
        wrong = np.asarray(value).dtype.kind in "USO" or not np.isfinite(value).all()
    if wrong:
        raise InputError(f"{name}: {value!r}", "a finite number, or an array with one per prompt", "change it")


def is_per_item(leaf: Scale) -> bool:
    """Return whether a guard's leaf holds one number per item: [batch].

    All items share the others: single numbers, and arrays of more axes (reference images).
    """
    return int(np.ndim(leaf)) == 1


def per_item(scale: Scale) -> Float[Array, ""] | Float[Array, "batch 1 1 1"]:
    """Return a scale in float32 that multiplies [batch, h, w, c]: a scalar, or [batch, 1, 1, 1]."""
    value = jnp.asarray(scale, jnp.float32)
    return value if value.ndim == 0 else value.reshape(-1, 1, 1, 1)


def phases(guidance: Guidance, calls: int) -> list[tuple[Guidance, int]]:
    """Return the guards of a run's parts, in order, each with its network calls; parts of 0 calls are left out."""
    parts = guidance.phases(calls) if isinstance(guidance, Phased) else [(guidance, calls)]
    if sum(count for _, count in parts) != calls or any(count < 0 for _, count in parts):
        given = ", ".join(str(count) for _, count in parts)
        raise InputError(f"phases of {given} calls", f"{calls} calls in all", "change the guard's phases")
    return [(guard, count) for guard, count in parts if count]


def rows(*contexts: Context) -> BranchContext:
    """Return the contexts stacked as branches: [batch, branch, token, dim]."""
    return jnp.stack(contexts, axis=1)


def in_float32(eps: BranchLatents) -> list[Latents]:
    """Return the branches of a prediction one by one, in float32."""
    return [eps[:, branch].astype(jnp.float32) for branch in range(eps.shape[1])]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoGuidance:
    """The conditional prediction alone: ε = ε_c. One row."""

    branches: ClassVar[int] = 1

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the empty state."""
        return ()

    def contexts(self, texts: Texts, step: Step) -> BranchContext:
        """Return the prompt as the only row."""
        return rows(texts.prompt)

    def combine(self, state: State, eps: BranchLatents, at: Moment) -> tuple[Latents, State]:
        """Return ε_c."""
        return eps[:, 0], state


class ThreeRows(Checked):
    """The part that guards of three rows share: unconditional, prompt, negative."""

    branches: ClassVar[int] = 3
    needs_negative: ClassVar[bool] = True

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the empty state, raising `InputError` where there is no negative text."""
        self._negative(texts)
        return ()

    def contexts(self, texts: Texts, step: Step) -> BranchContext:
        """Return (unconditional, prompt, negative)."""
        return rows(texts.uncond, texts.prompt, self._negative(texts))

    def _negative(self, texts: Texts) -> Context:
        if texts.negative is None:
            given = f"The guard {type(self).__name__} without a negative text."
            raise InputError(given, "words, or an embedding, as the negative", "Give a negative, or use Cfg.")
        return texts.negative


@dataclass(frozen=True)
class Wrapper(Checked):
    """A guard around another, `inner`; a subclass changes what it does not pass on."""

    inner: Guidance

    @property
    def branches(self) -> int:
        """Those of the inner guard."""
        return self.inner.branches

    def phases(self, calls: int) -> list[tuple[Guidance, int]]:
        """Return the inner guard's phases, each inside this guard."""
        return [(dataclasses.replace(self, inner=part), count) for part, count in phases(self.inner, calls)]

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the inner guard's state."""
        return self.inner.init(texts, latents)

    def contexts(self, texts: Texts, step: Step) -> BranchContext:
        """Return the inner guard's rows."""
        return self.inner.contexts(texts, step)

    def combine(self, state: State, eps: BranchLatents, at: Moment) -> tuple[Latents, State]:
        """Return the inner guard's result."""
        return self.inner.combine(state, eps, at)


def as_arrays(guidance: Guidance) -> Guidance:
    """Return the guard with float32 arrays: a number in one call and an array in the next would compile twice."""

    def array(path: tuple[object, ...], leaf: Scale) -> np.ndarray:
        name = f"{type(guidance).__name__} {jax.tree_util.keystr(path, simple=True, separator='.')}"
        check_number(name, leaf)
        value = np.asarray(leaf, np.float32)
        check_number(name, value)
        return value

    arrays: Guidance = jax.tree_util.tree_map_with_path(array, guidance)
    return arrays


def item_scales(guidance: Guidance, count: int) -> list[Float[np.ndarray, "batch"]]:
    """Return the scales that differ from item to item; they are batched like the prompts."""
    found = [leaf for leaf in jax.tree.leaves(guidance) if is_per_item(leaf)]
    for leaf in found:
        if leaf.shape != (count,):
            given = f"a scale of shape {leaf.shape}"
            raise InputError(given, f"one number, or one per prompt: ({count},)", "change it")
    return found


def with_scales(guidance: Guidance, scales: Sequence[Array]) -> Guidance:
    """Return the guard with its per-item scales replaced by those of one batch."""
    rest = iter(scales)
    guard: Guidance = jax.tree.map(lambda leaf: next(rest) if is_per_item(leaf) else leaf, guidance)
    return guard
