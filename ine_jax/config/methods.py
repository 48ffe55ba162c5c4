"""Settings of the methods themselves: sampling, inversion, unlearning."""

from dataclasses import dataclass
from typing import Literal

from ine_jax.config.checks import check, check_min, check_seed

Space = Literal["token", "context"]
InversionMethod = Literal["inversion", "rece"]
Scheduler = Literal["ddim", "dpm++", "pndm", "euler"]
EsdMethod = Literal["esd-x-strict", "esd-x", "esd-u", "esd-all"]
UnetImpl = Literal["native", "diffusers"]
NoiseMode = Literal["jax", "torch-cpu", "torch-cuda"]
Prompts = tuple[str, ...]


@dataclass(frozen=True)
class SamplerConfig:
    """How latents become images."""

    scheduler: Scheduler | None = None
    """Sampling method; empty means the one named in the model's folder."""
    steps: int = 25
    """Denoising steps."""
    height: int | None = None
    """Pixels; empty means the model's own size."""
    width: int | None = None
    """Pixels; empty means the model's own size."""
    batch: int = 32
    """Images per call; does not change any image."""
    unet_impl: UnetImpl = "native"
    """native, or diffusers: its 0.39 Flax UNet on the same weights, as a check (needs the extra `diffusers`)."""
    noise: NoiseMode = "jax"
    """What a seed means: JAX's own numbers, or those of torch.randn on the CPU or on CUDA (published seeds)."""
    latents: str = ""
    """File of initial noise in place of the seeds: .npy or .safetensors, [N, c, h, w] or [N, h, w, c], item by item."""

    def __post_init__(self) -> None:
        check_min(self, 1, "steps", "batch")
        for name in ("height", "width"):
            value = getattr(self, name)
            check(self, name, value is None or (8 <= value <= 4096 and value % 8 == 0), "8 to 4096, divisible by 8")
        known = not self.latents or self.latents.endswith((".npy", ".safetensors"))
        check(self, "latents", known, "a .npy or .safetensors file")
        check(self, "latents", not self.latents or self.noise == "jax", f"none with noise {self.noise}")


@dataclass(frozen=True)
class InversionConfig:
    """Textual inversion (Gal et al. 2022) against a frozen model; the defaults suit the bundled world."""

    concept: str = "concept"
    """Name of the concept; the learned token is written <name>."""
    method: InversionMethod = "inversion"
    """inversion: learned from images; rece: the closed form of RECE (Gong et al. 2024), no images, in context space."""
    space: Space = "token"
    """token: vectors for the text encoder's table; context: the encoder's output itself."""
    vectors: int = 1
    """Learned vectors k (token space)."""
    steps: int = 300
    """Optimizer steps."""
    batch: int = 16
    """Images per step."""
    learning_rate: float = 1e-2
    """Adam step size, constant."""
    init: str = "a"
    """Start: a word of the vocabulary, `mean` for the table's mean, `rece` for its closed form (token: the nearest)."""
    words: str = ""
    """What the concept is called in words, for RECE; empty means its name."""
    regularizer: float = 0.1
    """RECE's lambda; published: 0.1 (nudity, unsafe concepts, easy objects), 0.001 (styles, hard objects)."""
    templates: str | Prompts = "object"
    """`object`, `bare`, or sentences that hold {}."""
    norm: float | None = None
    """Keep the vectors at this norm; empty leaves them free."""
    seed: int = 0
    """Batch t depends on (seed, t) alone."""
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
    """Erased Stable Diffusion (Gandikota et al. 2023), with a preservation term of this project."""

    erase: Prompts = ()
    """Prompts whose concept is erased."""
    erase_from: Prompts = ()
    """For each erased prompt the one that it falls back to ("a cat" for "a cat and a knife"); none: the empty one."""
    preserve: Prompts = ()
    """Prompts whose prediction is held to the original model's."""
    prompts_file: str = ""
    """JSONL file with all of these prompts instead: rows {"erase": ..., "from": ...} and {"preserve": ...}."""
    method: EsdMethod = "esd-x-strict"
    """Trained layers: cross-attention keys and values (-x-strict), all cross-attention (-x), the others (-u), all."""
    eta: float = 1.0
    """Negative guidance eta of the erasure target."""
    steps: int = 110
    """Optimizer steps."""
    learning_rate: float = 4e-4
    """Adam step size."""
    batch: int = 16
    """Erased prompts per step."""
    preserve_weight: float = 0.0
    """Weight of the benign preservation term, an addition of this project; 0 is ESD as published."""
    preserve_batch: int = 16
    """Preserved prompts per step, the empty one always among them."""
    pool: int = 128
    """Trajectories of the original model, made once, on whose steps x_t is drawn."""
    warmup: int = 0
    """Steps over which the rate rises from 0."""
    tail: float = 0.0
    """Share of the steps, the last ones, taken at 0.3 of the rate."""
    start_guidance: float = 3.0
    """Guidance scale of the trajectories on which x_t is drawn."""
    guidance_spread: float = 0.0
    """Their scales spread evenly over start_guidance +- this; below 0 they go where the edited model will."""
    ddim_steps: int = 25
    """Steps of those trajectories."""
    seed: int = 0
    """Step t depends on (seed, t) alone."""
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
        check(self, "erase_from", paired, "as many prompts as in erase, or none")
        inline = bool(self.erase or self.erase_from or self.preserve)
        check(self, "prompts_file", not (self.prompts_file and inline), "none beside erase, erase_from and preserve")
        kept = self.preserve_weight == 0 or bool(self.preserve or self.prompts_file)
        check(self, "preserve", kept, "at least one prompt when preserve_weight is not 0")
