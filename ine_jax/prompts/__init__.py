"""Benchmarks: prompt files as they are published, the selections from them that papers use, and where each is had.

None of the sets is redistributed here. Importing this package imports no JAX.
"""

from ine_jax.prompts.loading import PromptList, Reading, load, path_of
from ine_jax.prompts.selections import SELECTIONS, Selection

__all__ = ["SELECTIONS", "PromptList", "Reading", "Selection", "load", "path_of"]
