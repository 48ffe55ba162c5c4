"""Settings of the attacks: those that need no gradient, and the record of the command."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from ine_jax.config.checks import check, check_min, check_seed
from ine_jax.config.guards import GuidanceConfig, NegativeConfig
from ine_jax.config.methods import Prompts, SamplerConfig
from ine_jax.config.presets import AttackPreset, replaced
from ine_jax.config.sources import DetectorConfig, PromptsConfig, UnlearnedModel
from ine_jax.config.white_box import P4DConfig, UnlearnDiffConfig
from ine_jax.errors import InputError

AttackMethod = Literal["ring-a-bell", "unlearndiff", "p4d"]


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
        return replaced(RING_A_BELL[self.preset], self)

    @property
    def steps(self) -> int:
        """Generations."""
        return self.numbers.generations


AttackSettings: TypeAlias = RingABellConfig | UnlearnDiffConfig | P4DConfig


@dataclass(frozen=True)
class AttackConfig(UnlearnedModel):
    """`ine attack`: search prompts that make a guarded model generate a concept."""

    model: str = "tiny-unlearned-0"
    """Bundled model, folder, or hub id."""
    method: Literal["", "ring-a-bell", "unlearndiff", "p4d"] = ""
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
    p4d: P4DConfig = field(default_factory=P4DConfig)

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


def _field(method: str) -> str:
    return method.replace("-", "_")
