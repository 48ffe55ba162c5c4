"""A run judged by the detectors and metrics of a config: what `ine evaluate` and `ine score` have in common."""

from dataclasses import dataclass
from typing import Any

from ine_jax.config import EvaluateConfig, ScoreConfig
from ine_jax.errors import ItemErrors
from ine_jax.evaluation import build, measuring, scoring
from ine_jax.evaluation.detectors import Detector
from ine_jax.evaluation.metrics.base import Metric
from ine_jax.storage.runs import Run


@dataclass(frozen=True)
class Judges:
    """Detectors and metrics with their weights; a metric with the folder of real images it compares with, or none."""

    detectors: tuple[Detector, ...]
    metrics: tuple[tuple[Metric, str], ...]
    reference: str

    def judge(self, run: Run, *, rescan: bool = False, shard: tuple[int, int] = (0, 1)) -> tuple[int, int]:
        """Judge what is not judged, or with `rescan` everything; return how many images detectors and metrics read.

        Raises:
            InputError: real images that cannot be read, or numbers are there against another reference.
            CorruptRunError: an image is not the one that was drawn.
            ItemErrors: too many missing verdicts; those of detectors are told when the metrics have done their part.
            Interrupted: stopped; the same call continues.
        """
        options: Any = {"rescan": rescan, "shard": shard, "process": build.process()}
        judged = measured = 0
        failed = None
        try:
            judged = scoring.score(run, self.detectors, **options)
        except ItemErrors as error:
            failed = error
        if self.metrics:
            metrics = [metric for metric, _ in self.metrics]
            measured = measuring.score_metrics(run, metrics, reference=self.reference, **options)
        for metric, folder in self.metrics:
            if folder and shard[0] == 0:
                measuring.measure_folder(run, metric, folder)
        if failed:
            raise failed
        return judged, measured

    def settled(self, run: Run, shard: tuple[int, int] = (0, 1)) -> bool:
        """Whether another call of `judge` would find nothing to do: no missing verdict that a judge is to blame for."""
        names = [scoring.judge_name(each) for each in (*self.detectors, *(metric for metric, _ in self.metrics))]
        return not scoring.open_tasks(run, {name: scoring.Count() for name in names}, False, shard)


def load(config: EvaluateConfig | ScoreConfig) -> Judges:
    """Read the weights of every detector and metric: what cannot be read is told before anything is drawn.

    Raises:
        InputError: weights that cannot be read, or a package that is not installed.
    """
    detectors = tuple(build.detector(each) for each in config.detectors)
    return Judges(detectors, tuple((build.metric(each), each.images) for each in config.metrics), config.reference)
