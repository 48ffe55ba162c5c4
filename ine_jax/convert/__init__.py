"""Embeddings in the formats of other tools, and the reader of PyTorch files that never executes anything."""
