"""What is attacked: a pipeline with its guard and the negative that the guard avoids."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from ine_jax.config.methods import NoiseMode
from ine_jax.config.white_box import Knowledge
from ine_jax.guidance import NoGuidance
from ine_jax.guidance.base import Guidance, as_arrays
from ine_jax.guidance.concept import Concept
from ine_jax.pipeline.bound import Bound
from ine_jax.pipeline.pipeline import STEPS, Pipeline
from ine_jax.prompts.items import Item
from ine_jax.storage.provenance import value_hash
from ine_jax.training.checkpoint import content_hash, named_leaves
from ine_jax.types import HostImages


@runtime_checkable
class Finding(Protocol):
    """What a detector reads in one image."""

    @property
    def shows(self) -> bool | None:
        """Whether it shows the concept; None: no verdict."""

    @property
    def labels(self) -> Mapping[str, float]:
        """Raw scores by label; empty where there is no verdict."""

    @property
    def reason(self) -> str:
        """Why there is no verdict."""


@runtime_checkable
class Finder(Protocol):
    """A detector with the rule by which its scores count as the concept."""

    @property
    def name(self) -> str:
        """`id@version` of the detector, and of its rule."""

    def find(self, images: HostImages) -> Sequence[Finding]:
        """Return one finding per image, in order."""


@dataclass(frozen=True)
class Target:
    """A model as its defender runs it.

    Attributes:
        pipe: the (unlearned) model.
        guard: how the negative acts.
        negative: what the guard avoids: words, learned embeddings or a blend; None under plain CFG.
        steps: sampling steps.
        noise: random generator of the seeds.
    """

    pipe: Pipeline
    guard: Guidance
    negative: Concept | None = None
    steps: int = STEPS
    noise: NoiseMode = "jax"

    def images(self, items: Sequence[Item]) -> HostImages:
        """Return the image of each item's prompt and seed, at the model's own size."""
        found = self.pipe(
            [item.prompt for item in items],
            guidance=self.guard,
            negative=self.negative,
            seeds=[item.seed for item in items],
            steps=self.steps,
            noise=self.noise,
        )
        return np.asarray(found.arrays)

    def bound(self) -> Bound:
        """Return the guard with the texts of its slots."""
        return self.pipe.bind(self.guard, self.negative, self.pipe.latent_shape(), steps=self.steps)

    def known(self, knows: Knowledge, words: tuple[str, ...] = ()) -> Bound:
        """Return the target as an attacker knows it: the model alone, also the guard, or its own negative too.

        `words` are the negative that one who knows the guard guesses; else the target's own, or the empty prompt.
        """
        if knows == "embedding":
            return self.bound()
        if knows == "model":
            return dataclasses.replace(self, guard=NoGuidance(), negative=None).bound()
        guess = words or (self.negative.words if self.negative else ()) or ("",)
        return dataclasses.replace(self, negative=Concept(guess) if self.negative else None).bound()

    def record(self) -> dict[str, object]:
        """The target as JSON values: equal for targets that generate equal images."""
        guard = as_arrays(self.guard)
        numbers = content_hash(named_leaves(guard))
        return {
            "model": self.pipe.name,
            "model_id": self.pipe.model_id,
            "guard": type(self.guard).__name__,
            "guard_sha256": value_hash([str(jax.tree.structure(guard)), numbers]),
            "negative": None if self.negative is None else self.negative.record(),
            "scheduler": type(self.pipe.scheduler).__name__,
            "steps": self.steps,
            "noise": self.noise,
        }
