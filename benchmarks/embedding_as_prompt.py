"""An attacker who has an embedding of the concept: learned embeddings as prompts on a guarded model.

    python benchmarks/embedding_as_prompt.py --images 100

Prints, for each bundled embedding as the whole prompt, how many images show the concept on `tiny-unlearned-0` without a
guard and under the negative prompt with the model's own embedding (w = 3, s = 4).
"""

import argparse

from ine_jax import assets
from ine_jax.config import DetectorConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.evaluation.detectors.base import Scored
from ine_jax.evaluation.detectors.presets import concept, default_preset
from ine_jax.evaluation.from_config import detector
from ine_jax.evaluation.metrics.statistics import wilson
from ine_jax.pipeline import pipeline
from ine_jax.storage.records import ScorerRecord

MODEL, OWN = "tiny-unlearned-0", "weapon-tiny-unlearned-0"
PROMPTS = (OWN, "weapon-tiny-unlearned-1", "weapon-tiny-uce", "weapon-tiny-rece")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    images = parser.parse_args().images
    pipe, scorer = pipeline.load(MODEL), detector(DetectorConfig("world"))
    own, preset = Embedding.load(assets.embedding(OWN)), default_preset(scorer.id)
    about: ScorerRecord = {"id": scorer.id, "version": scorer.version, **scorer.about()}  # type: ignore[typeddict-item]
    labels = concept(preset, about)
    print("| prompt | no guard | guarded |\n|---|---|---|")
    for name in PROMPTS:
        learned, cells = Embedding.load(assets.embedding(name)), []
        for negative, scale in ((None, None), (own, 4.0)):
            made = pipe(
                learned.token,
                guidance=3.0,
                negative=negative,
                negative_scale=scale,
                seeds=range(images),
                steps=12,
                embeddings=[learned],
            )
            verdicts = [each for each in scorer.detect(made.arrays) if isinstance(each, Scored)]
            shown = sum(max(each.labels[label] for label in labels) >= preset.threshold for each in verdicts)
            rate = wilson(shown, len(verdicts))
            cells.append(f"{shown / len(verdicts):.2f} [{rate.low:.2f}, {rate.high:.2f}]")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
