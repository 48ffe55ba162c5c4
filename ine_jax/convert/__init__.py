"""Embeddings in the formats of other tools."""
