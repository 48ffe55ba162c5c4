"""Safe Denoiser (arXiv 2502.08011): the predicted image is kept away from images of the concept."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ine_jax.errors import InputError
from ine_jax.guidance.base import Moment, ReferenceRow, Referring, State, Texts, Wrapper, per_item
from ine_jax.schedulers.base import predictions
from ine_jax.types import STATIC, AnyArray, Array, BranchLatents, Latents, Scale, Step

_TINY = 1e-8  # added to the sum of kernels, as in the released code


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SafeDenoiser(Wrapper):
    """The inner guard, with its predicted clean latents moved away from those of reference images x_j:

        x_0 ← x_0 - s Σ_j k_j x_j / Σ_j k_j,   k_j = exp(-‖x_0 - x_j‖ / 2σ²)

    at timesteps t ≥ `from_timestep` and for items with Σ_j k_j > `threshold`; elsewhere nothing changes. The kernel's
    distance is not squared, as in the released code (MingyuKim87/Safe_Denoiser); `squared` takes ‖x_0 - x_j‖², a
    Gaussian kernel. The release adds noise to the corrected x_0 and continues from there. Here the sampler receives the
    corrected x_0 as a network prediction, ε ← ε + (α/σ_t) Δ or v ← v + Δ/σ_t for x_0 ← x_0 - Δ: this project's reading,
    which needs no noise and suits every sampler.

    The defaults are those published for Stable Diffusion 1.4 with 515 images at 512 x 512, for latents of 16384
    numbers. Distances grow with the square root of the size, so for latents of n numbers scale σ by (n / 16384)^(1/4),
    or by its square root where distances are squared. Timesteps count the 1000 levels of its training.

    Attributes:
        inner: the guard.
        references: x_j, in the scale of the UNet; shared by all items. The released code divides every position of
            them by its length over the channels.
        strength: s; 0 is the inner guard.
        sigma: σ, the kernel's width.
        from_timestep: the lowest timestep that is corrected; 780 leaves the first 22 % of a run.
        threshold: the sum of kernels from which an item is corrected; 0 corrects always.
        squared: whether the kernel takes squared distances; static.
    """

    references: Float[AnyArray, "*stacked reference h w c"]  # stacked under vmap
    strength: Scale = 0.33
    sigma: Scale = 3.15
    from_timestep: Scale = 780.0
    threshold: Scale = 0.0
    squared: bool = field(default=False, metadata=STATIC)

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return the inner guard's state."""
        if self.references.shape[1:] != latents.shape[1:]:
            given = f"references of shape {tuple(self.references.shape)}"
            raise InputError(given, f"[R, {', '.join(map(str, latents.shape[1:]))}]", "encode images of this size")
        return super().init(texts, latents)

    def reference(self, texts: Texts, step: Step) -> ReferenceRow | None:
        """Return the inner guard's reference row, if it has one."""
        return self.inner.reference(texts, step) if isinstance(self.inner, Referring) else None

    def combine(self, state: State, eps: BranchLatents, at: Moment) -> tuple[Latents, State]:
        """Return the prediction with the corrected x_0, and the inner guard's state."""
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


def _kernels(
    clean: Latents, references: Float[AnyArray, "reference h w c"], sigma: Scale, squared: bool
) -> Float[Array, "batch reference"]:
    """Return k_j of each item."""
    distance = jnp.sum((clean[:, None] - references[None].astype(jnp.float32)) ** 2, axis=(2, 3, 4))
    distance = distance if squared else jnp.sqrt(distance)
    width = jnp.asarray(sigma, jnp.float32).reshape(-1, 1)
    return jnp.exp(-distance / (2.0 * width**2))
