"""Safe Denoiser (arXiv 2502.08011): the predicted image is kept away from images of the concept."""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ine_jax.errors import InputError
from ine_jax.guidance.base import Guidance, Moment, Scale, State, Texts, per_item, phases
from ine_jax.schedulers.base import predictions
from ine_jax.types import Array, BranchContext, BranchLatents, Latents

_TINY = 1e-8  # added to the sum of kernels, as in the released code


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("inner", "references", "strength", "sigma", "from_timestep", "threshold"),
    meta_fields=("squared",),
)
@dataclass(frozen=True)
class SafeDenoiser:
    """The guard inside, whose predicted clean latents are then moved away from those of reference images x_j:

        x_0 ← x_0 - s Σ_j k_j x_j / Σ_j k_j,   k_j = exp(-‖x_0 - x_j‖ / 2σ²)

    at timesteps t ≥ `from_timestep` and for items with Σ_j k_j > `threshold`; elsewhere nothing changes. The kernel's
    distance is not squared, as in the released code (MingyuKim87/Safe_Denoiser); `squared` takes ‖x_0 - x_j‖², a
    Gaussian kernel. The release adds noise to the corrected x_0 and goes on from there. Here the sampler is given the
    corrected x_0 in the form of the network's prediction, ε ← ε + (α/σ_t) Δ or v ← v + Δ/σ_t for x_0 ← x_0 - Δ: this
    project's reading, which needs no noise and suits every sampler.

    Defaults are those published for Stable Diffusion 1.4 with 515 images at 512 x 512. They hold for its latents,
    16384 numbers: distances grow with the square root of how many numbers there are, so for latents of n numbers
    scale σ by (n / 16384)^(1/4), or by its square root where distances are squared. Timesteps count the 1000 levels
    of its training.

    Attributes:
        inner: the guard whose prediction is corrected.
        references: x_j [R, h, w, c], in the scale of the UNet; shared by all items. The released code divides every
            position of them by its length over the channels.
        strength: s; 0 is the guard inside.
        sigma: σ, the kernel's width.
        from_timestep: the lowest timestep that is corrected; 780 leaves the first 22 % of a run.
        threshold: what the sum of kernels must exceed; 0 corrects always.
        squared: whether the kernel takes squared distances; static.
    """

    inner: Guidance
    references: Array
    strength: Scale = 0.33
    sigma: Scale = 3.15
    from_timestep: Scale = 780.0
    threshold: Scale = 0.0
    squared: bool = False

    @property
    def branches(self) -> int:
        """Return those of the guard inside."""
        return self.inner.branches

    def phases(self, calls: int) -> list[tuple[Guidance, int]]:
        """Return the phases of the guard inside, each corrected."""
        return [(dataclasses.replace(self, inner=part), count) for part, count in phases(self.inner, calls)]

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the state of the guard inside.

        Raises:
            InputError: references of another shape than the latents.
        """
        if self.references.shape[1:] != latents.shape[1:]:
            given = f"references of shape {tuple(self.references.shape)}"
            raise InputError(given, f"[R, {', '.join(map(str, latents.shape[1:]))}]", "encode images of this size")
        return self.inner.init(texts, latents)

    def contexts(self, texts: Texts, step: Array) -> BranchContext:
        """Return the rows of the guard inside."""
        return self.inner.contexts(texts, step)

    def reference(self, texts: Texts, step: Array) -> object | None:
        """Return the reference row of the guard inside, if it has one (see `sampling.predict`)."""
        return self.inner.reference(texts, step) if hasattr(self.inner, "reference") else None

    def combine(self, state: State, eps: BranchLatents, at: Moment) -> tuple[Latents, State]:
        """Return the prediction whose x_0 is the corrected one, and the state of the guard inside."""
        output, state = self.inner.combine(state, eps.astype(jnp.float32), at)
        clean, _ = predictions(at.prediction, at.latents, output, at.alpha, at.sigma)
        kernels = _kernels(clean, self.references, self.sigma, self.squared)
        total = kernels.sum(axis=1)
        with jax.default_matmul_precision("highest"):
            unsafe = jnp.tensordot(kernels / (total[:, None] + _TINY), self.references, axes=1)
        active = (at.timestep >= per_item(self.from_timestep)) & (per_item(total) > per_item(self.threshold))
        away = jnp.where(active, per_item(self.strength) * unsafe, 0.0)
        gain = (1.0 if at.prediction == "v_prediction" else at.alpha) / at.sigma
        return (output + gain * away).astype(eps.dtype), state


def _kernels(clean: Latents, references: Latents, sigma: Scale, squared: bool) -> Array:
    """Return k_j of each item, float32 [batch, R]."""
    distance = jnp.sum((clean[:, None] - references[None].astype(jnp.float32)) ** 2, axis=(2, 3, 4))
    distance = distance if squared else jnp.sqrt(distance)
    width = jnp.asarray(sigma, jnp.float32).reshape(-1, 1)
    return jnp.exp(-distance / (2.0 * width**2))
