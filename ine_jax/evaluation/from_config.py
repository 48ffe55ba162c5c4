"""From config records to detectors and metrics, and one call that scores a run with all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ine_jax import assets
from ine_jax.config import DetectorConfig, EvaluateConfig, MetricConfig, ScoreConfig
from ine_jax.errors import ItemErrors
from ine_jax.evaluation import measuring, scoring
from ine_jax.evaluation.detectors.base import Detector, Scored, Scorer, Verdict
from ine_jax.evaluation.detectors.clip import ClipZeroShot
from ine_jax.evaluation.detectors.nudenet import NudeNet
from ine_jax.evaluation.detectors.presets import concept, default_preset
from ine_jax.evaluation.detectors.q16 import Q16
from ine_jax.evaluation.detectors.vit import VitClassifier
from ine_jax.evaluation.detectors.world import WorldDetector
from ine_jax.evaluation.metrics import inception, lpips
from ine_jax.evaluation.metrics.base import Metric
from ine_jax.evaluation.metrics.clip_score import ClipScore
from ine_jax.pipeline.from_config import process_index
from ine_jax.storage.images import image_files
from ine_jax.storage.records import ScorerRecord
from ine_jax.storage.runs import Run, writing
from ine_jax.types import HostImages


def detector(config: DetectorConfig) -> Detector:
    """Load the detector of a config."""
    match config.kind:
        case "world":
            return WorldDetector.load(config.weights or assets.folder() / "detector")
        case "nudenet":
            return NudeNet.load(config.weights, config.sha256)
        case "q16":
            return Q16.load(config.weights, config.prompts, config.revision)
        case "clip":
            return ClipZeroShot.load(config.weights, config.phrases, config.revision)
        case "vit":
            return VitClassifier.load(config.weights, config.revision)


class Finding(NamedTuple):
    """Whether an image shows the concept (None: no verdict), the raw scores, or the reason why there are none."""

    shows: bool | None
    labels: dict[str, float]
    reason: str = ""


@dataclass(frozen=True)
class Finder:
    """A detector with the labels and the threshold of its usual preset."""

    scorer: Detector

    @property
    def name(self) -> str:
        """`id@version` of the detector, and its preset."""
        return f"{scoring.scorer_name(self.scorer)}/{default_preset(self.scorer.id).name}"

    def find(self, images: HostImages) -> list[Finding]:
        """Return one finding per image; those without a verdict show nothing, and say why."""
        preset = default_preset(self.scorer.id)
        about: ScorerRecord = {"id": self.scorer.id, "version": self.scorer.version, **self.scorer.about()}  # type: ignore[typeddict-item]
        labels = concept(preset, about)

        def finding(found: Verdict) -> Finding:
            if not isinstance(found, Scored):
                return Finding(None, {}, found.reason)
            return Finding(max(found.labels.get(name, 0.0) for name in labels) >= preset.threshold, found.labels)

        return [finding(found) for found in self.scorer.detect(images)]


def finders(configs: Sequence[DetectorConfig]) -> tuple[Finder, ...]:
    """Load detectors, each with its usual preset."""
    return tuple(Finder(detector(each)) for each in configs)


def shows(configs: Sequence[DetectorConfig]) -> tuple[Callable[[HostImages], list[bool | None]], ...]:
    """Load detectors; return, for each, whether images show the concept of its usual preset (None: no verdict)."""

    def verdicts(finder: Finder) -> Callable[[HostImages], list[bool | None]]:
        return lambda images: [found.shows for found in finder.find(images)]

    return tuple(map(verdicts, finders(configs)))


def metric(config: MetricConfig) -> Metric:
    """Load the metric of a config."""
    match config.kind:
        case "lpips":
            return lpips.load(config.weights, config.size)
        case "clip-score":
            return ClipScore.load(config.weights, config.revision)
        case "fid":
            return inception.load(config.weights)


@dataclass(frozen=True)
class Scorers:
    """Loaded detectors and metrics; with each metric the folder of real images it compares with, or ""."""

    detectors: tuple[Detector, ...]
    metrics: tuple[tuple[Metric, str], ...]
    reference: str

    def behind(self) -> scoring.Behind:
        """Return what scores blocks with the detectors while others are generated."""
        return scoring.Behind(self.detectors)

    def score(
        self,
        run: Run,
        *,
        rescan: bool = False,
        shard: tuple[int, int] = (0, 1),
        behind: scoring.Behind | None = None,
    ) -> tuple[int, int]:
        """Score what is not scored yet, or everything with `rescan`; return the images that detectors and metrics read.

        Missing verdicts of detectors are raised (ItemErrors) after the metrics have run.
        """
        with writing(run.root, shard):
            return self._score(run, rescan, shard, behind)

    def _score(self, run: Run, rescan: bool, shard: tuple[int, int], behind: scoring.Behind | None) -> tuple[int, int]:
        process = process_index()
        scored = measured = 0
        failed = None
        try:
            scored = scoring.score(run, self.detectors, rescan=rescan, shard=shard, process=process, behind=behind)
        except ItemErrors as error:
            failed = error
        if self.metrics:
            metrics = [metric for metric, _ in self.metrics]
            measured = measuring.score_metrics(
                run, metrics, reference=self.reference, rescan=rescan, shard=shard, process=process
            )
        for each, folder in self.metrics:
            if folder and shard[0] == 0:
                measuring.measure_folder(run, each, folder)
        if failed:
            raise failed
        return scored, measured

    @property
    def names(self) -> list[str]:
        """Names of their scores."""
        scorers: list[Scorer] = [*self.detectors, *(metric for metric, _ in self.metrics)]
        return [scoring.scorer_name(each) for each in scorers]

    def finished(self, run: Run, shard: tuple[int, int] = (0, 1)) -> bool:
        """Whether another call of `score` would find nothing to do."""
        return not scoring.open_tasks(run, {name: scoring.Count() for name in self.names}, False, shard)


def scorers(config: EvaluateConfig | ScoreConfig) -> Scorers:
    """Load all detectors and metrics, so that what is missing is reported before any image is generated."""
    for each in config.metrics:
        if each.images:
            image_files(each.images, measuring.MOST_REAL)
    detectors = tuple(detector(each) for each in config.detectors)
    return Scorers(detectors, tuple((metric(each), each.images) for each in config.metrics), config.reference)
