"""The records in a run directory, as JSON gives them; docs/formats.md explains every field.

They are typed dictionaries, used as they are read: a reader checks the file's sha256, not each field.
"""

from typing import Literal, NotRequired, TypedDict

Measure = Literal["defended", "kept", "drawn", "prior"]
Role = Literal["main", "control"]
NegativeKind = Literal["none", "explicit", "implicit", "blend"]
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
    lists: dict[str, int]
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

    n: int
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
    """The config that a run directory is bound to."""

    cells: list[CellSpec]
    lists: dict[str, ListEntry]
    sampler: SamplerSpec
    block: int
    blocks: int


class RunHashes(TypedDict):
    """Hashes of the model files: model label -> file -> sha256."""

    models: dict[str, dict[str, str]]


class RunRecord(TypedDict):
    """run.json without its own sha256."""

    schema: int
    config: RunConfig
    hashes: RunHashes
    versions: dict[str, str]
    commit: str | None
    command: list[str]
    readings: dict[str, dict[str, object]]


class ItemRecord(TypedDict):
    """One prompt of a set; optional fields are there where the set gives them."""

    id: str
    prompt: str
    seed: int
    objects: list[str]
    categories: NotRequired[list[str]]
    guidance: NotRequired[float]
    height: NotRequired[int]
    width: NotRequired[int]


class NewRow(ItemRecord):
    """A row of rows.jsonl before its image has a file name."""

    cell: int
    list: str
    identity: str
    truncated: NotRequired[bool]


class Row(NewRow):
    """One line of rows.jsonl: an item and its image."""

    file_name: str


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


class About(TypedDict, total=False):
    """A detector's or metric's own description. `features` is the vector length of a metric that stores vectors."""

    kind: Literal["detector", "metric"]
    labels: list[str]
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


class ScorerRecord(About, total=False):
    """detector.json without its own sha256. `reference` is the model whose images a metric compares with."""

    id: str
    version: str
    reference: str
    interval: str


class TimingEntry(TypedDict):
    """One line of timing.jsonl: seconds that the images of a block took."""

    block: int
    cell: int
    images: int
    seconds: float
