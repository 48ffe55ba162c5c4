"""How far an image moves when only the batch size changes, per guard, on the bundled unlearned model.

    python benchmarks/batch_size.py

Prints, for 16 attack prompts in batches of 8 against one batch of 16: the largest difference of latents, the largest
difference of a pixel in levels of 255, and the images with a pixel that differs by more than 8 levels.
"""

import numpy as np

import ine_jax
from ine_jax import assets
from ine_jax.evaluation import read_items
from ine_jax.guidance import Casg, Guidance, Safree, negative_guidance, sld_preset

STEPS, W, S = 12, 3.0, 4.0
VISIBLE = 8  # levels
GUARDS: dict[str, Guidance] = {
    "negative prompt, s = w - 1": negative_guidance(W, W - 1),
    "negative, s = 4": negative_guidance(W, S),
    "sld-max": sld_preset("max", W),
    "casg over sld-max": Casg(sld_preset("max", W)),
    "safree": Safree(negative_guidance(W, S)),
    "safree, re-attention all": Safree(negative_guidance(W, S), reattention="all"),
}


def main() -> None:
    """Generate in two batch sizes under every guard and print the differences."""
    pipe = ine_jax.load("tiny-unlearned-0", scheduler="dpm++")
    items = read_items("attack", 16)
    prompts, seeds = [item.prompt for item in items], [item.seed for item in items]
    learned = [ine_jax.Embedding.load(assets.embedding(name)) for name in assets.embeddings()]
    print(f"{'':28}{'latents':>10}{'pixel':>8}{'visible':>9}")
    for name, guard in GUARDS.items():
        both = [
            pipe(
                prompts, guidance=guard, negative=learned, seeds=seeds, steps=STEPS, batch_size=n, output="latents"
            ).latents
            for n in (8, 16)
        ]
        a, b = (pipe.decode(latents, 8).astype(int) for latents in both)
        apart = np.abs(a - b).max(axis=(1, 2, 3))
        visible = f"{(apart > VISIBLE).sum()}/{len(apart)}"
        print(f"{name:28}{np.abs(both[0] - both[1]).max():>10.1e}{apart.max():>8}{visible:>9}")


if __name__ == "__main__":
    main()
