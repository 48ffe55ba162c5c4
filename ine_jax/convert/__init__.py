"""Embeddings in the formats of other tools: reading any of them, and converting between them."""

from ine_jax.convert.formats import FORMATS, Converted, convert, read
from ine_jax.convert.torchfile import torch_bytes

__all__ = ["FORMATS", "Converted", "convert", "read", "torch_bytes"]
