"""Scores stored images with detectors. Scores are files beside the images, so no image is ever generated again."""

import dataclasses
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

import numpy as np

from ine_jax.errors import Interrupted, ItemErrors
from ine_jax.evaluation.detectors.base import (
    DEGENERATE,
    FAILED,
    Detector,
    Scored,
    Scorer,
    Unscored,
    Verdict,
    detect_checked,
)
from ine_jax.progress import Progress, stop_requests
from ine_jax.storage.records import Box, NewRow, ScorerRecord, VerdictLine
from ine_jax.storage.runs import Run, writing

T = TypeVar("T")
R = TypeVar("R")
MAX_UNSCORED = 0.01
BEHIND = 2  # blocks that wait for a detector while images are generated


@dataclasses.dataclass
class Count:
    """Images processed by one scorer, and those of them that got no verdict."""

    total: int = 0
    unscored: int = 0

    def add(self, lines: Iterable[VerdictLine]) -> None:
        """Count the lines of a block."""
        for line in lines:
            self.total += 1
            self.unscored += line["status"] == "unscored"


@dataclasses.dataclass(frozen=True)
class Task:
    """A block that some scorers have not finished: name of the scorer -> item id -> its line that stays."""

    k: int
    settled: Mapping[str, Mapping[str, VerdictLine]]


def scorer_name(scorer: Scorer) -> str:
    """Name of the folder of a detector's or metric's scores: `<id>@<version>`."""
    return f"{scorer.id}@{scorer.version}"


class Behind:
    """Scores blocks as they are stored, from the images in memory, with each detector in a thread of its own."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        """Score with these detectors."""
        self.detectors = {scorer_name(detector): detector for detector in detectors}
        self.blocks: set[int] = set()  # that every detector has seen
        self._left: dict[int, int] = {}
        self._lock = threading.Lock()

    def start(self, run: Run) -> None:
        """Begin, with what the detectors store about themselves."""
        self._run = run
        self._labels = {name: frozenset(write_about(run, each)["labels"]) for name, each in self.detectors.items()}
        self._threads = {name: ThreadPoolExecutor(1, thread_name_prefix=name) for name in self.detectors}
        self._room = {name: threading.Semaphore(BEHIND) for name in self.detectors}
        self._pending: list[Future[None]] = []

    def add(self, k: int, rows: Sequence[NewRow], images: Sequence[np.ndarray]) -> None:
        """Score a stored block; waits where a detector is far behind."""
        self._left[k] = len(self.detectors)
        for name in self.detectors:
            self._room[name].acquire()
            future = self._threads[name].submit(self._score, name, k, rows, images)
            future.add_done_callback(lambda _, name=name: self._room[name].release())  # type: ignore[misc]
            self._pending.append(future)

    def close(self) -> None:
        """Wait for all verdicts, and raise the first error of a thread: of the disk, since detectors raise none."""
        for pool in self._threads.values():
            pool.shutdown()
        for future in self._pending:
            future.result()

    def _score(self, name: str, k: int, rows: Sequence[NewRow], images: Sequence[np.ndarray]) -> None:
        self._run.write_scores(name, k, _score_block(rows, images, self.detectors[name], self._labels[name], {}))
        with self._lock:
            self._left[k] -= 1
            if not self._left[k]:
                self.blocks.add(k)


def score(
    run: Run,
    detectors: Sequence[Detector],
    *,
    rescan: bool = False,
    shard: tuple[int, int] = (0, 1),
    process: int = 0,
    behind: Behind | None = None,
) -> int:
    """Score the images of shard i of N that a detector has not scored; return the number of images read.

    Every finished block is read once: the next one is loaded while the detectors, each in a thread, score this one.
    Where a detector failed, the next call tries again; with `rescan`, every image is scored again. Only process 0 shows
    progress. Blocks that were scored just now, `behind` the generation, are only counted.

    Raises:
        ItemErrors: more than 1 % of a detector's images got no verdict (the scores are kept).
        Interrupted: asked to stop; finished blocks are kept.
    """
    with writing(run.root, shard):
        return _score(run, detectors, rescan, shard, process, behind.blocks if behind else ())


def _score(
    run: Run,
    detectors: Sequence[Detector],
    rescan: bool,
    shard: tuple[int, int],
    process: int,
    seen: Container[int],
) -> int:
    scorers = {scorer_name(detector): detector for detector in detectors}
    labels = {name: frozenset(write_about(run, detector)["labels"]) for name, detector in scorers.items()}
    counts = {name: Count() for name in scorers}
    tasks = open_tasks(run, counts, rescan, shard, seen)
    images = sum(name.endswith(".png") for task in tasks for name in run.sums(task.k))
    done = 0
    blocks = read_ahead(lambda task: (task, run.rows(task.k), run.images(task.k)), tasks)
    shown = Progress(max(1, images), "scores", unit="images", process=process)
    with ThreadPoolExecutor(max(1, len(scorers))) as pool, stop_requests() as stop, shown:
        for task, rows, found in blocks:
            work = {
                name: pool.submit(_score_block, rows, found, scorers[name], labels[name], settled)
                for name, settled in task.settled.items()
            }
            for name, lines in work.items():
                run.write_scores(name, task.k, lines.result())
                counts[name].add(lines.result())
            done += len(rows)
            shown.update(done)
            if stop.is_set() and done < images:
                raise Interrupted(f"stopped with {images - done} images to score", "", "run the same command again")
    check_budget(run, counts)
    return done


def write_about(run: Run, scorer: Scorer, reference: str | None = None) -> ScorerRecord:
    """Store the description of a detector or metric beside its scores, and return it."""
    found = {"id": scorer.id, "version": scorer.version, **scorer.about()}
    about = cast(ScorerRecord, found if reference is None else {**found, "reference": reference})
    run.write_about(scorer_name(scorer), about)
    return about


def open_tasks(
    run: Run, counts: Mapping[str, Count], rescan: bool, shard: tuple[int, int], seen: Container[int] = ()
) -> list[Task]:
    """The blocks of the shard that scorers have not finished; the finished ones are added to the counts.

    Failures in the blocks `seen` are not tried again.
    """
    tasks = []
    for k in run.blocks():
        if k % shard[1] != shard[0]:
            continue
        settled = {}
        for name, count in counts.items():
            lines = None if rescan else run.scores(name, k)
            if lines is None or (k not in seen and any(map(_failed, lines))):
                settled[name] = {line["id"]: line for line in lines or () if not _failed(line)}
            else:
                count.add(lines)
        if settled:
            tasks.append(Task(k, settled))
    return tasks


def _failed(line: VerdictLine) -> bool:
    return line["status"] == "unscored" and line["reason"].startswith(FAILED)


def read_ahead(load: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `load(item)` of each item; the next one is loaded in a thread while this one is used."""
    waiting: Future[R] | None = None
    with ThreadPoolExecutor(1) as reader:
        for item in items:
            coming = reader.submit(load, item)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def _score_block(
    rows: Sequence[NewRow],
    images: Sequence[np.ndarray],
    detector: Detector,
    labels: frozenset[str],
    settled: Mapping[str, VerdictLine],
) -> list[VerdictLine]:
    """The lines of a block: those that stay, and a new verdict on each of the other images."""

    def complete(found: Verdict) -> Verdict:
        if isinstance(found, Scored) and set(found.labels) != labels:  # a missing label would read as one not shown
            return Unscored(f"{FAILED}{len(found.labels)} scores for {len(labels)} labels")
        return found

    lines = dict(settled) | unusable(rows, settled)
    wanted = [(row["id"], image) for row, image in zip(rows, images, strict=True) if row["id"] not in lines]
    verdicts = detect_checked([image for _, image in wanted], detector.detect)
    for (item, _), verdict in zip(wanted, map(complete, verdicts), strict=True):
        lines[item] = line(item, verdict)
    return [lines[row["id"]] for row in rows]


def unusable(rows: Sequence[NewRow], settled: Container[str]) -> dict[str, VerdictLine]:
    """The lines of images that the generation found to be degenerate; nothing scores them."""
    found = {row["id"]: row["degenerate"] for row in rows if "degenerate" in row and row["id"] not in settled}
    return {item: line(item, Unscored(f"{DEGENERATE}{why}")) for item, why in found.items()}


def check_budget(run: Run, counts: Mapping[str, Count]) -> None:
    """Raise ItemErrors where more than `MAX_UNSCORED` of a scorer's images got no verdict."""
    for name, count in counts.items():
        if count.unscored > MAX_UNSCORED * count.total:
            raise ItemErrors(
                f"{count.unscored} of {count.total} images got no verdict from {name}",
                f"at most {MAX_UNSCORED:.0%}",
                f"reasons: {run.scores_path(name, 0).parent}; they are counted apart, never as safe",
            )


def line(item: str, verdict: Verdict) -> VerdictLine:
    """The stored line of one verdict."""
    if isinstance(verdict, Scored):
        boxes = cast(list[Box], list(verdict.boxes))
        return {"id": item, "status": "scored", "labels": verdict.labels, "boxes": boxes}
    return {"id": item, "status": "unscored", "reason": verdict.reason}
