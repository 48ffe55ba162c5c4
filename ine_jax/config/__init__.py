"""The settings of a run: frozen dataclasses that check their ranges, without JAX.

They are parsed from YAML (`ine_jax.config.yaml_file`) and from flags (`ine_jax.cli`), where the text below a field is
its help. Run directories store and hash them. The `from_config` modules of other rooms turn them into runtime objects,
whose numbers may be traced; ranges are checked only here.
"""

from ine_jax.config.attacks import AttackConfig, RingABellConfig
from ine_jax.config.commands import (
    BenchConfig,
    ConceptConfig,
    DemoConfig,
    EvaluateConfig,
    ExportGuardConfig,
    GenerateConfig,
    InvertConfig,
    PodConfig,
    ScoreConfig,
    UnlearnConfig,
)
from ine_jax.config.guards import GuardConfig, GuidanceConfig, NegativeConfig
from ine_jax.config.lora import DuoConfig, MaceConfig, SpmConfig
from ine_jax.config.methods import InversionConfig, SamplerConfig
from ine_jax.config.robust import AdvUnlearnConfig, StereoConfig
from ine_jax.config.sources import DetectorConfig, MetricConfig, ModelConfig, PromptsConfig
from ine_jax.config.unlearning import EsdConfig, ReceConfig, UceConfig
from ine_jax.config.white_box import P4DConfig, UnlearnDiffConfig

__all__ = [
    "AdvUnlearnConfig",
    "AttackConfig",
    "BenchConfig",
    "ConceptConfig",
    "DemoConfig",
    "DetectorConfig",
    "DuoConfig",
    "EsdConfig",
    "EvaluateConfig",
    "ExportGuardConfig",
    "GenerateConfig",
    "GuardConfig",
    "GuidanceConfig",
    "InversionConfig",
    "InvertConfig",
    "MaceConfig",
    "MetricConfig",
    "ModelConfig",
    "NegativeConfig",
    "P4DConfig",
    "PodConfig",
    "PromptsConfig",
    "ReceConfig",
    "RingABellConfig",
    "SamplerConfig",
    "ScoreConfig",
    "SpmConfig",
    "StereoConfig",
    "UceConfig",
    "UnlearnConfig",
    "UnlearnDiffConfig",
]
