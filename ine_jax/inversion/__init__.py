"""Concept inversion: find a concept again in a frozen, unlearned model, from images of it (arXiv 2511.04834), or
without any in the closed form of RECE (arXiv 2407.12383).

`run` and `preview` are loaded on first use: a finished inversion is read without them.
"""

import importlib
from typing import TYPE_CHECKING

from ine_jax.config import InversionConfig

if TYPE_CHECKING:
    from ine_jax.inversion.preview import preview_images
    from ine_jax.inversion.run import derive, invert, invert_many, paper_setting
    from ine_jax.inversion.stored import InversionResult

__all__ = ["InversionConfig", "InversionResult", "derive", "invert", "invert_many", "paper_setting", "preview_images"]
_HOME = {"InversionResult": "stored", "preview_images": "preview"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'run')}"), name)
