"""Dtypes of stored tensors: the codes of safetensors headers and the names that NumPy uses for them."""

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy
import numpy as np

NAME_OF_CODE = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
}
CODE_OF_NAME = {name: code for code, name in NAME_OF_CODE.items()}
# Weight files may hold these (integers only as position ids); the order in which the safetensors library writes them.
WEIGHT_DTYPES = ("int64", "float64", "float32", "int32", "bfloat16", "float16")
MODEL_DTYPES = ("float32", "float16", "bfloat16")  # for computing, and for written weights and embeddings


def dtype_of_code(code: str) -> np.dtype | None:
    """The NumPy dtype for a safetensors code such as `"BF16"`; None for a code that is not read here."""
    name = NAME_OF_CODE.get(code)
    return None if name is None else np.dtype(name)
