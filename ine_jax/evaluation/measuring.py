"""Scores stored images with metrics: alone, against the prompt, or against the reference model's image of the item."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ine_jax.errors import InputError, Interrupted
from ine_jax.evaluation.detectors.base import FAILED, Scored, Unscored, Verdict
from ine_jax.evaluation.metrics.base import Metric, measure_checked
from ine_jax.evaluation.metrics.fid import REAL, Moments
from ine_jax.evaluation.reference import NO_REFERENCE, References, reference_model
from ine_jax.evaluation.scoring import (
    Count,
    Task,
    check_budget,
    line,
    open_tasks,
    read_ahead,
    scorer_name,
    unusable,
    write_about,
)
from ine_jax.progress import Progress, stop_requests
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.images import image_files, read_image
from ine_jax.storage.provenance import file_hash, value_hash
from ine_jax.storage.records import Row, VerdictLine
from ine_jax.storage.runs import Run

FOLDER_BATCH = 32
MOST_REAL = 1_000_000
Found = list[np.ndarray | str]  # a reference image, or the reason why there is none


def score_metrics(
    run: Run,
    metrics: Sequence[Metric],
    *,
    reference: str = "",
    rescan: bool = False,
    shard: tuple[int, int] = (0, 1),
    process: int = 0,
) -> int:
    """Measure the images of shard i of N that a metric has not measured; return the number of images measured.

    As `ine_jax.evaluation.scoring.score`. The reference of an image is that of the same item, prompt and seed in the
    unguarded cell of the model `reference` (by default the first cell's). Blocks whose references are not finished yet
    are left for a later call; items that will never have one are stored as unscored, with the reason.

    InputError for an unknown model, or another one than before without `rescan`.
    """
    known = {scorer_name(metric): metric for metric in metrics}
    model = reference_model(run.config, reference)
    for name, metric in known.items():
        _write_about(run, name, metric, model, rescan)
    tasks = open_tasks(run, {name: Count() for name in known}, rescan, shard)
    images = sum(name.endswith(".png") for task in tasks for name in run.sums(task.k))
    references = References(run, model) if any(m.needs_reference for m in metrics) and tasks else None
    counts = {name: Count() for name in known}
    measured = seen = 0
    blocks = read_ahead(lambda task: _read(run, task, references, known), tasks)
    with stop_requests() as stop, Progress(max(1, images), "metrics", unit="images", process=process) as shown:
        for block in blocks:
            task, found = block.task, block.references
            names = [n for n in task.settled if found is not None or not known[n].needs_reference]
            for name in names:
                lines, vectors = _measure_block(run, known[name], block)
                run.write_scores(name, task.k, lines, vectors)
                counts[name].add(each for each in lines if not _without_reference(each))
            seen += len(block.rows)
            measured += len(block.rows) if names else 0
            shown.update(seen)
            if stop.is_set() and seen < images:
                raise Interrupted(f"stopped with {images - seen} images to measure", "", "run the same command again")
    check_budget(run, counts)
    return measured


def _write_about(run: Run, name: str, metric: Metric, model: str, rescan: bool) -> None:
    """Store the metric's description, with the model whose images it compares with."""
    before = run.about(name).get("reference") if name in run.scorers() else model
    if before != model and metric.needs_reference and not rescan:
        raise InputError(
            f"{name} was measured against {before}, now {model} is the reference",
            "one reference for all numbers of a metric",
            "name the same reference, or measure everything again (--rescan)",
        )
    write_about(run, metric, model)


def _without_reference(line: VerdictLine) -> bool:
    return line["status"] == "unscored" and line["reason"].startswith(NO_REFERENCE)


@dataclasses.dataclass(frozen=True)
class _Block:
    """A block in memory; `references` is None where they are not finished yet, or no metric needs them."""

    task: Task
    rows: list[Row]
    images: list[np.ndarray]
    references: Found | None


def _read(run: Run, task: Task, references: References | None, known: Mapping[str, Metric]) -> _Block:
    rows = run.rows(task.k)
    needed = references is not None and any(known[name].needs_reference for name in task.settled)
    return _Block(task, rows, run.images(task.k), references.of(rows) if needed and references else None)


def _measure_block(run: Run, metric: Metric, block: _Block) -> tuple[list[VerdictLine], np.ndarray | None]:
    """The lines of a block, the settled ones and new ones for all others, and the vectors of the scored lines."""
    name, k = scorer_name(metric), block.task.k
    settled = dict(block.task.settled[name])
    settled |= unusable(block.rows, settled)
    places = [i for i, row in enumerate(block.rows) if row["id"] not in settled]
    others = [block.references[i] for i in places] if metric.needs_reference and block.references else None
    images, prompts = [block.images[i] for i in places], [block.rows[i]["prompt"] for i in places]
    fresh = {block.rows[i]["id"]: v for i, v in zip(places, measure(metric, images, prompts, others), strict=True)}
    lines = [line(row["id"], fresh[row["id"]]) if row["id"] in fresh else settled[row["id"]] for row in block.rows]
    vectors = {item: v.vector for item, v in fresh.items() if isinstance(v, Scored) and v.vector is not None}
    if "features" in metric.about() and any(each["status"] == "scored" for each in settled.values()):
        before = [each["id"] for each in run.scores(name, k) or () if each["status"] == "scored"]
        vectors = {**dict(zip(before, run.vectors(name, k), strict=True)), **vectors}
    stored = [vectors[each["id"]] for each in lines if each["status"] == "scored" and each["id"] in vectors]
    return lines, np.stack(stored) if stored else None


def measure(
    metric: Metric, images: Sequence[np.ndarray], prompts: Sequence[str], references: Found | None
) -> list[Verdict]:
    """One verdict per image, whatever the metric does; images of one size share a call."""
    about = metric.about()
    labels, stores_vectors = set(about["labels"]), "features" in about
    verdicts: dict[int, Verdict] = {}
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        other = references[i] if references is not None else image
        if isinstance(other, str):
            verdicts[i] = Unscored(other)
        elif other.shape != image.shape:
            verdicts[i] = Unscored(f"{NO_REFERENCE}its size {other.shape[:2]} is not the image's {image.shape[:2]}")
        else:
            groups.setdefault(image.shape, []).append(i)

    def checked(stack: np.ndarray, texts: list[str], others: np.ndarray | None) -> list[Verdict]:
        return [
            Unscored(f"{FAILED}not the numbers of the metric")
            if isinstance(verdict, Scored)
            and (set(verdict.labels) != labels or (verdict.vector is not None) != stores_vectors)
            else verdict
            for verdict in metric.measure(stack, texts, others)
        ]

    for places in groups.values():
        others = None if references is None else [references[i] for i in places]
        texts = [prompts[i] for i in places]
        found = measure_checked([images[i] for i in places], texts, others, checked)  # type: ignore[arg-type]
        verdicts |= zip(places, found, strict=True)
    return [verdicts[i] for i in range(len(images))]


def measure_folder(run: Run, metric: Metric, folder: str | Path) -> int:
    """Store the moments of a metric's vectors over a folder of real images; return the number of images read.

    A folder measured before, with the same files, is not read again. Images without a vector are left out and counted.
    """
    files = image_files(folder, MOST_REAL)
    path = run.scores_folder(scorer_name(metric)) / REAL
    digest = value_hash({file.name: file_hash(file) for file in files})
    if path.is_file() and Moments.load(path)[1].get("sha256") == digest:
        return 0
    total: Moments | None = None
    for vectors in _folder_vectors(metric, files):
        total = Moments.of(vectors) if total is None else total + Moments.of(vectors)
    if total is None or total.n < 2:
        raise InputError(f"{folder}: fewer than two images that can be measured", "many images", "check the folder")
    notes = {"folder": str(folder), "sha256": digest, "left_out": str(len(files) - total.n)}
    write_atomic(path, total.save(notes))
    return len(files)


def _folder_vectors(metric: Metric, files: Sequence[Path]) -> Iterator[np.ndarray]:
    for start in range(0, len(files), FOLDER_BATCH):
        images = [read_image(path) for path in files[start : start + FOLDER_BATCH]]
        verdicts = measure(metric, images, [""] * len(images), None)
        vectors = [v.vector for v in verdicts if isinstance(v, Scored) and v.vector is not None]
        if vectors:
            yield np.stack(vectors)
