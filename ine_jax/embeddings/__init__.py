"""Embeddings in the formats of other tools: reading any of them, and converting between them."""

from ine_jax.embeddings.formats import FORMATS, Converted, convert, read
from ine_jax.embeddings.torchfile import torch_bytes

__all__ = ["FORMATS", "Converted", "convert", "read", "torch_bytes"]
