"""Statistics of verdicts, and metrics of images. Importing this package imports no JAX."""

from ine_jax.evaluation.metrics.statistics import Rate, exact_p, wilson

__all__ = ["Rate", "exact_p", "wilson"]
