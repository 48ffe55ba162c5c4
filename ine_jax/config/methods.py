"""Settings of sampling and inversion."""

from dataclasses import dataclass
from typing import Literal

from ine_jax.config.checks import check, check_min, check_seed

Space = Literal["token", "context"]
InversionMethod = Literal["inversion", "rece"]
Scheduler = Literal["ddim", "dpm++", "pndm", "euler"]
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
