"""Embeddings: the value, its file, and the formats of other tools, to read and to convert."""

from ine_jax.embeddings.conversion import Converted, convert, read_embedding
from ine_jax.embeddings.formats import FORMATS
from ine_jax.embeddings.torch_writer import torch_bytes

__all__ = ["FORMATS", "Converted", "convert", "read_embedding", "torch_bytes"]
