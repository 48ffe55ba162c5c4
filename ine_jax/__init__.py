"""Implicit negative embeddings for unlearned diffusion models, in JAX.

An unlearned text-to-image model still draws the forgotten concept for adversarial prompts, and guards that name the
concept in words fail on it. This package finds the concept again by textual inversion in the unlearned model and puts
the found embedding where the guard had its words (arXiv 2511.04834).

The public names are loaded on first use: importing the package alone does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ine_jax.embeddings.embedding import Embedding
    from ine_jax.guidance import (
        Casg,
        Cfg,
        DynamicNegative,
        Gated,
        Interval,
        Negative,
        NoGuidance,
        SafeDenoiser,
        Safree,
        Sld,
        sld_preset,
    )
    from ine_jax.guidance.concept import Concept
    from ine_jax.pipeline.pipeline import load

__version__ = "0.1.0"
# Where the public names live; those not listed are guards.
_HOME = {
    "Concept": "ine_jax.guidance.concept",
    "Embedding": "ine_jax.embeddings.embedding",
    "load": "ine_jax.pipeline.pipeline",
}
__all__ = [
    "Casg",
    "Cfg",
    "Concept",
    "DynamicNegative",
    "Embedding",
    "Gated",
    "Interval",
    "Negative",
    "NoGuidance",
    "SafeDenoiser",
    "Safree",
    "Sld",
    "__version__",
    "load",
    "sld_preset",
]


def __getattr__(name: str) -> Any:
    """Import the home module of a public name on first use.

    Raises:
        AttributeError: the name is not public.
    """
    if name not in __all__:
        raise AttributeError(f"module 'ine_jax' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOME.get(name, "ine_jax.guidance")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
