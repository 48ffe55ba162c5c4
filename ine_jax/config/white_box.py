"""Settings of the attacks that differentiate through the target, with their presets."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ine_jax.config.checks import check, check_min, check_seed
from ine_jax.config.methods import Prompts
from ine_jax.config.presets import AttackPreset, replaced

Knowledge = Literal["model", "guard", "embedding"]
P4DVariant = Literal["n", "k", "mua"]


@dataclass(frozen=True)
class WhiteBoxConfig:
    """What attacks share that differentiate through the target: the model before unlearning, and what they know."""

    base: str = ""
    """Model before unlearning, which generates an image of each prompt: bundled model, folder, or hub id."""
    base_revision: str | None = None
    """Commit of the hub repository of `base`."""
    base_guidance: float = 7.5
    """Guidance scale of these images."""
    knows: Knowledge = "embedding"
    """What the attacker knows: the model as published, also the guard (with `words`), also the guard's own negative."""
    words: Prompts = ()
    """With knows guard: the negative that the attacker guesses; empty: the target's words, or else the empty prompt."""
    seed: int = 0
    """Random seed; step t of a prompt depends only on (seed, seed of the prompt, t)."""

    def __post_init__(self) -> None:
        check_min(self, 0, "base_guidance")
        check_seed(self)
        check(self, "words", not self.words or self.knows == "guard", "empty unless knows is guard")


@dataclass(frozen=True)
class UnlearnDiffNumbers:
    """The constants of UnlearnDiffAtk."""

    tokens: int  # of the prefix
    timesteps: int  # number of noise levels, visited one after the other
    iterations: int  # optimizer steps at each of them
    learning_rate: float
    weight_decay: float


UNLEARNDIFF = MappingProxyType(
    {
        # github.com/OPTML-Group/Diffusion-MU-Attack, src/attackers/text_grad_.py and src/tasks/classifier_.py
        "published": UnlearnDiffNumbers(5, 50, 40, 0.01, 0.1),
        "quick": UnlearnDiffNumbers(5, 5, 20, 0.1, 0.1),
    }
)


@dataclass(frozen=True)
class UnlearnDiffConfig(WhiteBoxConfig):
    """UnlearnDiffAtk (Zhang et al. 2024), also through the target's guard and its negative."""

    preset: AttackPreset = "published"
    """Constants: those of the published code, or few steps for a first look."""
    tokens: int | None = None
    """Tokens of the adversarial prefix; empty here and below: the preset's value."""
    timesteps: int | None = None
    """Number of noise levels, from clean to noisy; after each of them one image is scored."""
    iterations: int | None = None
    """Optimizer steps at each noise level."""
    learning_rate: float | None = None
    """Learning rate of Adam."""
    weight_decay: float | None = None
    """Weight decay, added to the gradient."""
    save_every: int = 40
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between lines of the log."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_min(self, 1, "tokens", "timesteps", "iterations", "save_every", "log_every")
        check_min(self, 0, "learning_rate", exclusive=True)
        check_min(self, 0, "weight_decay")

    @property
    def numbers(self) -> UnlearnDiffNumbers:
        """The constants of the preset, with those that are given in their place."""
        return replaced(UNLEARNDIFF[self.preset], self)

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.numbers.timesteps * self.numbers.iterations


@dataclass(frozen=True)
class P4DNumbers:
    """The constants of P4D."""

    tokens: int  # free tokens; in variant k there are as many as the prompt has room for
    every: int  # in variant k: tokens of the prompt between free ones
    rounds: int  # after each of them the prompt is tried
    iterations: int  # optimizer steps of a round
    learning_rate: float
    weight_decay: float


P4D = MappingProxyType(
    {
        # github.com/joycenerd/P4D, prompt_optimization/optimize_n.py and optimize_k.py with configs/
        ("published", "n"): P4DNumbers(16, 3, 60, 50, 0.1, 0.1),
        ("published", "k"): P4DNumbers(16, 3, 60, 50, 0.1, 0.1),
        # github.com/OPTML-Group/Diffusion-MU-Attack, src/attackers/hard_prompt_.py and src/tasks/P4D_.py
        ("published", "mua"): P4DNumbers(5, 3, 50, 40, 0.01, 0.1),
        ("quick", "n"): P4DNumbers(8, 3, 5, 20, 0.1, 0.1),
        ("quick", "k"): P4DNumbers(8, 3, 5, 20, 0.1, 0.1),
        ("quick", "mua"): P4DNumbers(5, 3, 5, 20, 0.1, 0.1),
    }
)


@dataclass(frozen=True)
class P4DConfig(WhiteBoxConfig):
    """P4D (Chin et al. 2024), also through the target's guard and its negative."""

    variant: P4DVariant = "n"
    """Free tokens alone (n), one before the prompt and after every K of its tokens (k), or UnlearnDiffAtk's prefix."""
    preset: AttackPreset = "published"
    """Constants: those of the published code of the variant, or few steps for a first look."""
    tokens: int | None = None
    """Free tokens of variants n and mua; empty here and below: the preset's value."""
    every: int | None = None
    """Tokens of the prompt between two free ones, in variant k."""
    rounds: int | None = None
    """Rounds, after each of which one image is scored; in variant mua each has its noise level, from clean to noisy."""
    iterations: int | None = None
    """Optimizer steps of a round."""
    learning_rate: float | None = None
    """Learning rate."""
    weight_decay: float | None = None
    """Weight decay: of the vectors themselves, in variant mua added to the gradient."""
    save_every: int = 50
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between lines of the log."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_min(self, 1, "tokens", "every", "rounds", "iterations", "save_every", "log_every")
        check_min(self, 0, "learning_rate", exclusive=True)
        check_min(self, 0, "weight_decay")
        unused = "tokens" if self.variant == "k" else "every"
        check(self, unused, getattr(self, unused) is None, f"empty with variant {self.variant}")

    @property
    def numbers(self) -> P4DNumbers:
        """The constants of the variant's preset, with those that are given in their place."""
        return replaced(P4D[self.preset, self.variant], self)

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.numbers.rounds * self.numbers.iterations
