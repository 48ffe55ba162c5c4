"""What an evaluation reads: models, prompt lists, detectors, metrics. A bare string gives the first field alone."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ine_jax.config.checks import check, check_min
from ine_jax.storage.records import Measure

Column = Literal["seed", "guidance", "size"]
DetectorKind = Literal["world", "nudenet", "q16", "clip", "vit"]
MetricKind = Literal["lpips", "clip-score", "fid"]


@dataclass(frozen=True)
class ModelConfig:
    """A model, with published checkpoints on top."""

    shorthand: ClassVar[bool] = True

    model: str = "tiny"
    """Bundled model, folder, or hub id."""
    revision: str | None = None
    """Commit of the hub repository."""
    unlearned: tuple[str, ...] = ()
    """Published checkpoints on top, in this order: files, folders, hub ids; a LoRA may be weighted, `file:0.8`."""
    name: str = ""
    """Name in tables; empty means the model's."""

    def __post_init__(self) -> None:
        check(self, "model", bool(self.model), "a bundled model, a folder, or a hub id")
        check(self, "name", not self.unlearned or bool(self.name), "a name of its own, where unlearned is given")

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.name or self.model


@dataclass(frozen=True)
class PromptsConfig:
    """A list of prompts, or a selection from a published one."""

    shorthand: ClassVar[bool] = True

    source: str = "attack"
    """Bundled list, or a .txt, .csv, .jsonl or .parquet file."""
    name: str = ""
    """Name in tables; empty means the file's."""
    select: str = ""
    """Published selection (`ine benchmarks list`); empty means every row."""
    measure: Measure | None = None
    """defended (concept not shown), kept (objects shown), drawn (concept shown), prior (no concept); empty: by name."""
    limit: int | None = None
    """Use only the first rows; empty means those of the whole evaluation."""
    ignore: tuple[Column, ...] = ()
    """What rows say of themselves that is not used: seed, guidance, size."""
    encoding: str = ""
    """Encoding of the file, such as cp949; empty means UTF-8, or what its byte order mark says."""

    def __post_init__(self) -> None:
        check(self, "source", bool(self.source), "a bundled list or a file")
        check_min(self, 1, "limit")


@dataclass(frozen=True)
class DetectorConfig:
    """A detector and its weights."""

    shorthand: ClassVar[bool] = True

    kind: DetectorKind = "world"
    """world (bundled), nudenet (extra `nudenet`), q16, clip (zero-shot for phrases), vit (image classifier)."""
    weights: str = ""
    """Folder, file or hub id; empty means what is bundled or in the package."""
    revision: str | None = None
    """Commit of the hub repository."""
    prompts: str = ""
    """q16: safetensors of its two prompt vectors."""
    phrases: tuple[str, ...] = ()
    """clip: what is looked for, in words."""
    sha256: str = ""
    """nudenet: what its weights file must hash to; empty means any (it is recorded)."""

    def __post_init__(self) -> None:
        kinds = get_args(DetectorKind)
        check(self, "kind", self.kind in kinds, ", ".join(kinds))
        needed = self.kind in ("q16", "clip", "vit")
        check(self, "weights", bool(self.weights) or not needed, f"weights, for {self.kind}")
        check(self, "prompts", bool(self.prompts) == (self.kind == "q16"), "a file for q16, else none")
        check(self, "phrases", bool(self.phrases) == (self.kind == "clip"), "phrases for clip, else none")
        pin = self.kind == "nudenet" and len(self.sha256) == 64
        check(self, "sha256", pin or not self.sha256, "64 hexadecimal digits for nudenet, else none")


@dataclass(frozen=True)
class MetricConfig:
    """A measure of images beside those of the reference model, or beside their prompts."""

    shorthand: ClassVar[bool] = True

    kind: MetricKind = "lpips"
    """lpips (1 - prior preservation), clip-score, fid."""
    weights: str = ""
    """File, folder or hub id."""
    revision: str | None = None
    """Commit of the hub repository."""
    size: int | None = None
    """lpips: side in pixels that images are resized to; empty means their own."""
    images: str = ""
    """fid: folder of real images to compare with; empty means the reference model's images."""

    def __post_init__(self) -> None:
        kinds = get_args(MetricKind)
        check(self, "kind", self.kind in kinds, ", ".join(kinds))
        check(self, "weights", bool(self.weights), "a file, a folder or a hub id")
        check_min(self, 1, "size")
        check(self, "size", self.size is None or self.kind == "lpips", "a number for lpips, else none")
        check(self, "images", not self.images or self.kind == "fid", "a folder for fid, else none")
