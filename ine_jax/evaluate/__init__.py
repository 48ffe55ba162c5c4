"""Evaluation: models x guards x negatives x prompts -> blocks of images -> scores -> summary, joined by files.

`plan` says what is drawn, `drawing` draws it, `scoring` judges it, `summary` counts. Importing this package imports no
JAX.
"""

from ine_jax.evaluate.drawing import evaluate
from ine_jax.evaluate.plan import Cell, Plan, Unit, plan_from_config, read_items, units
from ine_jax.evaluate.scoring import score
from ine_jax.evaluate.summary import Preset, summarise
from ine_jax.prompts import Item

__all__ = [
    "Cell",
    "Item",
    "Plan",
    "Preset",
    "Unit",
    "evaluate",
    "plan_from_config",
    "read_items",
    "score",
    "summarise",
    "units",
]
