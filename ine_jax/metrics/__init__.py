"""Numbers made of verdicts: rates with intervals, paired tests. Standard library only."""

from ine_jax.metrics.paired import Paired, mcnemar
from ine_jax.metrics.rates import Rate, wilson

__all__ = ["Paired", "Rate", "mcnemar", "wilson"]
