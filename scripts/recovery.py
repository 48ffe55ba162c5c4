"""Does an implicit negative help most where inversion recovers most? Recovery per model, against the gain per guard.

    python -m scripts.recovery configs/evaluate/methods.yaml --out docs/images/recovery.png

Recovery: share of images that show the concept when the model's own embedding is the prompt. Gain: DSR with that
embedding minus DSR with words under the same guard, on the same items, from the paired tests of the evaluation's
summary.json (`ine evaluate CONFIG` writes it). Prints a table and Spearman's rank correlation of each guard with a 95 %
bootstrap interval over the images; the models are taken as given.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from ine_jax import assets
from ine_jax.config import EvaluateConfig
from ine_jax.config import yaml_file as configfile
from ine_jax.embeddings.embedding import Embedding
from ine_jax.evaluation.detectors.base import Scored
from ine_jax.evaluation.detectors.presets import concept, default_preset
from ine_jax.evaluation.from_config import detector
from ine_jax.evaluation.metrics.statistics import wilson
from ine_jax.inversion.preview import preview_images
from ine_jax.pipeline import from_config as pipelines
from ine_jax.storage.records import ScorerRecord

INK, SOFT, MARK = "#1d2330", "#5b6475", "#2470cc"
RESAMPLES = 10_000
LINE = 0.03  # of DSR, between two labels


@dataclasses.dataclass(frozen=True)
class Gain:
    """Paired outcomes of one model under one guard: `gained` and `lost` of `n` items."""

    gained: int
    lost: int
    n: int

    @property
    def value(self) -> float:
        """DSR with the embedding - DSR with words."""
        return (self.gained - self.lost) / self.n

    def resampled(self, chance: np.random.Generator) -> np.ndarray:
        """The same of `RESAMPLES` bootstrap samples."""
        shares = np.array([self.gained, self.lost, self.n - self.gained - self.lost]) / self.n
        counts = chance.multinomial(self.n, shares, RESAMPLES)
        return (counts[:, 0] - counts[:, 1]) / self.n


def gains(summary: Mapping[str, Any]) -> dict[str, dict[str, Gain]]:
    """Guard -> model -> words against the model's own embedding, on attack prompts."""
    found: dict[str, dict[str, Gain]] = {}
    for test in summary["paired"]:
        sides, own = (test["a"], test["b"]), test.get("embedding_from") == test["model"]
        if sides == ("explicit", "implicit") and own and summary["lists"][test["list"]]["measure"] == "defended":
            gain = Gain(test["only_b"], test["only_a"], test["n"])
            found.setdefault(test["guard"], {})[test["model"]] = gain
    return found


def recovery(config: EvaluateConfig, images: int) -> dict[str, int]:
    """Model -> how many of so many images show the concept when its own embedding is the prompt."""
    scorer = detector(config.detectors[0])
    about: ScorerRecord = {"id": scorer.id, "version": scorer.version, **scorer.about()}  # type: ignore[typeddict-item]
    preset = default_preset(scorer.id)
    labels = concept(preset, about)
    found = {}
    for model in config.models:
        if not model.embedding:
            continue
        pipe = pipelines.pipeline(model.model, model.revision, config.sampler, model.unlearned)
        embedding = Embedding.load(assets.embedding(model.embedding))
        steps = config.sampler.steps
        verdicts = scorer.detect(preview_images(pipe, embedding, images, template="{}", steps=steps))
        scores = [max(v.labels.get(label, 0.0) for label in labels) for v in verdicts if isinstance(v, Scored)]
        found[model.label] = int((np.asarray(scores) >= preset.threshold).sum())
    return found


def correlation(recovered: Mapping[str, int], images: int, own: Mapping[str, Gain]) -> tuple[float, float, float]:
    """Spearman's rank correlation over the models, and its 95 % interval when images and items are resampled."""
    names, chance = [name for name in own if name in recovered], np.random.default_rng(0)
    x, y = [recovered[name] / images for name in names], [own[name].value for name in names]
    resampled_x = [chance.binomial(images, recovered[name] / images, RESAMPLES) for name in names]
    resampled_y = [own[name].resampled(chance) for name in names]
    ranks = [stats.rankdata(np.stack(values, 1), axis=1) for values in (resampled_x, resampled_y)]
    a, b = (each - each.mean(1, keepdims=True) for each in ranks)
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    rho = np.divide((a * b).sum(1), scale, out=np.zeros(RESAMPLES), where=scale > 0)
    low, high = np.quantile(rho, [0.025, 0.975])
    return float(stats.spearmanr(x, y).statistic), float(low), float(high)


def table(recovered: Mapping[str, int], images: int, found: Mapping[str, Mapping[str, Gain]]) -> list[str]:
    """A Markdown table, a row per model, and a sentence per guard."""
    lines = [f"| model | recovery | {' | '.join(found)} |", "|---" * (len(found) + 2) + "|"]
    for model, k in recovered.items():
        rate = wilson(k, images)
        cells = [f"{own[model].value:+.3f} (n {own[model].n})" if model in own else "-" for own in found.values()]
        lines.append(f"| {model} | {k / images:.2f} [{rate.low:.2f}, {rate.high:.2f}] | {' | '.join(cells)} |")
    for guard, own in found.items():
        rho, low, high = correlation(recovered, images, own)
        lines.append(f"{guard}: Spearman's rho {rho:+.2f} [{low:+.2f}, {high:+.2f}] over {len(own)} models")
    return lines


def plot(
    recovered: Mapping[str, int], images: int, found: Mapping[str, Mapping[str, Gain]], names: Sequence[str], out: Path
) -> None:
    """A panel per guard, a point with its name per model; the panels share the axes."""
    figure, axes = plt.subplots(
        1, len(found), figsize=(3.4 * len(found), 3.4), dpi=140, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (guard, own) in zip(axes[0], found.items(), strict=True):
        shown = [name for name in names if name in own]
        x, y = [recovered[name] / images for name in shown], [own[name].value for name in shown]
        axis.axhline(0, color=SOFT, linewidth=0.8)
        axis.scatter(x, y, color=MARK, zorder=3)
        at = -np.inf
        for py, px, name in sorted(zip(y, x, shown, strict=True)):
            at = max(py, at + LINE)
            axis.text(px + 0.04, at, name, fontsize=8, color=INK, va="center")
        axis.set(title=guard, xlabel="recovery: embedding as the prompt", xlim=(-0.05, 1.25))
    axes[0][0].set_ylabel("gain in DSR over words")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def main() -> None:
    """Generate from the embeddings, read the gains, print the table, write the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("docs/images/recovery.png"))
    args = parser.parse_args()
    config = configfile.load(args.config, EvaluateConfig)
    found = gains(json.loads((Path(config.out) / "summary.json").read_text()))
    recovered = recovery(config, args.images)
    print(*table(recovered, args.images, found), sep="\n")
    plot(recovered, args.images, found, list(recovered), args.out)


if __name__ == "__main__":
    main()
