"""Safe latent diffusion (arXiv 2211.05105), in the form of its published sampling loop."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.errors import InputError
from ine_jax.guidance.base import Guidance, Moment, State, Texts, ThreeRows, in_float32, per_item
from ine_jax.guidance.cfg import Cfg
from ine_jax.guidance.interval import Unaware
from ine_jax.types import STATIC, BranchLatents, Latents, Scale

FULL_RUN = 50  # the run length of which `warmup` is a share where `warmup_unit` is "fraction"

WarmupUnit: TypeAlias = Literal["steps", "fraction"]

# SafetyConfig of diffusers (pipelines/deprecated/stable_diffusion_safe); weak's safety scale is 20 there and 200 in
# OPTML-Group/Diffusion-MU-Attack (src/tasks/P4D_.py).
_NUMBERS = ("safety_scale", "threshold", "momentum_scale", "momentum_beta", "warmup")
_PRESETS = {
    "weak": (20.0, 0.0, 0.0, 0.0, 15.0),
    "weak-200": (200.0, 0.0, 0.0, 0.0, 15.0),
    "medium": (1000.0, 0.01, 0.3, 0.4, 10.0),
    "strong": (2000.0, 0.025, 0.5, 0.7, 7.0),
    "max": (5000.0, 1.0, 0.5, 0.7, 0.0),
}
SLD_PRESETS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {name: dict(zip(_NUMBERS, values, strict=True)) for name, values in _PRESETS.items()}
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sld(ThreeRows):
    """Guidance away from a negative text, element by element; three rows: unconditional, prompt, negative.

    With d = ε_c - ε_n, all operations elementwise (equations 3 to 8 of arXiv 2211.05105):

        φ = min(1, s_S |d|);  μ = φ where d < λ, else 0
        γ = μ (ε_n - ε_u) + s_m ν;  ν ← β_m ν + (1 - β_m) γ
        ε = ε_u + s_g ((ε_c - ε_u) - γ), without γ during the warm-up

    The comparison with λ is signed, and ν accumulates during the warm-up too, as in the published loop. There s_S ≤ 1
    switches the safety term off; here a mask does so per item, so that switching compiles nothing. (The published loop
    drops all guidance at s_g ≤ 1; here the equation holds for every s_g.)

    Every number is one for all items or one per item.

    Attributes:
        scale: s_g, the guidance scale.
        safety_scale: s_S, the slope of φ; 1 or less switches the safety term off.
        threshold: λ.
        momentum_scale: s_m.
        momentum_beta: β_m.
        warmup: δ, network calls before γ is applied, rounded to the nearest whole number, halves up.
        warmup_unit: "steps" counts `warmup` in calls of this run, as the published loop does. "fraction" takes it as
            steps of a 50-step run, and the same share of the calls of this one. Static.
        skip: the first steps, counted like `warmup`, without a safety row; static. Set by `skipping`.
    """

    scale: Scale = 7.5
    safety_scale: Scale = 1000.0
    threshold: Scale = 0.01
    momentum_scale: Scale = 0.3
    momentum_beta: Scale = 0.4
    warmup: Scale = 10.0
    warmup_unit: WarmupUnit = field(default="steps", metadata=STATIC)
    skip: float = field(default=0.0, metadata=STATIC)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_unit not in get_args(WarmupUnit):
            raise InputError(f"warmup_unit {self.warmup_unit!r}", ", ".join(get_args(WarmupUnit)), "choose one of them")

    def skipping(self) -> "Sld":
        """Return the same guard with `skip` set to the warm-up that every item shares, where that is exact.

        It is exact where s_m = 0 for every item: ν is then never read, so the warm-up leaves no trace. Traced numbers
        have no value to look at, and skip nothing.
        """
        if isinstance(self.momentum_scale, jax.core.Tracer) or isinstance(self.warmup, jax.core.Tracer):
            return self
        exact = not np.any(np.asarray(self.momentum_scale))
        return dataclasses.replace(self, skip=float(np.min(np.asarray(self.warmup, np.float32))) if exact else 0.0)

    def phases(self, calls: int) -> list[tuple[Guidance, int]]:
        """Return CFG (two rows) for the skipped calls, and this guard for the others."""
        first = min(calls, max(0, math.floor(self.skip * calls / self._counted(calls) + 0.5)))
        return [(Unaware(Cfg(self.scale)), first), (self, calls - first)]

    def _counted(self, calls: int) -> int:
        """The length of the run in which `warmup` and `skip` count."""
        return calls if self.warmup_unit == "steps" else FULL_RUN

    def init(self, texts: Texts, latents: Latents) -> State:
        """Return ν = 0, float32 [batch, h, w, c]."""
        super().init(texts, latents)
        return jnp.zeros_like(latents, jnp.float32)

    def combine(self, state: State, eps: BranchLatents, at: Moment) -> tuple[Latents, State]:
        """Return ε_u + s_g ((ε_c - ε_u) - γ) and the new ν."""
        uncond, prompt, negative = in_float32(eps)
        safety_scale, beta = per_item(self.safety_scale), per_item(self.momentum_beta)
        away = prompt - negative
        strength = jnp.minimum(1.0, safety_scale * jnp.abs(away))
        mu = jnp.where(away < per_item(self.threshold), strength, 0.0)
        gamma = mu * (negative - uncond) + per_item(self.momentum_scale) * state
        state = beta * state + (1.0 - beta) * gamma
        # step >= round(warmup * calls / counted), in products of whole numbers: exact in float32
        begun = self._counted(at.calls) * (at.step.astype(jnp.float32) + 0.5) > per_item(self.warmup) * at.calls
        safety = jnp.where(begun & (safety_scale > 1.0), gamma, 0.0)
        return (uncond + per_item(self.scale) * (prompt - uncond - safety)).astype(eps.dtype), state


def sld_preset(name: str, scale: Scale = 7.5, warmup_unit: WarmupUnit = "steps", **overrides: Scale) -> Sld:
    """Return the guard with the published numbers of that name (`SLD_PRESETS`), without rows that need not be computed.

    Medium, strong and max share one compiled program. So do weak and weak-200, which need only two rows during their
    warm-up. `overrides` replace fields of the preset; they may be one number per item.
    """
    if name not in SLD_PRESETS:
        raise InputError(f"SLD preset {name!r}", ", ".join(SLD_PRESETS), "choose one, or set the numbers of Sld")
    unknown = overrides.keys() - SLD_PRESETS[name].keys()
    if unknown:
        raise InputError(f"SLD setting {min(unknown)!r}", ", ".join(SLD_PRESETS[name]), "change its name")
    numbers: dict[str, Scale] = {**SLD_PRESETS[name], **overrides}
    return Sld(scale, **numbers, warmup_unit=warmup_unit).skipping()  # type: ignore[arg-type]  # none of them is `skip`
