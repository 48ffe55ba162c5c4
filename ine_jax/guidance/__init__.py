"""Guards: values that say how rows of network output become one prediction. See `docs/guidance.md`."""

from ine_jax.guidance.base import Guidance, Moment, NoGuidance, Scale, State, Texts
from ine_jax.guidance.cfg import Cfg
from ine_jax.guidance.negative import Negative, negative_guidance

__all__ = ["Cfg", "Guidance", "Moment", "Negative", "NoGuidance", "Scale", "State", "Texts", "negative_guidance"]
