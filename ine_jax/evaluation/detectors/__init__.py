"""Detectors: which labels an image shows, or why it could not be scored."""

from ine_jax.evaluation.detectors.base import Detector, Scored, Unscored

__all__ = ["Detector", "Scored", "Unscored"]
