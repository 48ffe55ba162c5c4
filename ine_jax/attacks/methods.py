"""The attacks by their settings: one contract for all.

`attack(target, items, settings, directory, progress, finders)` writes an adversarial prompt for every item into the
directory, continues what is there, and returns an `AttackResult`; the target stays as it is.
"""

from collections.abc import Sequence
from pathlib import Path

from ine_jax.attacks import p4d, ring_a_bell, unlearndiff
from ine_jax.attacks.result import AttackResult
from ine_jax.attacks.target import Finder, Target
from ine_jax.config.attacks import AttackSettings
from ine_jax.config.white_box import P4DConfig, UnlearnDiffConfig
from ine_jax.errors import InputError
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.prompts.items import Item
from ine_jax.training.loop import Progress


def attack(
    target: Target,
    items: Sequence[Item],
    settings: AttackSettings,
    directory: Path | str,
    progress: Progress | None = None,
    finders: Sequence[Finder] = (),
    base: Pipeline | None = None,
) -> AttackResult:
    """Attack with the method whose settings these are.

    Args:
        finders: detectors that read the images of adversarial prompts; the first decides on success.
        base: the model before unlearning, for attacks that need its images.
    """
    match settings:
        case UnlearnDiffConfig():
            return unlearndiff.attack(target, items, settings, directory, progress, finders, base)
        case P4DConfig():
            return p4d.attack(target, items, settings, directory, progress, finders, base)
    if base is not None:
        raise InputError("base with ring-a-bell", "a model before unlearning where gradients need it", "leave it out")
    return ring_a_bell.attack(target, items, settings, directory, progress, finders)
