"""Concept inversion: find a concept again in a frozen, unlearned model, from images of it (arXiv 2511.04834), or
without any in the closed form of RECE (arXiv 2407.12383).
"""

from ine_jax.config import InversionConfig
from ine_jax.inversion.preview import preview_images
from ine_jax.inversion.run import InversionResult, derive, invert, invert_many, paper_setting

__all__ = ["InversionConfig", "InversionResult", "derive", "invert", "invert_many", "paper_setting", "preview_images"]
