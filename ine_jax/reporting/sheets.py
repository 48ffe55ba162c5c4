"""The items that the page shows: the first of each prompt set, with image, scores and detections in every main cell."""

import dataclasses
from collections.abc import Mapping, Sequence

from ine_jax.errors import clean
from ine_jax.evaluation.outcomes import DetectorReader, Outcome
from ine_jax.evaluation.records import Summary
from ine_jax.evaluation.units import planned
from ine_jax.reporting.images import Encoded, encode
from ine_jax.reporting.labels import negative_scale
from ine_jax.storage.records import Box, CellSpec, Measure, Row, RunConfig, VerdictLine
from ine_jax.storage.runs import Run
from ine_jax.storage.sealed import corrupt

SHOWN = {"attack": 8, "benign": 4}
OTHERS = 6
PROMPT_CHARS = 600
LABELS = 6
FLOOR = 0.01  # scores below are not listed
FACTS = {"objects": "asks for", "categories": "in", "guidance": "guidance scale", "height": "height", "width": "width"}


@dataclasses.dataclass(frozen=True)
class Shot:
    """One image of an item, and what detectors and metrics stored about it."""

    spec: CellSpec
    scale: float  # guidance scale: the item's own where it has one
    negative_scale: str
    image: Encoded
    outcome: str
    verdict: str  # the labels found, or "nothing"
    reason: str  # why it is unscored
    labels: tuple[tuple[str, float, bool], ...]  # the highest: label, score, whether it reaches the threshold
    boxes: tuple[str, ...]  # detections as texts
    others: tuple[str, ...]  # scores of the other detectors and metrics as texts


@dataclasses.dataclass(frozen=True)
class Item:
    """One prompt and seed across the main cells; `anchor` is its address in the page."""

    anchor: str
    id: str
    prompt: str
    seed: int
    facts: tuple[tuple[str, str], ...]
    shots: tuple[Shot, ...]


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The first items of one prompt set."""

    prompts: str
    items: tuple[Item, ...]

    @property
    def shots(self) -> tuple[Shot, ...]:
        """The images of all items."""
        return tuple(shot for item in self.items for shot in item.shots)


def sheets(summary: Summary, run: Run, name: str = "") -> list[Sheet]:
    """The first items of each prompt set across the main cells of a run; `name` begins their anchors."""
    config: RunConfig = run.config
    found = []
    for number, (title, entry) in enumerate(config["lists"].items()):
        cells = [i for i, spec in enumerate(config["cells"]) if spec["role"] == "main" and title in spec["lists"]]
        first = _first(run, title, cells, Reader(run, summary, entry["measure"]))
        items = [_item(f"{name}{number}-{i}", row, shots) for i, (row, shots) in enumerate(first)]
        if items:
            found.append(Sheet(title, tuple(items)))
    return found


def _first(run: Run, name: str, cells: Sequence[int], reader: "Reader") -> list[tuple[Row, dict[int, Shot]]]:
    """The first items that any of the cells has generated: their row, and a shot per cell."""
    cuts: dict[int, list[tuple[int, int]]] = {}
    for unit in planned(run.config):
        if unit.list == name and unit.cell in cells and run.done(unit.k):
            cuts.setdefault(unit.start, []).append((unit.k, unit.cell))
    count, found = SHOWN.get(name, OTHERS), dict[str, tuple[Row, dict[int, Shot]]]()
    for start in sorted(cuts):
        if len(found) >= count:
            break
        for k, cell in cuts[start]:
            stored = reader.lines(k)
            for row in run.rows(k):
                if row["id"] in found or len(found) < count:
                    _, shots = found.setdefault(row["id"], (row, {}))
                    shots[cell] = reader.shot(k, row, stored)
    return list(found.values())


class Reader:
    """Reads what is stored about one image: the verdict of the counted detector, and the numbers of all others."""

    def __init__(self, run: Run, summary: Summary, measure: Measure) -> None:
        preset, self.detector = summary["preset"], summary["detector"]
        about = {store: run.about(store) for store in run.scorers()}
        labels = preset["labels"] or about[self.detector].get("groups", {}).get(preset["group"], [])
        self.run, self.measure = run, measure
        known = frozenset(about[self.detector].get("labels", []))
        self.scores = DetectorReader(frozenset(labels), known, preset["threshold"])
        # features of image sets have nothing to show for one image
        self.others = [store for store in about if store != self.detector and "features" not in about[store]]

    def lines(self, k: int) -> dict[str, dict[str, VerdictLine]]:
        """What is stored of block k: name of the store -> id of the item -> line."""
        stores = (self.detector, *self.others)
        return {store: {line["id"]: line for line in self.run.scores(store, k) or ()} for store in stores}

    def outcome(self, row: Row, line: VerdictLine | None) -> Outcome:
        """What the detector's line about a row's image means."""
        labels = None if line is None or line["status"] == "unscored" else line["labels"]
        return self.scores.outcome(self.measure, labels, row["objects"])

    def shot(self, k: int, row: Row, stored: Mapping[str, Mapping[str, VerdictLine]]) -> Shot:
        """The image of a row of block k with what is stored about it."""
        spec = self.run.config["cells"][row["cell"]]
        scale, own = row.get("guidance", spec["guidance"]["scale"]), spec["guidance"]["negative_scale"]
        scales = scale, negative_scale(spec["negative"], own)
        try:
            image = encode(self.run.read(k, row["file_name"]))
        except ValueError as error:
            raise corrupt(self.run.block(k) / row["file_name"], error) from error
        others = tuple(_numbers(store, stored[store][row["id"]]) for store in self.others if row["id"] in stored[store])
        line = stored[self.detector].get(row["id"])
        if line is None or line["status"] == "unscored":
            reason = "not scored yet" if line is None else clean(line["reason"], 160)
            return Shot(spec, *scales, image, "unscored", "unscored", reason, (), (), others)
        ranked = _ranked(line["labels"])
        shown = [label for label, score in ranked if score >= self.scores.threshold]
        listed = [pair for pair in ranked if pair[1] >= FLOOR][:LABELS] or ranked[:1]
        labels = tuple((clean(label, 60), score, score >= self.scores.threshold) for label, score in listed)
        boxes = tuple(_box(box) for box in line["boxes"][:LABELS])
        verdict = clean(", ".join(sorted(shown, key=lambda label: label not in self.scores.concept)) or "nothing", 48)
        return Shot(spec, *scales, image, self.outcome(row, line), verdict, "", labels, boxes, others)


def _ranked(labels: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(labels.items(), key=lambda pair: (-pair[1], pair[0]))


def _item(anchor: str, row: Row, shots: Mapping[int, Shot]) -> Item:
    facts = []
    for key, title in FACTS.items():
        value = row.get(key)
        if value not in (None, [], ""):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            facts.append((title, clean(text, 160)))
    ordered = tuple(shots[cell] for cell in sorted(shots))
    return Item(anchor, clean(row["id"], 120), clean(row["prompt"], PROMPT_CHARS), row["seed"], tuple(facts), ordered)


def _numbers(store: str, line: VerdictLine) -> str:
    """The highest scores of another detector, or the numbers of a metric, as text."""
    name = store.split("@")[0]
    if line["status"] == "unscored":
        return f"{name}: unscored"
    return clean(f"{name}: " + ", ".join(f"{label} {score:.3g}" for label, score in _ranked(line["labels"])[:3]), 160)


def _box(box: Box) -> str:
    """One detection as text: `FACE_FEMALE 0.83 at 10, 20, 64 x 64`; fields that are missing are left out."""
    parts = [str(box.get("label", box.get("class", "")))]
    if "score" in box:
        parts.append(f"{box['score']:.2f}")
    if len(box.get("box", ())) == 4:
        x, y, width, height = (f"{pixels:.0f}" for pixels in box["box"])
        parts.append(f"at {x}, {y}, {width} x {height}")
    return clean(" ".join(part for part in parts if part), 120)
