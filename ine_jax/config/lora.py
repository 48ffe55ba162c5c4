"""Settings of the unlearning methods that train low-rank adapters, one record each."""

from dataclasses import dataclass

from ine_jax.config.checks import check, check_min, check_seed
from ine_jax.config.methods import Prompts
from ine_jax.config.sources import DetectorConfig
from ine_jax.config.unlearning import check_concepts


@dataclass(frozen=True)
class DuoConfig:
    """Direct Unlearning Optimization (DUO, Park et al. 2024): preferences between pairs of images, without text."""

    erase: Prompts = ()
    """Prompts of the unsafe images, in turn; not needed where pairs are given."""
    safe: Prompts = ()
    """For each of them the prompt of its safe twin, such as "a dressed woman" for "a naked woman"."""
    unsafe_images: str = ""
    """Folder of unsafe images, in place of generated pairs."""
    safe_images: str = ""
    """Folder of their safe twins, in the same order of names."""
    detectors: tuple[DetectorConfig, ...] = ()
    """Detectors that check both sides of every pair, with their usual presets; empty: no check."""
    pairs: int = 64
    """Pairs to generate; published: 64 (nudity), 32 (each of four kinds of violence)."""
    attempts: int = 8
    """Generations of an image that a detector rejects, after which its pair is dropped."""
    strength: float = 0.75
    """Strength of SDEdit; published: 0.75 (nudity), 0.8 (violence)."""
    guidance: float = 7.5
    """Guidance scale of both sides."""
    sample_steps: int = 50
    """Sampling steps of both sides."""
    beta: float = 500.0
    """Beta, the inverse temperature of the preference: smaller values erase more."""
    rate_at_100: float = 3e-4
    """Learning rate at beta 100; the rate is this times 100 / beta."""
    preserve_at_100: float = 1e6
    """Weight of output preservation at beta 100; the weight is this times beta / 100."""
    rank: int = 32
    """Rank of the adapters."""
    steps: int = 1000
    """Optimizer steps; published: 1000 (nudity), 500 (each kind of violence)."""
    batch: int = 4
    """Pairs per step."""
    min_timestep: int = 0
    """Lowest timestep of the preference."""
    max_timestep: int = 749
    """Highest timestep of the preference."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    clip: float = 1.0
    """Longest gradient."""
    seed: int = 0
    """Random seed; step t depends only on (seed, t)."""
    save_every: int = 100
    """Steps between checkpoints."""
    log_every: int = 5
    """Steps between lines of the loss log."""

    def __post_init__(self) -> None:
        check_min(self, 1, "pairs", "attempts", "sample_steps", "rank", "steps", "batch", "save_every", "log_every")
        check_min(self, 0, "beta", "rate_at_100", "strength", "clip", exclusive=True)
        check_min(self, 0, "preserve_at_100", "weight_decay", "min_timestep", "guidance")
        check_seed(self)
        check(self, "strength", self.strength <= 1, "above 0, to 1")
        check(self, "max_timestep", self.min_timestep <= self.max_timestep, "min_timestep or more")
        check(self, "safe", len(self.safe) == len(self.erase), "as many prompts as in erase")
        both = bool(self.unsafe_images) == bool(self.safe_images)
        check(self, "safe_images", both, "a folder where unsafe_images is given, else empty")
        check(self, "erase", not (self.unsafe_images and self.erase), "prompts or unsafe_images, not both")

    @property
    def learning_rate(self) -> float:
        """Learning rate of AdamW."""
        return self.rate_at_100 * 100 / self.beta

    @property
    def preserve_weight(self) -> float:
        """Weight of output preservation."""
        return self.preserve_at_100 * self.beta / 100


@dataclass(frozen=True)
class SpmConfig:
    """Concept Semi-Permeable Membrane (SPM, Lyu et al. 2024): rank-1 adapters with latent anchoring."""

    erase: Prompts = ()
    """Concepts to erase."""
    guide: Prompts = ("",)
    """What each of them becomes; one for all, or one each."""
    eta: float = 1.0
    """Negative guidance scale eta of the training target."""
    anchor_weight: float = 1000.0
    """Weight of latent anchoring."""
    anchors: int = 4
    """Anchors per row; every second one is the empty prompt, as in the published code."""
    rank: int = 1
    """Rank of the adapters."""
    alpha: float = 1.0
    """Alpha of the adapters: they count alpha / rank times."""
    steps: int = 3000
    """Optimizer steps."""
    learning_rate: float = 1e-4
    """Highest learning rate of AdamW."""
    warmup: int = 500
    """Steps of linear warm-up of the learning rate."""
    cycles: int = 3
    """Half cosines that the learning rate follows after the warm-up."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    batch: int = 1
    """Rows per step."""
    start_guidance: float = 3.0
    """Guidance scale of the trajectories, which the trained model samples."""
    ddim_steps: int = 30
    """DDIM steps of a whole trajectory."""
    seed: int = 0
    """Random seed; step t depends only on (seed, t)."""
    save_every: int = 100
    """Steps between checkpoints."""
    log_every: int = 5
    """Steps between lines of the loss log."""

    def __post_init__(self) -> None:
        check_concepts(self, self.erase, self.guide)
        check_min(self, 1, "anchors", "rank", "steps", "cycles", "batch", "save_every", "log_every")
        check_min(self, 2, "ddim_steps")
        check_min(self, 0, "eta", "alpha", "learning_rate", exclusive=True)
        check_min(self, 0, "anchor_weight", "warmup", "weight_decay", "start_guidance")
        check_seed(self)


@dataclass(frozen=True)
class MaceConfig:
    """Mass Concept Erasure (MACE, Lu et al. 2024): closed forms around adapters that suppress attention."""

    erase: Prompts = ()
    """Concepts to erase."""
    guide: Prompts = ("",)
    """What each of them becomes; one for all, or one each. Published for nudity: "a person wearing clothes"."""
    preserve: Prompts = ()
    """Texts whose keys and values are preserved; published: the captions of COCO."""
    preserve_scale: float = 0.1
    """Weight of each text to preserve; published with all captions of COCO: 7e-7 (nudity)."""
    regularizer: float = 1.0
    """Lambda of the closed forms; published: 0 (nudity, with COCO), 1000 (objects)."""
    images: str = ""
    """Folder with a folder of images for each concept; empty: the model generates them."""
    masks: str = ""
    """Folder with a folder of masks for each concept, white on it; empty: what differs from the background."""
    images_each: int = 8
    """Images of each concept."""
    guidance: float = 7.5
    """Guidance scale of generated images."""
    sample_steps: int = 50
    """Sampling steps of generated images."""
    rank: int = 1
    """Rank of the adapters."""
    steps: int = 120
    """Optimizer steps of each concept; published: 120 (nudity), 50 (objects)."""
    learning_rate: float = 1e-5
    """Learning rate of AdamW."""
    importance_sampling: bool = False
    """Choose timesteps around 300 more often; published: on for objects, off for nudity."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    clip: float = 1.0
    """Longest gradient of a concept."""
    seed: int = 0
    """Random seed; step t depends only on (seed, t)."""
    save_every: int = 40
    """Steps between checkpoints."""
    log_every: int = 5
    """Steps between lines of the loss log."""

    def __post_init__(self) -> None:
        check_concepts(self, self.erase, self.guide)
        check_min(self, 1, "images_each", "sample_steps", "rank", "steps", "save_every", "log_every")
        check_min(self, 0, "learning_rate", "clip", "regularizer", exclusive=True)
        check_min(self, 0, "preserve_scale", "guidance", "weight_decay")
        check(self, "masks", not self.masks or bool(self.images), "empty where images are generated")
        check_seed(self)
