"""Prompt sets: readers of published prompt files, the selections that papers use, and where to get each set.

No published set is redistributed here. Importing this package imports no JAX.
"""

from ine_jax.prompts.loading import PromptSet, Reading, load, path_of
from ine_jax.prompts.selections import SELECTIONS, Selection

__all__ = ["SELECTIONS", "PromptSet", "Reading", "Selection", "load", "path_of"]
