"""What a run is asked to do: frozen dataclasses with their ranges, and no import of JAX.

These records are parsed from YAML (`ine_jax.config.yaml_file`) and from dotted flags (`ine_jax.cli`), written into run
directories and hashed. Runtime objects are made from them elsewhere, so numbers may become traced leaves
there while the ranges are checked here, once.
"""

from ine_jax.config.commands import (
    BenchConfig,
    ConceptConfig,
    DemoConfig,
    EvaluateConfig,
    GenerateConfig,
    InvertConfig,
    ScoreConfig,
    UnlearnConfig,
)
from ine_jax.config.guards import GuardConfig, GuidanceConfig, NegativeConfig
from ine_jax.config.methods import EsdConfig, InversionConfig, SamplerConfig
from ine_jax.config.sources import DetectorConfig, MetricConfig, ModelConfig, PromptsConfig

__all__ = [
    "BenchConfig",
    "ConceptConfig",
    "DemoConfig",
    "DetectorConfig",
    "EsdConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "GuardConfig",
    "GuidanceConfig",
    "InversionConfig",
    "InvertConfig",
    "MetricConfig",
    "ModelConfig",
    "NegativeConfig",
    "PromptsConfig",
    "SamplerConfig",
    "ScoreConfig",
    "UnlearnConfig",
]
