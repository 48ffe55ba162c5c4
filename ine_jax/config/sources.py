"""Inputs of an evaluation: models, prompt sets, detectors, metrics. A plain string sets only the first field."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ine_jax.config.checks import check, check_min
from ine_jax.storage.records import Measure

Column = Literal["seed", "guidance", "size"]
DetectorKind = Literal["world", "nudenet", "q16", "clip", "vit"]
MetricKind = Literal["lpips", "clip-score", "fid"]


@dataclass(frozen=True)
class BaseModel:
    """A model as it was published."""

    model: str = "tiny"
    """Bundled model, folder, or hub id."""
    revision: str | None = None
    """Commit of the hub repository."""

    def __post_init__(self) -> None:
        check(self, "model", bool(self.model), "a bundled model, a folder, or a hub id")


@dataclass(frozen=True)
class UnlearnedModel(BaseModel):
    """A model with checkpoints applied."""

    unlearned: tuple[str, ...] = ()
    """Checkpoints to apply, in this order: files, folders or hub ids; `file:0.8` scales a LoRA."""


@dataclass(frozen=True)
class ModelConfig(UnlearnedModel):
    """A model, with checkpoints applied."""

    shorthand: ClassVar[bool] = True

    name: str = ""
    """Name in tables; empty: the name of the model."""
    embedding: str = ""
    """Its own embedding: what `embedding: own` of a negative stands for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "name", not self.unlearned or bool(self.name), "a name, where unlearned is given")

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.name or self.model


@dataclass(frozen=True)
class PromptsConfig:
    """A prompt set, or a selection from a published one."""

    shorthand: ClassVar[bool] = True

    source: str = "attack"
    """Bundled prompt set, or a .txt, .csv, .jsonl or .parquet file."""
    name: str = ""
    """Name in tables; empty: the name of the file."""
    select: str = ""
    """Published selection of rows (`ine benchmarks list`); empty: every row."""
    measure: Measure | None = None
    """defended (concept not shown), kept (objects shown), drawn (concept shown), prior (no concept); empty: by name."""
    limit: int | None = None
    """Use only this many rows; empty: the limit of the whole evaluation."""
    ignore: tuple[Column, ...] = ()
    """Columns of the file that are not used: seed, guidance, size."""
    encoding: str = ""
    """Encoding of the file, such as cp949; empty: the one of its byte order mark, or UTF-8."""

    def __post_init__(self) -> None:
        check(self, "source", bool(self.source), "a bundled prompt set or a file")
        check_min(self, 1, "limit")


@dataclass(frozen=True)
class DetectorConfig:
    """A detector and its weights."""

    shorthand: ClassVar[bool] = True

    kind: DetectorKind = "world"
    """world (bundled), nudenet (extra `nudenet`), q16, clip (zero-shot for phrases), vit (image classifier)."""
    weights: str = ""
    """Folder, file or hub id; empty: the weights that are bundled or installed."""
    revision: str | None = None
    """Commit of the hub repository."""
    prompts: str = ""
    """q16: safetensors file of its two prompt vectors."""
    phrases: tuple[str, ...] = ()
    """clip: the phrases to detect."""
    sha256: str = ""
    """nudenet: required SHA-256 of its weights file; empty: any (the hash is recorded)."""

    def __post_init__(self) -> None:
        kinds = get_args(DetectorKind)
        check(self, "kind", self.kind in kinds, ", ".join(kinds))
        needed = self.kind in ("q16", "clip", "vit")
        check(self, "weights", bool(self.weights) or not needed, f"weights, for {self.kind}")
        check(self, "prompts", bool(self.prompts) == (self.kind == "q16"), "a file for q16, else empty")
        check(self, "phrases", bool(self.phrases) == (self.kind == "clip"), "phrases for clip, else empty")
        pin = self.kind == "nudenet" and len(self.sha256) == 64
        check(self, "sha256", pin or not self.sha256, "64 hexadecimal digits for nudenet, else empty")


@dataclass(frozen=True)
class MetricConfig:
    """A metric of images, against those of the reference model or against their prompts."""

    shorthand: ClassVar[bool] = True

    kind: MetricKind = "lpips"
    """lpips (1 - prior preservation), clip-score or fid."""
    weights: str = ""
    """File, folder or hub id."""
    revision: str | None = None
    """Commit of the hub repository."""
    size: int | None = None
    """lpips: resize images to this side in pixels; empty: no resizing."""
    images: str = ""
    """fid: folder of real images; empty: the images of the reference model."""

    def __post_init__(self) -> None:
        kinds = get_args(MetricKind)
        check(self, "kind", self.kind in kinds, ", ".join(kinds))
        check(self, "weights", bool(self.weights), "a file, a folder or a hub id")
        check_min(self, 1, "size")
        check(self, "size", self.size is None or self.kind == "lpips", "a number for lpips, else empty")
        check(self, "images", not self.images or self.kind == "fid", "a folder for fid, else empty")
