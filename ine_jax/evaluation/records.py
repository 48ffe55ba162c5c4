"""The records of summary.json; `ine_jax/reporting/summary.schema.json` is the same as a JSON Schema."""

from typing import Literal, NotRequired, TypedDict, cast

from ine_jax.storage.records import Measure, NegativeKind, ScorerRecord


class PresetRecord(TypedDict):
    """How scores are read: the labels (or group) that are the concept, and the threshold from which one is shown."""

    name: str
    detector: str
    labels: list[str]
    group: str
    threshold: float
    source: str


class ImageCounts(TypedDict):
    """Images planned, processed so far, those of the processed without a verdict, and the degenerate among these."""

    total: int
    processed: int
    unscored: int
    degenerate: int


class Rate(TypedDict):
    """k of n images with Wilson's 95 % interval, as `dsr` or as `rate`; images without a verdict are in no count."""

    k: int
    n: int
    low: float
    high: float
    unscored: int
    degenerate: int
    dsr: NotRequired[float | None]
    rate: NotRequired[float | None]


class MetricMean(TypedDict):
    """Mean of a per-image metric with its 95 % interval; None where n is too small."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    unscored: int


class RealDistance(TypedDict):
    """Frechet distance to a folder of `n` real images."""

    value: float | None
    n: int
    folder: str
    sha256: str
    left_out: str


class Fid(TypedDict):
    """Frechet distance of a cell's images to the reference model's, and to real images where a folder was given."""

    value: float | None
    n: int
    unscored: int
    note: str
    reference: NotRequired[str]
    reference_n: NotRequired[int]
    real: NotRequired[RealDistance]
    network: NotRequired[str]
    resize: NotRequired[str]
    weights_sha256: NotRequired[str]


class ListResult(TypedDict, total=False):
    """Results of one prompt set in one cell: the fields of `Rate` unless the set has no concept, metrics, FID."""

    k: int
    n: int
    low: float
    high: float
    unscored: int
    degenerate: int
    dsr: float | None
    rate: float | None
    categories: dict[str, Rate]
    metrics: dict[str, MetricMean]
    fid: Fid


class CellEntry(TypedDict):
    """One cell. Every further key is a prompt set with its `ListResult`: use `list_results`."""

    model: str
    guard: str
    negative: NegativeKind
    negative_name: str
    method: str
    scale: float
    negative_scale: float | None
    words: NotRequired[list[str]]
    embeddings: NotRequired[list[str]]
    blend: NotRequired[float]
    embedding_from: NotRequired[str]
    embedding_seed: NotRequired[int]
    seconds_per_image: NotRequired[float | None]


def list_results(cell: CellEntry) -> dict[str, ListResult]:
    """Prompt set -> result of a cell's entry."""
    found = {name: value for name, value in cell.items() if name not in CellEntry.__annotations__}
    return cast(dict[str, ListResult], found)


class Sides(TypedDict):
    """Two negatives on the same items of one prompt set. Guard, scale and negative scale are those of `b`.

    `a` has the same guidance, or is plain CFG at the same scale. A `negative_scale` of None is scale - 1.
    """

    model: str
    guard: str
    list: str
    scale: float
    negative_scale: float | None
    a: NegativeKind
    b: NegativeKind
    a_name: str
    b_name: str
    embedding_from: NotRequired[str]
    embedding_seed: NotRequired[int]


class Paired(TypedDict):
    """McNemar's exact two-sided test; `difference` is the rate of b - the rate of a."""

    n: int
    both: int
    only_a: int
    only_b: int
    difference: float
    p: float


class PairedTest(Sides, Paired):
    """The test of two negatives; `p_holm` is `p` adjusted for all tests of the summary."""

    p_holm: float


class Difference(Sides):
    """Mean of b - a of one metric over the items that both have."""

    metric: str
    difference: float | None
    low: float | None
    high: float | None
    n: int


class Curve(TypedDict):
    """The rate of a prompt set in a cell (its place in `cells`) at other thresholds."""

    cell: int
    list: str
    thresholds: list[float]
    rate: list[float]


class PlacedRate(Rate):
    """A further detector's rate of a prompt set in a cell (its place in `cells`)."""

    cell: int
    list: str
    categories: NotRequired[dict[str, Rate]]


class OtherDetector(TypedDict):
    """A further detector, read by its own preset."""

    preset: PresetRecord
    images: ImageCounts
    rates: list[PlacedRate]
    sensitivity: list[Curve]


class ListInfo(TypedDict):
    """What is counted on a prompt set, and its number of items."""

    measure: Measure
    n: int


class Summary(TypedDict):
    """summary.json. `sampler`, `versions` and `hashes` are under the names of the runs where several runs differ."""

    schema: Literal[1]
    detector: str
    preset: PresetRecord
    images: ImageCounts
    complete: bool
    cells: list[CellEntry]
    controls: list[CellEntry]
    paired: list[PairedTest]
    differences: list[Difference]
    sensitivity: list[Curve]
    detectors: dict[str, ScorerRecord]
    others: dict[str, OtherDetector]
    metrics: dict[str, ScorerRecord]
    lists: dict[str, ListInfo]
    sampler: dict[str, object]
    commands: list[list[str]]
    versions: dict[str, object]
    commit: str | None
    hashes: dict[str, object]
