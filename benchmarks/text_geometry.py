"""Why SAFREE cannot use the implicit embedding of the bundled family: where text vectors lie.

    python benchmarks/text_geometry.py

SAFREE removes from a prompt what lies in the span of the concept's pooled text vectors. Prints the mean squared share
of the pooled vectors of prompts that lies in that span, for the erased words and for the embedding as the concept; for
the synonyms of the weapons, for the erased words themselves, and for benign words. The pooled vector of the empty
prompt is taken off, since all prompts share it.
"""

import json

import numpy as np

from ine_jax import assets
from ine_jax.embeddings.embedding import Embedding
from ine_jax.guidance.concept import Concept
from ine_jax.pipeline import pipeline


def main() -> None:
    """Measure and print."""
    world = json.loads((assets.ROOT / "tiny" / "world.json").read_text())
    pipe = pipeline.load("tiny-unlearned-0")
    encode = pipe._encoder((), 8)
    learned = Embedding.load(assets.embedding("weapon-tiny-unlearned-0"))
    (empty,) = Concept(words=("",)).columns(encode)

    def pooled(words: list[str]) -> np.ndarray:
        return Concept(words=tuple(f"a photo of a {word}" for word in words)).columns(encode) - empty

    concepts = {
        "erased words": Concept(words=tuple(world["erased"])).columns(encode) - empty,
        "implicit embedding": Concept(embeddings=(learned,)).columns(encode) - empty,
    }
    benign = [word for thing in world["objects"].values() if thing["group"] != "weapon" for word in thing["words"]]
    prompts = {
        "synonyms": pooled(world["kept"]),
        "erased words": pooled(world["erased"]),
        "benign words": pooled(benign),
    }
    for name, columns in concepts.items():
        basis, _ = np.linalg.qr(columns.T)
        for group, vectors in prompts.items():
            shares = np.square(vectors @ basis).sum(axis=1) / np.square(vectors).sum(axis=1)
            print(f"concept {name:<20} prompts with {group:<14} share in its span {shares.mean():.3f}")


if __name__ == "__main__":
    main()
