"""Guards: values that say how rows of network output become one prediction. See `docs/guidance.md`."""

from ine_jax.guidance.base import Guidance, Moment, NoGuidance, Scale, State, Texts
from ine_jax.guidance.cfg import Cfg
from ine_jax.guidance.gated import Gated
from ine_jax.guidance.negative import Negative, negative_guidance
from ine_jax.guidance.sld import SLD_PRESETS, Sld, sld_preset

__all__ = [
    "SLD_PRESETS",
    "Cfg",
    "Gated",
    "Guidance",
    "Moment",
    "Negative",
    "NoGuidance",
    "Scale",
    "Sld",
    "State",
    "Texts",
    "negative_guidance",
    "sld_preset",
]
