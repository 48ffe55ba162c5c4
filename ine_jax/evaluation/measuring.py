"""Measures stored images with metrics, beside their prompts or beside the reference model's image of the same item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ine_jax.errors import InputError, Interrupted
from ine_jax.evaluation.detectors.base import FAILED, Scored, Unscored, Verdict
from ine_jax.evaluation.metrics.base import Metric, measure_checked
from ine_jax.evaluation.metrics.fid import REAL, Moments, decode
from ine_jax.evaluation.reference import NO_REFERENCE, References, reference_model
from ine_jax.evaluation.scoring import Count, Line, Task, check_budget, line, open_tasks, read_ahead, scorer_name
from ine_jax.progress import Progress, stop_requests
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.images import image_files, read_image
from ine_jax.storage.provenance import file_hash, value_hash
from ine_jax.storage.runs import Run

FOLDER_BATCH = 32
MOST_REAL = 1_000_000
Found = list[np.ndarray | str]


def score_metrics(
    run: Run,
    metrics: Sequence[Metric],
    *,
    reference: str = "",
    rescan: bool = False,
    shard: tuple[int, int] = (0, 1),
    process: int = 0,
) -> int:
    """Measure, in one pass, the images of shard i of N that a metric has not measured; return how many images that was.

    As :func:`ine_jax.evaluation.scoring.score`. The reference of an image is that of the same item, prompt and seed in
    the unguarded cell of the model `reference` (by default the first cell's). Blocks whose references are not drawn yet
    are left for a later call; items that will never have one are stored as unscored, with the reason.

    Raises:
        InputError: no such model; or numbers are there that were taken against another one, without `rescan`.
        CorruptRunError: an image is not the one that was drawn.
        ItemErrors: more than 1 % of the images that have a reference got no number (the numbers are kept).
        Interrupted: asked to stop; finished blocks are kept.
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
        for task, rows, pictures, found in blocks:
            names = [n for n in task.settled if found is not None or not known[n].needs_reference]
            for name in names:
                settled = task.settled[name]
                lines = _block(known[name], rows, pictures, found or [], settled)
                run.write_scores(name, task.k, lines)
                counts[name].add(each for each in lines if not str(each.get("reason", "")).startswith(NO_REFERENCE))
            seen += len(rows)
            measured += len(rows) if names else 0
            shown.update(seen)
            if stop.is_set() and seen < images:
                raise Interrupted(f"stopped with {images - seen} images to measure", "", "run the same command again")
    check_budget(run, counts)
    return measured


def _write_about(run: Run, name: str, metric: Metric, model: str, rescan: bool) -> None:
    """Store what a metric says of itself, and whose images it compares with."""
    about = {"id": metric.id, "version": metric.version, **metric.about(), "reference": model}
    before = run.about(name) if name in run.scorers() else about
    if before.get("reference") != model and metric.needs_reference and not rescan:
        raise InputError(
            f"{name} was measured against {before.get('reference')}, now {model} is the reference",
            "one reference for all numbers of a metric",
            "name the same reference, or measure everything again (--rescan)",
        )
    run.write_about(name, about)


def _read(
    run: Run, task: Task, references: References | None, known: Mapping[str, Metric]
) -> tuple[Task, list[Line], list[np.ndarray], Found | None]:
    """A block's rows, images and references; the last None where they are not drawn yet, or nobody asks for them."""
    rows = run.rows(task.k)
    asked = references is not None and any(known[name].needs_reference for name in task.settled)
    return task, rows, run.images(task.k), references.of(rows) if asked and references else None


def _block(
    metric: Metric,
    rows: Sequence[Line],
    images: Sequence[np.ndarray],
    references: Found,
    settled: Mapping[str, Line],
) -> list[Line]:
    """The lines of a block: those that stay, and new ones for all others."""
    places = [i for i, row in enumerate(rows) if row["id"] not in settled]
    others = [references[i] for i in places] if metric.needs_reference else None
    verdicts = measure(metric, [images[i] for i in places], [rows[i]["prompt"] for i in places], others)
    fresh = {i: line(rows[i]["id"], verdict) for i, verdict in zip(places, verdicts, strict=True)}
    return [fresh[i] if i in fresh else settled[row["id"]] for i, row in enumerate(rows)]


def measure(
    metric: Metric, images: Sequence[np.ndarray], prompts: Sequence[str], references: Found | None
) -> list[Verdict]:
    """One verdict per image, whatever the metric does. `references` holds an image, or the reason why there is none."""
    labels = set(metric.about()["labels"])
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
            if isinstance(verdict, Scored) and set(verdict.labels) != labels
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
    """Store the moments of a set metric's vectors over a folder of real images; return how many images it read.

    A folder that is measured already, by the same metric and with the same files, is not read again. InputError: no
    folder, or an image that cannot be read; images without a vector are left out and counted.
    """
    files = image_files(folder, MOST_REAL)
    path = run.scores_path(scorer_name(metric), 0).with_name(REAL)
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
        vectors = [decode(verdict.boxes[0]["features"]) for verdict in verdicts if isinstance(verdict, Scored)]
        if vectors:
            yield np.stack(vectors)
