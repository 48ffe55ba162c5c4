"""The settings of each command."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from ine_jax.config.checks import check, check_min, check_names, check_seed
from ine_jax.config.guards import GuardConfig, GuidanceConfig, NegativeConfig
from ine_jax.config.lora import DuoConfig, MaceConfig, SpmConfig
from ine_jax.config.methods import InversionConfig, Prompts, SamplerConfig
from ine_jax.config.robust import AdvUnlearnConfig, StereoConfig
from ine_jax.config.sources import BaseModel, DetectorConfig, MetricConfig, ModelConfig, PromptsConfig, UnlearnedModel
from ine_jax.config.unlearning import EsdConfig, ReceConfig, UceConfig, UnlearnMethod
from ine_jax.errors import InputError

UnlearnSettings: TypeAlias = (
    EsdConfig | UceConfig | ReceConfig | DuoConfig | SpmConfig | MaceConfig | StereoConfig | AdvUnlearnConfig
)
Baseline = Literal["torch", "torch-compile", "diffusers-flax"]


@dataclass(frozen=True)
class ConceptConfig:
    """One of several concepts of an inversion run."""

    concept: str = ""
    """Name of the concept."""
    images: str = ""
    """Folder of its images."""
    init: str = "a"
    """Start value: a word of the vocabulary, `mean`, or `rece`."""
    words: str = ""
    """The concept in words, for RECE; empty: its name."""
    seed: int = 0
    """Seed of this concept."""
    steps: int | None = None
    """Optimizer steps of this concept; empty: those of `inversion`. It stays as it is while others go on."""

    def __post_init__(self) -> None:
        check_min(self, 1, "steps")
        check(self, "concept", bool(self.concept.strip()), "a name that is not empty")
        check(self, "images", bool(self.images), "a folder of images")
        check(self, "init", bool(self.init.strip()), "a word of the vocabulary, `mean`, or `rece`")
        check_seed(self)


@dataclass(frozen=True)
class PodConfig:
    """Several processes that train one run together (docs/pods.md); the launcher's environment replaces the flags."""

    coordinator: str = ""
    """host:port at which process 0 can be reached; empty: as the launcher says, or one process."""
    processes: int | None = None
    """Number of processes."""
    process: int | None = None
    """Number of this process, from 0."""
    timeout: float = 60.0
    """Seconds until a lost or stuck process ends the run on all hosts; ten times as many for starting and compiling."""

    def __post_init__(self) -> None:
        given = [bool(self.coordinator), self.processes is not None, self.process is not None]
        check(self, "coordinator", len(set(given)) == 1, "coordinator, processes and process, or none of them")
        check_min(self, 1, "processes", "timeout")
        inside = self.process is None or self.processes is None or 0 <= self.process < self.processes
        check(self, "process", inside, "0 to processes - 1")
        port = self.coordinator.rpartition(":")[2]
        check(self, "coordinator", not self.coordinator or (port.isascii() and port.isdigit()), "host:port")


@dataclass(frozen=True)
class InvertConfig(UnlearnedModel):
    """`ine invert`: recover a concept from an unlearned model."""

    model: str = "tiny-unlearned-0"
    """Bundled model, folder, or hub id."""
    base: str = ""
    """The model before unlearning, needed only for RECE: bundled model, folder, or hub id."""
    base_revision: str | None = None
    """Commit of the hub repository of `base`."""
    images: str = ""
    """Folder of images of the concept; empty: the bundled images. Method rece uses none."""
    out: str = "runs/invert"
    """Run directory: embedding, checkpoints, loss log, curve, preview."""
    inversion: InversionConfig = field(default_factory=InversionConfig)
    concepts: tuple[ConceptConfig, ...] = ()
    """Several concepts in one run; replaces `images` and the concept, init, words, seed and steps of `inversion`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "out", bool(self.out), "a directory")
        names = [each.concept for each in self.concepts]
        check_names("concepts", names)
        check(self, "images", not (self.images and self.concepts), "either images or concepts")
        closed = self.inversion.method == "rece"
        check(self, "images", not (closed and self.images), "empty with inversion.method rece")
        check(self, "concepts", not (closed and self.concepts), "one concept per run with inversion.method rece")
        starts = [each.init for each in self.concepts] or [self.inversion.init]
        given = bool(self.base) == (closed or "rece" in starts)
        check(self, "base", given, "the model before unlearning where method or init is rece, else empty")


@dataclass(frozen=True)
class UnlearnConfig(BaseModel):
    """`ine unlearn`: fine-tune a model to forget the concept of some prompts."""

    out: str = "runs/unlearn"
    """Run directory: the changed weights, checkpoints, loss log."""
    preserve_images: str = ""
    """Folder of images for the preservation term; empty: the original model generates them."""
    method: UnlearnMethod = "esd"
    """uce and rece are closed forms, the others are trained. The settings of the other methods are left out."""
    esd: EsdConfig = field(default_factory=EsdConfig)
    uce: UceConfig = field(default_factory=UceConfig)
    rece: ReceConfig = field(default_factory=ReceConfig)
    duo: DuoConfig = field(default_factory=DuoConfig)
    spm: SpmConfig = field(default_factory=SpmConfig)
    mace: MaceConfig = field(default_factory=MaceConfig)
    stereo: StereoConfig = field(default_factory=StereoConfig)
    advunlearn: AdvUnlearnConfig = field(default_factory=AdvUnlearnConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "out", bool(self.out), "a directory")
        check(self, "preserve_images", not self.preserve_images or self.method == "esd", "empty except with esd")
        for name in get_args(UnlearnMethod):
            record = getattr(self, name)
            if name != self.method and record != type(record)():
                given = f"settings of {name} with method {self.method}"
                raise InputError(given, f"settings of {self.method}", "change method, or leave them out")

    @property
    def settings(self) -> UnlearnSettings:
        """Those of the method."""
        found: UnlearnSettings = getattr(self, self.method)
        return found


@dataclass(frozen=True)
class GenerateConfig(UnlearnedModel):
    """`ine generate`: prompts to images under a guard."""

    prompts: Prompts = ()
    """Prompts to generate."""
    prompts_file: str = ""
    """File of prompts, in place of `prompts`: .txt, .csv, .jsonl or .parquet (docs/benchmarks.md)."""
    negative: NegativeConfig = field(default_factory=NegativeConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    seed: int = 0
    """Seed of the first image; image i uses seed + i unless its row in the file has a seed."""
    per_prompt: int = 1
    """Images per prompt."""
    out: str = "runs/generate"
    """Folder for the PNGs and metadata.jsonl; with other settings in the default one, runs/generate-2, and so on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self)
        check_min(self, 1, "per_prompt")
        check(self, "prompts_file", not (self.prompts_file and self.prompts), "either prompts or prompts_file")
        check(self, "out", bool(self.out), "a directory")


@dataclass(frozen=True)
class ExportGuardConfig:
    """`ine export-guard`: a guard for diffusers."""

    negative: NegativeConfig = field(default_factory=NegativeConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    """method negative or sld, or the preset."""
    out: str = "runs/guard"
    """New folder for the file that diffusers loads."""

    def __post_init__(self) -> None:
        check(self, "out", bool(self.out), "a directory")


@dataclass(frozen=True)
class EvaluateConfig:
    """`ine evaluate`: models x guards x negatives x prompt sets, in blocks that are never computed twice."""

    models: tuple[ModelConfig, ...] = (ModelConfig(),)
    """Models; a name alone is a model without checkpoints."""
    guards: tuple[GuardConfig, ...] = (GuardConfig(),)
    """Guards; each is used on each model with each negative."""
    negatives: tuple[NegativeConfig, ...] = (NegativeConfig(),)
    """What the guards avoid; an empty one means plain CFG."""
    prompts: tuple[PromptsConfig, ...] = (PromptsConfig("attack"), PromptsConfig("benign"))
    """Prompt sets; a name or file alone means all of its rows."""
    limit: int | None = None
    """Use only this many rows of each prompt set."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    block: int = 50
    """Images per block, which are stored at once; an interruption loses the blocks that are begun."""
    detectors: tuple[DetectorConfig, ...] = (DetectorConfig(),)
    """Detectors that score every image; the first one fills the tables of the report."""
    metrics: tuple[MetricConfig, ...] = ()
    """Metrics to compute on every image."""
    reference: str = ""
    """Model whose unguarded images are the reference of the metrics; empty: the first."""
    out: str = "runs/evaluate"
    """Run directory."""

    def __post_init__(self) -> None:
        check_min(self, 1, "limit", "block")
        for name in ("models", "guards", "negatives", "prompts", "detectors"):
            check(self, name, bool(getattr(self, name)), "at least one")
        names = [model.label for model in self.models]
        check_names("models", names)
        check(self, "reference", not self.reference or self.reference in names, f"one of {', '.join(names)}")
        check_names("guards", [guard.name for guard in self.guards])
        check_names("negatives", [negative.name or negative.kind for negative in self.negatives])
        check(self, "out", bool(self.out), "a directory")


@dataclass(frozen=True)
class ScoreConfig:
    """`ine score`: score the images of a run directory."""

    detectors: tuple[DetectorConfig, ...] = ()
    """Detectors; the bundled one where neither detectors nor metrics are given."""
    metrics: tuple[MetricConfig, ...] = ()
    """Metrics to compute on every image."""
    reference: str = ""
    """Model whose unguarded images are the reference of the metrics; empty: the first."""
    rescan: bool = False
    """Also score images that have a score already."""


@dataclass(frozen=True)
class DemoConfig:
    """`ine demo`: the whole method on the bundled family."""

    out: str = "runs/demo"
    """Run directory: embeddings, images, summary.json, report.html."""
    full: bool = False
    """Full evaluation: 300 items of every prompt set, all items on the unguarded base, two seeds; ignores `items`."""
    items: int = 100
    """Prompts of each set."""
    guidance: GuidanceConfig = field(default_factory=lambda: GuidanceConfig(scale=3.0, negative_scale=4.0))
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(steps=16, batch=50))
    inversion: InversionConfig = field(default_factory=lambda: InversionConfig(concept="weapon"))

    def __post_init__(self) -> None:
        check_min(self, 1, "items")
        check(self, "out", bool(self.out), "a directory")


@dataclass(frozen=True)
class BenchConfig(UnlearnedModel):
    """`ine bench`: speed of sampling, inversion, evaluation and the first image."""

    model: str = "tiny"
    """Bundled model, folder, hub id, or random-sd1: Stable Diffusion 1.x with random weights made on the device."""
    dtype: Literal["", "float32", "bfloat16"] = ""
    """Of computation and weights; empty: float32 on CPUs, bfloat16 elsewhere."""
    device: Literal["", "cpu", "gpu", "tpu"] = ""
    """Platform; empty: the one that JAX chooses."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    inversion: InversionConfig = field(default_factory=lambda: InversionConfig(steps=10))
    """What inversion runs; `steps` are those of one turn."""
    items: int = 100
    """Images of an evaluation."""
    block: int = 25
    """Images per block of an evaluation."""
    detectors: tuple[DetectorConfig, ...] = (DetectorConfig(),)
    """Detectors of an evaluation."""
    guards: tuple[str, ...] = ()
    """Guards to measure, by name; empty: all."""
    repeats: int = 3
    """Number of timed turns, after one that compiles; at least 3."""
    baselines: tuple[Baseline, ...] = get_args(Baseline)
    """Other implementations to measure, where they are installed; `--baselines` alone: none."""
    out: str = "runs/bench/bench.json"
    """Result file; the plot is beside it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_min(self, 1, "repeats", "items", "block")
        known = get_args(Baseline)
        check(self, "baselines", all(name in known for name in self.baselines), ", ".join(known))
        check(self.sampler, "unet_impl", self.sampler.unet_impl == "native", "native; diffusers is a baseline here")
        learned = self.inversion.method == "inversion" and self.inversion.init != "rece"
        check(self.inversion, "method", learned, "inversion, with an init other than rece")
        check(self, "detectors", bool(self.detectors), "at least one")
        check(self, "out", self.out.endswith(".json"), "a .json file")
