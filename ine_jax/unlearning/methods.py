"""The unlearning methods by their settings: one contract for all.

`unlearn(pipe, settings, directory, progress)` writes the changed weights into the directory, continues what is there,
and returns a `Result`; the given pipeline stays as it is.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ine_jax.config import AdvUnlearnConfig, DuoConfig, EsdConfig, MaceConfig, SpmConfig, StereoConfig, UceConfig
from ine_jax.config.commands import UnlearnSettings
from ine_jax.errors import InputError
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.training.loop import Progress
from ine_jax.unlearning import advunlearn, duo, esd, mace, rece, spm, stereo, uce
from ine_jax.unlearning.pairs import Shows
from ine_jax.unlearning.result import Result

Settings = UnlearnSettings


def unlearn(
    pipe: Pipeline,
    settings: Settings,
    directory: Path | str,
    progress: Progress | None = None,
    preserve_images: np.ndarray | None = None,
    shows: Sequence[Shows] = (),
) -> Result:
    """Unlearn with the method whose settings these are.

    Args:
        preserve_images: ESD's (see `esd.erase`).
        shows: the detectors that DUO's settings name.
    """
    if isinstance(settings, EsdConfig):
        return esd.erase(pipe, settings, directory, progress, preserve_images)
    if preserve_images is not None:
        raise InputError("preserve_images without esd", "images for ESD's preservation term only", "leave them out")
    match settings:
        case DuoConfig():
            return duo.unlearn(pipe, settings, directory, progress, shows)
        case SpmConfig():
            return spm.unlearn(pipe, settings, directory, progress)
        case MaceConfig():
            return mace.unlearn(pipe, settings, directory, progress)
        case StereoConfig():
            return stereo.unlearn(pipe, settings, directory, progress)
        case AdvUnlearnConfig():
            return advunlearn.unlearn(pipe, settings, directory, progress)
        case UceConfig():
            return uce.unlearn(pipe, settings, directory, progress)
        case _:
            return rece.unlearn(pipe, settings, directory, progress)
