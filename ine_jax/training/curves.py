"""The numbers that a training run logged, read back without JAX."""

import math
from pathlib import Path

import numpy as np

from ine_jax.storage import sealed


def read_log(directory: Path | str) -> dict[str, np.ndarray]:
    """Columns of log.jsonl as float64 arrays of equal length; a value that was not finite reads as NaN."""
    path = Path(directory) / "log.jsonl"
    rows = sealed.read_log(path)
    names = list(rows[0]) if rows else []
    if any(set(row) != set(names) for row in rows):
        raise sealed.corrupt(path, "lines with different fields")
    return {
        name: np.array([math.nan if row[name] is None else row[name] for row in rows], np.float64) for name in names
    }
