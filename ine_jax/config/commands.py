"""What each command is asked to do."""

from dataclasses import dataclass, field

from ine_jax.config.checks import check, check_min, check_seed
from ine_jax.config.guards import GuardConfig, GuidanceConfig, NegativeConfig
from ine_jax.config.methods import EsdConfig, InversionConfig, Prompts, SamplerConfig
from ine_jax.config.sources import DetectorConfig, MetricConfig, ModelConfig, PromptsConfig


@dataclass(frozen=True)
class ConceptConfig:
    """One of several concepts that are inverted together in one run."""

    concept: str = ""
    """Name of the concept."""
    images: str = ""
    """Folder of its images."""
    init: str = "a"
    """Start: a word of the vocabulary, `mean`, or `rece`."""
    words: str = ""
    """What it is called in words, for RECE; empty means its name."""
    seed: int = 0
    """Its own seed."""

    def __post_init__(self) -> None:
        check(self, "concept", bool(self.concept.strip()), "a name that is not empty")
        check(self, "images", bool(self.images), "a folder of images")
        check(self, "init", bool(self.init.strip()), "a word of the vocabulary, `mean`, or `rece`")
        check_seed(self)


@dataclass(frozen=True)
class InvertConfig:
    """`ine invert`: find a concept again in a model, from images of it or by RECE."""

    model: str = "tiny-unlearned-0"
    """Bundled model, folder, or hub id."""
    revision: str | None = None
    """Commit of the hub repository."""
    unlearned: tuple[str, ...] = ()
    """Published checkpoints on top, in this order: files, folders, hub ids; a LoRA may be weighted, `file:0.8`."""
    base: str = ""
    """The original of an unlearned model, given for RECE alone: bundled model, folder, or hub id."""
    base_revision: str | None = None
    """Commit of its hub repository."""
    images: str = ""
    """Folder of images of the concept; empty means the bundled ones, or with method rece none."""
    out: str = "runs/invert"
    """Run directory: embedding, checkpoints, loss log, curve, preview."""
    inversion: InversionConfig = field(default_factory=InversionConfig)
    concepts: tuple[ConceptConfig, ...] = ()
    """Several concepts in one run, in place of `images` and of inversion's concept, init, words and seed."""

    def __post_init__(self) -> None:
        check(self, "model", bool(self.model), "a bundled model, a folder, or a hub id")
        check(self, "out", bool(self.out), "a directory")
        names = [each.concept for each in self.concepts]
        check(self, "concepts", len(set(names)) == len(names), "concepts whose names differ")
        check(self, "images", not (self.images and self.concepts), "either images or concepts")
        closed = self.inversion.method == "rece"
        check(self, "images", not (closed and self.images), "none with inversion.method rece")
        check(self, "concepts", not (closed and self.concepts), "one concept per run with inversion.method rece")
        starts = [each.init for each in self.concepts] or [self.inversion.init]
        needed = closed or "rece" in starts
        check(self, "base", bool(self.base) == needed, "the original model where method or init is rece, else none")


@dataclass(frozen=True)
class UnlearnConfig:
    """`ine unlearn`: fine-tune a model to forget what the erased prompts ask for."""

    model: str = "tiny"
    """Bundled model, folder, or hub id."""
    revision: str | None = None
    """Commit of the hub repository."""
    out: str = "runs/unlearn"
    """Run directory: the changed weights, checkpoints, loss log."""
    preserve_images: str = ""
    """Folder of images for the preservation term; empty means that the model draws them itself."""
    esd: EsdConfig = field(default_factory=EsdConfig)

    def __post_init__(self) -> None:
        check(self, "model", bool(self.model), "a bundled model, a folder, or a hub id")
        check(self, "out", bool(self.out), "a directory")


@dataclass(frozen=True)
class GenerateConfig:
    """`ine generate`: prompts to images under a guard."""

    model: str = "tiny"
    """Bundled model, folder, or hub id."""
    revision: str | None = None
    """Commit of the hub repository."""
    unlearned: tuple[str, ...] = ()
    """Published checkpoints on top, in this order: files, folders, hub ids; a LoRA may be weighted, `file:0.8`."""
    prompts: Prompts = ()
    """Prompts."""
    prompts_file: str = ""
    """File of prompts instead: .txt, .csv, .jsonl or .parquet (docs/benchmarks.md)."""
    negative: NegativeConfig = field(default_factory=NegativeConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    seed: int = 0
    """Seed of the first image; image i uses seed + i unless its row has one."""
    per_prompt: int = 1
    """Images per prompt."""
    out: str = "runs/generate"
    """Folder for the PNGs and metadata.jsonl."""

    def __post_init__(self) -> None:
        check_seed(self)
        check_min(self, 1, "per_prompt")
        check(self, "model", bool(self.model), "a bundled model, a folder, or a hub id")
        check(self, "prompts_file", not (self.prompts_file and self.prompts), "either prompts or prompts_file")
        check(self, "out", bool(self.out), "a directory")


@dataclass(frozen=True)
class EvaluateConfig:
    """`ine evaluate`: models x guards x negatives x prompts, in blocks that are finished once and never redone."""

    models: tuple[ModelConfig, ...] = (ModelConfig(),)
    """Models; a name alone stands for one without checkpoints."""
    guards: tuple[GuardConfig, ...] = (GuardConfig(),)
    """Guards; each is used on each model with each negative."""
    negatives: tuple[NegativeConfig, ...] = (NegativeConfig(),)
    """What is avoided; an empty one means plain CFG."""
    prompts: tuple[PromptsConfig, ...] = (PromptsConfig("attack"), PromptsConfig("benign"))
    """Prompt lists; a name or file alone stands for all of its rows."""
    limit: int | None = None
    """Use only the first rows of each prompt list."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    block: int = 50
    """Items per block, the unit of work that a restart may repeat."""
    detectors: tuple[DetectorConfig, ...] = (DetectorConfig(),)
    """Detectors that judge every image."""
    metrics: tuple[MetricConfig, ...] = ()
    """Metrics of every image."""
    reference: str = ""
    """Model whose unguarded images metrics compare with; empty means the first."""
    out: str = "runs/evaluate"
    """Run directory."""

    def __post_init__(self) -> None:
        check_min(self, 1, "limit", "block")
        for name in ("models", "guards", "negatives", "prompts", "detectors"):
            check(self, name, bool(getattr(self, name)), "at least one")
        names = [model.label for model in self.models]
        check(self, "models", len(set(names)) == len(names), "models whose names differ")
        check(self, "reference", not self.reference or self.reference in names, f"one of {', '.join(names)}")
        names = [guard.name for guard in self.guards]
        check(self, "guards", len(set(names)) == len(names), "guards whose names differ")
        names = [negative.name or negative.kind for negative in self.negatives]
        check(self, "negatives", len(set(names)) == len(names), "negatives whose names differ")
        check(self, "out", bool(self.out), "a directory")


@dataclass(frozen=True)
class ScoreConfig:
    """`ine score`: judge the images of a run directory, without drawing."""

    detectors: tuple[DetectorConfig, ...] = ()
    """Detectors; the bundled one where neither these nor metrics are given."""
    metrics: tuple[MetricConfig, ...] = ()
    """Metrics of every image."""
    reference: str = ""
    """Model whose unguarded images metrics compare with; empty means the first."""
    rescan: bool = False
    """Judge again what is judged already."""


@dataclass(frozen=True)
class DemoConfig:
    """`ine demo`: the whole method on the bundled family."""

    out: str = "runs/demo"
    """Run directory: embedding, images, summary.json, report.html."""
    full: bool = False
    """300 items of every list per cell, and every item there is on the unguarded base; all seeds. Overrides `items`."""
    items: int = 100
    """Items per cell."""
    guidance: GuidanceConfig = field(default_factory=lambda: GuidanceConfig(scale=3.0, negative_scale=4.0))
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(steps=16, batch=50))
    inversion: InversionConfig = field(default_factory=lambda: InversionConfig(concept="weapon"))

    def __post_init__(self) -> None:
        check_min(self, 1, "items")
        check(self, "out", bool(self.out), "a directory")


@dataclass(frozen=True)
class BenchConfig:
    """`ine bench`: sampling throughput of the model beside baselines."""

    model: str = "tiny"
    """Bundled model, folder, or hub id."""
    revision: str | None = None
    """Commit of the hub repository."""
    unlearned: tuple[str, ...] = ()
    """Published checkpoints on top, in this order: files, folders, hub ids; a LoRA may be weighted, `file:0.8`."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    repeats: int = 3
    """Timed runs after the one that compiles."""
    baselines: tuple[str, ...] = ("torch", "diffusers-flax")
    """Other implementations, timed where they are installed."""
    out: str = "runs/bench/bench.json"
    """Result file."""

    def __post_init__(self) -> None:
        check_min(self, 1, "repeats")
        known = all(name in ("torch", "diffusers-flax") for name in self.baselines)
        check(self, "baselines", known, "torch, diffusers-flax")
        check(self.sampler, "unet_impl", self.sampler.unet_impl == "native", "native; diffusers is a baseline here")
        check(self, "out", bool(self.out), "a file")
