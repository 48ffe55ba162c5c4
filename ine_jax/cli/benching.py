"""One benchmark by name: measured, written as JSON and as a plot, and as lines. It needs no parser of flags."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ine_jax.config import BenchConfig

if TYPE_CHECKING:
    from ine_jax.reporting.speed import Result

What = Literal["sampling", "inversion", "evaluation", "guards", "cold-start"]


def measured(what: What, config: BenchConfig) -> tuple[list[str], Mapping[str, object]]:
    """Measure, write `config.out` and the plot beside it, and return the table's lines and the result.

    Raises:
        InputError: the model or the device is missing, or they do not fit together; nothing is written.
    """
    from ine_jax.reporting import speed
    from ine_jax.storage.atomic import write_json

    result = _run(what, config)
    table = speed.speeds(result)
    write_json(Path(config.out), result, shared=True)
    speed.plot(Path(config.out).with_suffix(".png"), table)
    return speed.lines(table), result


def _run(what: What, config: BenchConfig) -> "Result":
    if what == "cold-start":
        from ine_jax.pipeline.bench import cold_start

        return cold_start.run(config)
    from ine_jax.evaluation import bench as evaluation
    from ine_jax.inversion import bench as inversion
    from ine_jax.pipeline.bench import guards, sampling

    match what:
        case "sampling":
            return sampling.run(config)
        case "guards":
            return guards.run(config)
        case "inversion":
            return inversion.run(config)
        case "evaluation":
            return evaluation.run(config)
