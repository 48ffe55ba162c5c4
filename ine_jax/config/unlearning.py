"""Settings of the unlearning methods, one record each."""

from dataclasses import dataclass
from typing import Literal

from ine_jax.config.checks import check, check_min, check_seed
from ine_jax.config.methods import Prompts

UnlearnMethod = Literal["esd", "uce", "rece", "duo", "spm", "mace", "stereo", "advunlearn"]
EsdMethod = Literal["esd-x-strict", "esd-x", "esd-u", "esd-all"]
UceTokens = Literal["last", "from-last"]
UceExpansion = Literal["none", "object", "art"]


@dataclass(frozen=True)
class EsdConfig:
    """Erased Stable Diffusion (ESD, Gandikota et al. 2023), with a preservation term of this project."""

    erase: Prompts = ()
    """Prompts of the concept to erase."""
    erase_from: Prompts = ()
    """For each erased prompt the prompt that replaces it, such as "a cat" for "a cat and a knife"; empty: no prompt."""
    preserve: Prompts = ()
    """Prompts on which the original model's prediction is preserved."""
    prompts_file: str = ""
    """JSONL file of all these prompts, in place of them: rows {"erase": ..., "from": ...} and {"preserve": ...}."""
    method: EsdMethod = "esd-x-strict"
    """Trained layers: cross-attention keys and values (esd-x-strict), cross-attention (-x), other layers (-u), all."""
    eta: float = 1.0
    """Negative guidance scale eta of the training target."""
    steps: int = 110
    """Optimizer steps."""
    learning_rate: float = 4e-4
    """Learning rate of Adam."""
    batch: int = 16
    """Prompts to erase per step."""
    preserve_weight: float = 0.0
    """Weight of the preservation term, an addition of this project; 0 is ESD as published."""
    preserve_batch: int = 16
    """Prompts to preserve per step, always including the empty one."""
    pool: int = 128
    """Number of sampling trajectories of the original model, computed once, from which x_t is taken."""
    warmup: int = 0
    """Steps of linear warm-up of the learning rate."""
    tail: float = 0.0
    """Final fraction of the steps, at 0.3 of the learning rate."""
    start_guidance: float = 3.0
    """Guidance scale of these trajectories."""
    guidance_spread: float = 0.0
    """Spread the guidance scales evenly over start_guidance +- this; negative scales follow the edited model."""
    ddim_steps: int = 25
    """DDIM steps of these trajectories."""
    seed: int = 0
    """Random seed; step t depends only on (seed, t)."""
    save_every: int = 25
    """Steps between checkpoints."""
    log_every: int = 5
    """Steps between lines of the loss log."""

    def __post_init__(self) -> None:
        check_min(self, 1, "steps", "batch", "preserve_batch", "pool", "ddim_steps", "save_every", "log_every")
        check_min(self, 0, "learning_rate", exclusive=True)
        check_min(self, 0, "eta", "preserve_weight", "start_guidance", "warmup", "tail")
        check_seed(self)
        check(self, "tail", self.tail <= 1, "0 to 1")
        paired = len(self.erase_from) in (0, len(self.erase))
        check(self, "erase_from", paired, "as many prompts as in erase, or empty")
        inline = bool(self.erase or self.erase_from or self.preserve)
        alone = not (self.prompts_file and inline)
        check(self, "prompts_file", alone, "empty where erase, erase_from or preserve is given")
        kept = self.preserve_weight == 0 or bool(self.preserve or self.prompts_file)
        check(self, "preserve", kept, "at least one prompt when preserve_weight is not 0")


@dataclass(frozen=True)
class UceConfig:
    """Unified Concept Editing (UCE, Gandikota et al. 2024): keys and values in closed form."""

    erase: Prompts = ()
    """Concepts to erase."""
    guide: Prompts = ("",)
    """What each of them becomes; one for all, or one each. Published: "" for objects, "art" for styles."""
    preserve: Prompts = ()
    """Concepts whose keys and values are preserved."""
    erase_scale: float = 1.0
    """Weight of each concept to erase."""
    preserve_scale: float = 1.0
    """Weight of each concept to preserve."""
    regularizer: float = 0.5
    """Lambda, the weight of the original keys and values of everything else; the older published code: 0.1."""
    tokens: UceTokens = "last"
    """Positions that are edited: the last token of a concept, or all from there to the end (the older code)."""
    expand: UceExpansion = "none"
    """Also edit five published phrases around each concept: of objects ("photo of ...") or of artists."""

    def __post_init__(self) -> None:
        check_concepts(self, self.erase, self.guide)
        check_min(self, 0, "erase_scale", "regularizer", exclusive=True)
        check_min(self, 0, "preserve_scale")

    @property
    def steps(self) -> int:
        """One."""
        return 1


@dataclass(frozen=True)
class ReceConfig:
    """Reliable and Efficient Concept Erasure (RECE, Gong et al. 2024): UCE, then what inversion still finds, again."""

    erase: Prompts = ()
    """Concepts to erase."""
    guide: Prompts = (" ",)
    """What each of them becomes; one for all, or one each."""
    preserve: Prompts = (" ",)
    """Texts whose keys and values are preserved."""
    epochs: int = 3
    """Rounds after UCE's; published: 3 (nudity), 2 (unsafe concepts), 1 (styles, objects)."""
    inversion_regularizer: float = 0.1
    """Lambda of the inversion; published: 0.1 (nudity, unsafe concepts, easy objects), 0.001 (styles, hard objects)."""
    erase_scale: float = 1.0
    """Weight of each found context."""
    preserve_scale: float = 0.1
    """Weight of each text to preserve."""
    regularizer: float = 0.1
    """Lambda of the edits, the weight of the keys and values of everything else."""

    def __post_init__(self) -> None:
        check_concepts(self, self.erase, self.guide)
        check_min(self, 0, "epochs")
        check_min(self, 0, "erase_scale", "regularizer", exclusive=True)
        check_min(self, 0, "preserve_scale", "inversion_regularizer")

    @property
    def steps(self) -> int:
        """UCE and the rounds after it."""
        return 1 + self.epochs


def check_concepts(config: object, erase: Prompts, guide: Prompts) -> None:
    """Raise InputError for an empty concept, and for guides that are neither one nor as many as the concepts."""
    check(config, "erase", all(text.strip() for text in erase), "concepts that are not empty")
    check(config, "guide", len(guide) in (1, len(erase)), "one text, or as many as in erase")
