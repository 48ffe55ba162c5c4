"""Random vectors, and file names for every embedding format."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ine_jax.embeddings import FORMATS

DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


SINGLE = [name for name in FORMATS if name != "sdxl"]


def vectors(k: int, width: int = 768, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(k).standard_normal((k, width)).astype(dtype)


def file_of(folder: Path, form: str, name: str = "weapon") -> Path:
    folder.mkdir()
    return folder / f"{name}{FORMATS[form].suffixes[0]}"
