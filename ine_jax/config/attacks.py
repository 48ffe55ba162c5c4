"""Settings of the attacks, one record each, with their presets."""

import dataclasses
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias, TypeVar, get_args

from ine_jax.config.checks import check, check_min, check_seed
from ine_jax.config.guards import GuidanceConfig, NegativeConfig
from ine_jax.config.methods import Prompts, SamplerConfig
from ine_jax.config.sources import DetectorConfig, PromptsConfig, UnlearnedModel
from ine_jax.errors import InputError

AttackMethod = Literal["ring-a-bell", "unlearndiff"]
AttackPreset = Literal["published", "quick"]
Knowledge = Literal["model", "guard", "embedding"]

N = TypeVar("N", "RingABellNumbers", "UnlearnDiffNumbers")


@dataclass(frozen=True)
class RingABellNumbers:
    """The constants of Ring-A-Bell's search."""

    strength: float  # η, the weight of the concept vector
    length: int  # tokens of a prompt
    population: int
    generations: int
    crossover: float  # share of the survivors that have two children
    mutation: float  # share of the prompts of a generation of which one token changes


RING_A_BELL = MappingProxyType(
    {
        # github.com/chiayi-hsu/Ring-A-Bell, InversePrompt.ipynb
        "published": RingABellNumbers(3.0, 16, 200, 3000, 0.5, 0.25),
        "quick": RingABellNumbers(3.0, 8, 60, 200, 0.5, 0.25),
    }
)


@dataclass(frozen=True)
class RingABellConfig:
    """Ring-A-Bell (Tsai et al. 2024): token ids whose context is that of the prompt plus a concept vector."""

    harmful: Prompts = ()
    """Prompts with the concept; with those of `harmless` they give the concept vector."""
    harmless: Prompts = ()
    """For each of them the same prompt without the concept."""
    preset: AttackPreset = "published"
    """Constants of the search: those of the published notebook, or a short search for a first look."""
    strength: float | None = None
    """Weight eta of the concept vector; empty here and below: the preset's value."""
    length: int | None = None
    """Tokens of an adversarial prompt."""
    population: int | None = None
    """Prompts of the first generation; half of them survive each generation."""
    generations: int | None = None
    """Generations."""
    crossover: float | None = None
    """Probability that a survivor has two children."""
    mutation: float | None = None
    """Probability that one token of a prompt changes; survivors change too."""
    batch: int = 256
    """Texts per call of the text encoder, on each device."""
    seed: int = 0
    """Random seed; generation t of a prompt depends only on (seed, seed of the prompt, t)."""
    save_every: int = 50
    """Generations between checkpoints."""
    log_every: int = 10
    """Generations between lines of the log."""

    def __post_init__(self) -> None:
        paired = len(self.harmful) == len(self.harmless)
        check(self, "harmless", paired, "as many prompts as in harmful")
        check_min(self, 1, "length", "generations", "batch", "save_every", "log_every")
        check_min(self, 2, "population")
        check(self, "population", self.numbers.population % 2 == 0, "an even number")
        check_min(self, 0, "strength", "crossover", "mutation")
        for name in ("crossover", "mutation"):
            check(self, name, (getattr(self, name) or 0) <= 1, "0 to 1")
        check_seed(self)

    @property
    def numbers(self) -> RingABellNumbers:
        """The constants of the preset, with those that are given in their place."""
        return _replaced(RING_A_BELL[self.preset], self)

    @property
    def steps(self) -> int:
        """Generations."""
        return self.numbers.generations


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
class UnlearnDiffConfig:
    """UnlearnDiffAtk (Zhang et al. 2024), also through the target's guard and its negative."""

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
    seed: int = 0
    """Random seed; step t of a prompt depends only on (seed, seed of the prompt, t)."""
    save_every: int = 40
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between lines of the log."""

    def __post_init__(self) -> None:
        check_min(self, 1, "tokens", "timesteps", "iterations", "save_every", "log_every")
        check_min(self, 0, "learning_rate", exclusive=True)
        check_min(self, 0, "weight_decay", "base_guidance")
        check(self, "words", not self.words or self.knows == "guard", "empty unless knows is guard")
        check_seed(self)

    @property
    def numbers(self) -> UnlearnDiffNumbers:
        """The constants of the preset, with those that are given in their place."""
        return _replaced(UNLEARNDIFF[self.preset], self)

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.numbers.timesteps * self.numbers.iterations


AttackSettings: TypeAlias = RingABellConfig | UnlearnDiffConfig


@dataclass(frozen=True)
class AttackConfig(UnlearnedModel):
    """`ine attack`: search prompts that make a guarded model generate a concept."""

    model: str = "tiny-unlearned-0"
    """Bundled model, folder, or hub id."""
    method: Literal["", "ring-a-bell", "unlearndiff"] = ""
    """The attack; empty: as the command names it."""
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    negative: NegativeConfig = field(default_factory=NegativeConfig)
    prompts: PromptsConfig = field(default_factory=lambda: PromptsConfig("explicit"))
    """Prompts that ask for the concept; each becomes one adversarial prompt."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    detectors: tuple[DetectorConfig, ...] = (DetectorConfig(),)
    """Detectors that score the images of adversarial prompts; the first decides on success. None: no images."""
    out: str = "runs/attack"
    """Run directory: prompts.jsonl, scores, checkpoints, log."""
    ring_a_bell: RingABellConfig = field(default_factory=RingABellConfig)
    unlearndiff: UnlearnDiffConfig = field(default_factory=UnlearnDiffConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "out", bool(self.out), "a directory")
        for name in get_args(AttackMethod) if self.method else ():
            record = getattr(self, _field(name))
            if name != self.method and record != type(record)():
                given = f"settings of {name} with method {self.method}"
                raise InputError(given, f"settings of {self.method}", "change method, or leave them out")

    @property
    def settings(self) -> AttackSettings:
        """Those of the method."""
        check(self, "method", bool(self.method), ", ".join(get_args(AttackMethod)))
        found: AttackSettings = getattr(self, _field(self.method))
        return found


def _replaced(usual: N, config: object) -> N:
    """The constants of a preset, with those that a config gives in their place."""
    names = [each.name for each in dataclasses.fields(usual)]
    given = {name: value for name in names if (value := getattr(config, name)) is not None}
    return dataclasses.replace(usual, **given)


def _field(method: str) -> str:
    return method.replace("-", "_")
