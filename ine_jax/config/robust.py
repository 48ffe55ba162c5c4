"""Settings of the unlearning methods that train against an attack on the model that they make."""

from dataclasses import dataclass
from typing import Literal

from ine_jax.config.checks import check, check_min, check_seed, check_template
from ine_jax.config.methods import Prompts
from ine_jax.config.unlearning import EsdMethod

AdvAttack = Literal["pgd", "fast-at"]


@dataclass(frozen=True)
class StereoConfig:
    """STEREO (Srivatsan et al. 2025): find what inversion still recovers, round by round, then erase all of it once."""

    erase: Prompts = ()
    """Prompts of the concept to erase."""
    anchors: Prompts = ()
    """Prompts of the concept in scenes that are to stay; the second stage guides towards them."""
    anchors_file: str = ""
    """JSON file of them, in place of `anchors`: {concept: [prompt, ...]}, with the first erased prompt as concept."""
    images: str = ""
    """Folder of images of the concept for the inversions, shared out over the rounds; empty: the bundled images."""
    rounds: int = 2
    """Rounds of erasure and inversion in the first stage."""
    method: EsdMethod = "esd-u"
    """Trained layers, as in `esd`; published: all but the cross-attention (esd-u)."""
    erase_steps: int = 200
    """Optimizer steps of every erasure."""
    search_learning_rate: float = 5e-6
    """Learning rate of Adam in the first stage."""
    search_eta: float = 0.0
    """Negative guidance scale eta of its target; 0: the model's answer to the empty prompt, as published."""
    learning_rate: float = 2e-5
    """Learning rate of Adam in the second stage."""
    scale: float = 2.0
    """Scale s of its target: s - 1 towards the anchor, s + 1 away from the erased contexts."""
    batch: int = 1
    """Prompts to erase per step."""
    template: str = "{}"
    """Prompt of a found embedding."""
    inversion_steps: int = 3000
    """Optimizer steps of every inversion."""
    inversion_learning_rate: float = 5e-3
    """Learning rate of Adam in the inversions."""
    inversion_batch: int = 1
    """Images per step of the inversions."""
    init: str = "a"
    """Start value of the inversions: a word of the vocabulary, or `mean`; published: person, object or art."""
    preserve: Prompts = ()
    """Prompts on which the original model's prediction is preserved in both stages."""
    preserve_weight: float = 0.0
    """Weight of this preservation term, an addition of this project; 0 is STEREO as published."""
    preserve_batch: int = 16
    """Prompts to preserve per step, always including the empty one."""
    tail: float = 0.0
    """Final fraction of the steps of every erasure, at 0.3 of the learning rate."""
    pool: int = 200
    """Number of sampling trajectories of every erasure, from which x_t is taken."""
    start_guidance: float = 3.0
    """Guidance scale of these trajectories."""
    guidance_spread: float = 0.0
    """Spread the guidance scales evenly over start_guidance +- this."""
    ddim_steps: int = 50
    """DDIM steps of these trajectories."""
    seed: int = 0
    """Random seed; step t depends only on (seed, t)."""
    save_every: int = 100
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between lines of the loss logs."""

    def __post_init__(self) -> None:
        check_min(self, 0, "rounds")
        check_min(self, 1, "erase_steps", "batch", "inversion_steps", "inversion_batch", "preserve_batch", "pool")
        check_min(self, 1, "ddim_steps", "save_every", "log_every")
        check_min(self, 0, "search_learning_rate", "learning_rate", "inversion_learning_rate", exclusive=True)
        check_min(self, 0, "search_eta", "scale", "preserve_weight", "start_guidance", "tail")
        check_seed(self)
        check_template(self)
        check(self, "tail", self.tail <= 1, "0 to 1")
        check(self, "erase", all(text.strip() for text in self.erase), "prompts that are not empty")
        check(self, "init", bool(self.init.strip()) and self.init != "rece", "a word of the vocabulary, or `mean`")
        check(self, "anchors_file", not (self.anchors and self.anchors_file), "empty where anchors are given")
        check(self, "preserve", self.preserve_weight == 0 or bool(self.preserve), "at least one prompt")

    @property
    def steps(self) -> int:
        """Those of all erasures and inversions."""
        return self.rounds * (self.erase_steps + self.inversion_steps) + self.erase_steps


@dataclass(frozen=True)
class AdvUnlearnConfig:
    """AdvUnlearn (Zhang et al. 2024): the text encoder is trained, on prompts with an adversarial prefix."""

    erase: Prompts = ()
    """Prompts of the concept to erase."""
    preserve: Prompts = ()
    """Prompts on which the original model's prediction is preserved (the retain set); published: 243 objects."""
    preserve_file: str = ""
    """File of them, in place of `preserve`: .txt, .csv, .jsonl or .parquet (docs/benchmarks.md)."""
    layers: int | None = None
    """Train only so many of the first layers of the encoder; empty: all layers and the final norm, as published."""
    eta: float = 1.0
    """Negative guidance scale eta of the training target, ESD's."""
    steps: int = 1000
    """Optimizer steps."""
    learning_rate: float = 1e-5
    """Learning rate of Adam."""
    batch: int = 1
    """Prompts to erase per step, each with a prefix of its own."""
    preserve_weight: float = 0.3
    """Weight of the preservation term."""
    preserve_batch: int = 5
    """Prompts to preserve per step."""
    attack: AdvAttack = "pgd"
    """Steps of the attack: Adam on the gradient (pgd), or on its sign (fast-at)."""
    attack_start: int = 200
    """Optimizer steps before the first attack; they train on the prompts themselves."""
    attack_steps: int = 30
    """Steps of every attack, of which each optimizer step makes a new one."""
    attack_learning_rate: float = 1e-3
    """Learning rate of Adam in the attack."""
    attack_tokens: int = 1
    """Tokens of the adversarial prefix."""
    pool: int = 200
    """Number of sampling trajectories of the erased prompts, from which x_t is taken."""
    preserve_pool: int = 243
    """Number of those of the preserved prompts."""
    start_guidance: float = 3.0
    """Guidance scale of these trajectories."""
    guidance_spread: float = 0.0
    """Spread the guidance scales evenly over start_guidance +- this."""
    ddim_steps: int = 50
    """DDIM steps of these trajectories."""
    seed: int = 0
    """Random seed; step t depends only on (seed, t)."""
    save_every: int = 100
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between lines of the loss log."""

    def __post_init__(self) -> None:
        check_min(self, 1, "steps", "batch", "preserve_batch", "attack_tokens", "ddim_steps", "save_every", "log_every")
        check_min(self, 1, "layers", "preserve_pool")
        check_min(self, max(1, len(self.erase)), "pool")
        check_min(self, 0, "learning_rate", "attack_learning_rate", exclusive=True)
        check_min(self, 0, "eta", "preserve_weight", "attack_start", "attack_steps", "start_guidance")
        check_seed(self)
        check(self, "erase", all(text.strip() for text in self.erase), "prompts that are not empty")
        check(self, "preserve_file", not (self.preserve and self.preserve_file), "empty where preserve is given")
