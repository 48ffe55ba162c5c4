"""Guards: how rows of network output become one prediction. See `docs/guidance.md`."""

from ine_jax.guidance.base import Guidance, Moment, NoGuidance, State, Texts
from ine_jax.guidance.casg import Casg
from ine_jax.guidance.cfg import Cfg
from ine_jax.guidance.dng import DynamicNegative
from ine_jax.guidance.gated import Gated
from ine_jax.guidance.interval import Interval
from ine_jax.guidance.negative import Negative, negative_guidance
from ine_jax.guidance.safe_denoiser import SafeDenoiser
from ine_jax.guidance.safree import Safree
from ine_jax.guidance.sld import SLD_PRESETS, Sld, sld_preset
from ine_jax.types import Scale

__all__ = [
    "SLD_PRESETS",
    "Casg",
    "Cfg",
    "DynamicNegative",
    "Gated",
    "Guidance",
    "Interval",
    "Moment",
    "Negative",
    "NoGuidance",
    "SafeDenoiser",
    "Safree",
    "Scale",
    "Sld",
    "State",
    "Texts",
    "negative_guidance",
    "sld_preset",
]
