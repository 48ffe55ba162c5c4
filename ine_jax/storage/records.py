"""The records in a run directory, as JSON gives them; docs/formats.md explains every field.

They are typed dictionaries, used as they are read: a reader checks the file's sha256 and, with `schema`, every field.
"""

from typing import Annotated, Literal, NotRequired, Required, TypedDict

from ine_jax.storage.schema import Bounds

Measure = Literal["defended", "kept", "drawn", "prior"]
Role = Literal["main", "control"]
NegativeKind = Literal["none", "explicit", "implicit", "blend"]
Count = Annotated[int, Bounds(0, 10_000_000)]  # items, blocks, cells; a prompt file has at most a million rows
Side = Annotated[int, Bounds(1, 65_536)]  # pixels
Settings = dict[str, object]  # the constants of one guard method


class GuidanceSpec(TypedDict):
    """What decides the guard of a cell; the settings of its method are under the method's name."""

    method: str
    inner: str | None
    scale: float
    negative_scale: float | None
    interval: list[float]
    gate: NotRequired[Settings]
    sld: NotRequired[Settings]
    safree: NotRequired[Settings]
    dng: NotRequired[Settings]
    safe_denoiser: NotRequired[Settings]


class CellSpec(TypedDict):
    """One cell of the grid: a model, a guard, what it avoids, and how many items of each prompt set."""

    model: str
    guard: str
    role: Role
    lists: dict[str, Count]
    guidance: GuidanceSpec
    negative: NegativeKind
    negative_name: str
    words: list[str]
    embeddings: list[str]
    template: str
    blend: float | None
    embedding_from: str
    embedding_seed: int | None


class ListEntry(TypedDict):
    """One prompt set of a run: its number of items, what is counted on it, and a hash of its items."""

    n: Count
    measure: Measure
    sha256: str


class SamplerSpec(TypedDict):
    """The sampler that all cells share; None is the model's own value."""

    steps: int
    scheduler: str | None
    height: int | None
    width: int | None
    batch: NotRequired[int]
    unet_impl: NotRequired[str]
    noise: NotRequired[str]
    latents: NotRequired[str]


class RunConfig(TypedDict):
    """The config that a run directory is bound to; `detector` (`<id>@<version>`) fills the tables of its report."""

    detector: NotRequired[str]
    cells: list[CellSpec]
    lists: dict[str, ListEntry]
    sampler: SamplerSpec
    block: Annotated[int, Bounds(1, 2**31)]
    blocks: Count


class RunHashes(TypedDict):
    """Hashes of the model files: model label -> file -> sha256."""

    models: dict[str, dict[str, str]]


class Binding(TypedDict):
    """What the blocks of a run follow from."""

    config: RunConfig
    hashes: RunHashes


class Stage(Binding):
    """What a run was started or extended with, and by what."""

    versions: dict[str, str]
    commit: str | None
    command: list[str]


class RunRecord(Stage):
    """run.json without its own sha256; `earlier` are the stages before the run was extended, the first one first."""

    schema: int
    readings: NotRequired[dict[str, dict[str, object]]]
    earlier: NotRequired[list[Stage]]


class ItemRecord(TypedDict):
    """One prompt of a set; optional fields are there where the set gives them."""

    id: str
    prompt: str
    seed: Annotated[int, Bounds(0, 2**32 - 1)]
    objects: list[str]
    categories: NotRequired[list[str]]
    guidance: NotRequired[float]
    height: NotRequired[Side]
    width: NotRequired[Side]


class NewRow(ItemRecord):
    """A row of rows.jsonl before its image has a file name."""

    cell: Count
    list: str
    identity: str
    truncated: NotRequired[bool]
    degenerate: NotRequired[str]


class Row(NewRow):
    """One line of rows.jsonl: an item, its image, and the run (by content id) and block that it belongs to."""

    file_name: str
    run: NotRequired[str]
    block: NotRequired[Count]


Box = TypedDict("Box", {"class": str, "label": str, "score": float, "box": list[float]}, total=False)
"""One detection: class or label, score, and [x, y, width, height] in pixels."""


class ScoredLine(TypedDict):
    """Raw scores of one image."""

    id: str
    status: Literal["scored"]
    labels: dict[str, float]
    boxes: list[Box]


class UnscoredLine(TypedDict):
    """An image without a verdict, and why."""

    id: str
    status: Literal["unscored"]
    reason: str


VerdictLine = ScoredLine | UnscoredLine  # one line of scores/<scorer>/<block>.jsonl


class ScorerFacts(TypedDict, total=False):
    """What the scores of a detector or metric depend on. `features` is the length of a metric's vectors."""

    kind: Literal["detector", "metric"]
    groups: dict[str, list[str]]
    features: int
    form: str
    model: str
    revision: str | None
    network: str
    resize: str
    preservation: str
    preprocessing: str | dict[str, object]
    prompts: str
    weights: str | dict[str, str]
    weights_sha256: str
    files: dict[str, str]
    w: float


class About(ScorerFacts):
    """A detector's or metric's own description."""

    labels: list[str]


class ScorerRecord(About, total=False):
    """detector.json without its own sha256. `reference` is the model whose images a metric compares with."""

    id: Required[str]
    version: Required[str]
    reference: str
    interval: str


class LogLine(TypedDict):
    """One line of log.jsonl, which has further numbers; null where one was not finite."""

    step: Count
    loss: NotRequired[float | None]


class TimingEntry(TypedDict):
    """One line of timing.jsonl: seconds that the images of a block took."""

    block: Count
    cell: Count
    images: Count
    seconds: Annotated[float, Bounds(0, 1e12)]


class ReceiptRecord(TypedDict):
    """done.json of a demo's inversion, without its own sha256: hash of what it was made from, its file and its hash."""

    key: str
    file: str
    embedding: str


class ScoredNote(TypedDict):
    """The hidden note on what is scored, without its own sha256."""

    scorers: list[str]
    inputs: str
