"""Implicit negative embeddings for unlearned diffusion models, in JAX.

An unlearned text-to-image model still generates the forgotten concept for adversarial prompts, and guards that name
the concept in words fail on it. This package recovers the concept by textual inversion on the unlearned model and gives
the resulting embedding to the guard in place of the words (arXiv 2511.04834).

Public names are loaded on first use, so importing the package alone does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ine_jax.api import attack, evaluate, invert, report, unlearn
    from ine_jax.config import (
        AttackConfig,
        ConceptConfig,
        DetectorConfig,
        EvaluateConfig,
        GuardConfig,
        GuidanceConfig,
        InversionConfig,
        InvertConfig,
        ModelConfig,
        NegativeConfig,
        PromptsConfig,
        SamplerConfig,
        UnlearnConfig,
    )
    from ine_jax.embeddings.conversion import convert
    from ine_jax.embeddings.embedding import Embedding
    from ine_jax.guidance import Casg, Cfg, DynamicNegative, Gated, Interval, Negative, NoGuidance, SafeDenoiser, Safree
    from ine_jax.guidance.concept import Concept
    from ine_jax.guidance.sld import Sld, sld_preset
    from ine_jax.pipeline.pipeline import load
    from ine_jax.pipeline.samples import Samples

__version__ = "0.1.0"
__all__ = [
    "AttackConfig",
    "Casg",
    "Cfg",
    "Concept",
    "ConceptConfig",
    "DetectorConfig",
    "DynamicNegative",
    "Embedding",
    "EvaluateConfig",
    "Gated",
    "GuardConfig",
    "GuidanceConfig",
    "Interval",
    "InversionConfig",
    "InvertConfig",
    "ModelConfig",
    "Negative",
    "NegativeConfig",
    "NoGuidance",
    "PromptsConfig",
    "SafeDenoiser",
    "Safree",
    "SamplerConfig",
    "Samples",
    "Sld",
    "UnlearnConfig",
    "__version__",
    "attack",
    "convert",
    "evaluate",
    "invert",
    "load",
    "report",
    "sld_preset",
    "unlearn",
]
# Modules of the public names; those not listed here are guards.
_HOME = {
    "Concept": "ine_jax.guidance.concept",
    "Embedding": "ine_jax.embeddings.embedding",
    "Samples": "ine_jax.pipeline.samples",
    "convert": "ine_jax.embeddings.conversion",
    "load": "ine_jax.pipeline.pipeline",
    **dict.fromkeys(("attack", "evaluate", "invert", "report", "unlearn"), "ine_jax.api"),
    **{name: "ine_jax.config" for name in __all__ if name.endswith("Config")},
}


def __getattr__(name: str) -> object:
    """Import the module of a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'ine_jax' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOME.get(name, "ine_jax.guidance")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
