"""Statistics of verdicts, and metrics of images. Importing this package imports no JAX."""

from ine_jax.evaluation.metrics.paired import Paired, mcnemar
from ine_jax.evaluation.metrics.rates import Rate, wilson

__all__ = ["Paired", "Rate", "mcnemar", "wilson"]
