"""Evaluation: models x guards x negatives x prompts -> blocks of images -> scores -> summary, joined by files.

`plan` lists the cells, `generating` makes their images, `scoring` and `measuring` score them, `summary` counts.
Importing this package imports no JAX.
"""

from ine_jax.evaluation.detectors.presets import Preset
from ine_jax.evaluation.generating import evaluate
from ine_jax.evaluation.measuring import measure_folder, score_metrics
from ine_jax.evaluation.plan import Cell, Plan, plan_from_config, read_items
from ine_jax.evaluation.scoring import score, scorer_name
from ine_jax.evaluation.summary import summarise
from ine_jax.evaluation.units import Unit
from ine_jax.prompts.items import Item

__all__ = [
    "Cell",
    "Item",
    "Plan",
    "Preset",
    "Unit",
    "evaluate",
    "measure_folder",
    "plan_from_config",
    "read_items",
    "score",
    "score_metrics",
    "scorer_name",
    "summarise",
]
