"""Settings of sampling, inversion and unlearning."""

from dataclasses import dataclass
from typing import Literal

from ine_jax.config.checks import check, check_min, check_seed

Space = Literal["token", "context"]
InversionMethod = Literal["inversion", "rece"]
Scheduler = Literal["ddim", "dpm++", "pndm", "euler"]
EsdMethod = Literal["esd-x-strict", "esd-x", "esd-u", "esd-all"]
UnetImpl = Literal["native", "diffusers"]
NoiseMode = Literal["jax", "torch-cpu", "torch-cuda"]
LatentsLayout = Literal["NCHW", "NHWC"]
Prompts = tuple[str, ...]


@dataclass(frozen=True)
class SamplerConfig:
    """How images are sampled."""

    scheduler: Scheduler | None = None
    """Sampling method; empty: the one in the model folder."""
    steps: int = 25
    """Denoising steps."""
    height: int | None = None
    """Height in pixels; empty: the model's own size."""
    width: int | None = None
    """Width in pixels; empty: the model's own size."""
    batch: int = 32
    """Images per batch; another number changes images by rounding (docs/scale.md)."""
    unet_impl: UnetImpl = "native"
    """native; or diffusers, its 0.39 Flax UNet on the same weights, as a check (needs the extra `diffusers`)."""
    noise: NoiseMode = "jax"
    """Random generator of the seeds: JAX's, or torch.randn on the CPU or on CUDA (for published seeds)."""
    latents: str = ""
    """File of initial noise in place of seeds, one row per item: .npy or .safetensors."""
    latents_layout: LatentsLayout = "NCHW"
    """Axes of the rows in that file: NCHW (PyTorch's, [N, c, h, w]) or NHWC (JAX's, [N, h, w, c])."""

    def __post_init__(self) -> None:
        check_min(self, 1, "steps", "batch")
        for name in ("height", "width"):
            value = getattr(self, name)
            check(self, name, value is None or (8 <= value <= 4096 and value % 8 == 0), "8 to 4096, divisible by 8")
        known = not self.latents or self.latents.endswith((".npy", ".safetensors"))
        check(self, "latents", known, "a .npy or .safetensors file")
        check(self, "latents", not self.latents or self.noise == "jax", f"empty with noise {self.noise}")


@dataclass(frozen=True)
class InversionConfig:
    """Textual inversion (Gal et al. 2022) on a frozen model; the defaults suit the bundled models."""

    concept: str = "concept"
    """Name of the concept; the learned token is <name>."""
    method: InversionMethod = "inversion"
    """inversion: learn from images; rece: closed form of RECE (Gong et al. 2024), without images, in context space."""
    space: Space = "token"
    """token: input vectors of the text encoder; context: its output."""
    vectors: int = 1
    """Number of learned vectors (token space)."""
    steps: int = 300
    """Optimizer steps."""
    batch: int = 16
    """Images per step."""
    learning_rate: float = 1e-2
    """Constant learning rate of Adam."""
    init: str = "a"
    """Start value: a word of the vocabulary, `mean` (of all words), or `rece` (in token space the nearest word)."""
    words: str = ""
    """The concept in words, for RECE; empty: its name."""
    regularizer: float = 0.1
    """Lambda of RECE; published: 0.1 (nudity, unsafe concepts, easy objects), 0.001 (styles, hard objects)."""
    templates: str | Prompts = "object"
    """Training prompts: `object`, `bare`, or your own sentences with {}."""
    norm: float | None = None
    """Keep the vectors at this norm; empty: free."""
    seed: int = 0
    """Random seed; batch t depends only on (seed, t)."""
    save_every: int = 50
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between lines of the loss log."""

    def __post_init__(self) -> None:
        check(self, "concept", bool(self.concept.strip()), "a name that is not empty")
        check(self, "vectors", 1 <= self.vectors <= 77, "1 to 77")
        check_min(self, 1, "steps", "batch", "save_every", "log_every")
        check_min(self, 0, "learning_rate", "norm", exclusive=True)
        check_min(self, 0, "regularizer")
        check_seed(self)
        check(self, "space", self.method == "inversion" or self.space == "context", "context, where method is rece")
        check(self, "init", bool(self.init.strip()), "a word of the vocabulary, `mean`, or `rece`")
        named = isinstance(self.templates, str)
        known = self.templates in ("object", "bare") if named else all("{}" in t for t in self.templates)
        check(self, "templates", bool(self.templates) and known, "object, bare, or sentences that each hold {}")


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
        check_min(self, 0, "learning_rate", "eta", exclusive=True)
        check_min(self, 0, "preserve_weight", "start_guidance", "warmup", "tail")
        check_seed(self)
        check(self, "tail", self.tail <= 1, "0 to 1")
        paired = len(self.erase_from) in (0, len(self.erase))
        check(self, "erase_from", paired, "as many prompts as in erase, or empty")
        inline = bool(self.erase or self.erase_from or self.preserve)
        alone = not (self.prompts_file and inline)
        check(self, "prompts_file", alone, "empty where erase, erase_from or preserve is given")
        kept = self.preserve_weight == 0 or bool(self.preserve or self.prompts_file)
        check(self, "preserve", kept, "at least one prompt when preserve_weight is not 0")
