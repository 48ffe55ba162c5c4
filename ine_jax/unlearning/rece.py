"""RECE (arXiv 2407.12383, ECCV 2024): UCE, then rounds that erase what a closed-form inversion still finds.

Round 0 is UCE in its older form (all positions from a concept's last token on). Each further round takes the concept's
context c of the original model, finds c' whose keys and values in the edited model are those of c in the original one
(`ine_jax.inversion.rece.closed_form`), and edits c' to what the guide's context gives in the edited model:

    W_{k+1} = M(c' → g) W_k,        c' = closed_form(W_k, W_0, c, λ)

with all positions of the contexts (the authors' `train.py` and `edit_model_adversarial`: a = 1, r = 0.1, λ = 0.1). The
authors publish whole UNets as pickles; this writes the changed weights alone, in UCE's layout.
"""

import dataclasses
from pathlib import Path

import numpy as np

from ine_jax.config import ReceConfig
from ine_jax.inversion.rece import closed_form, projections
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.training import loop
from ine_jax.unlearning import uce
from ine_jax.unlearning.result import Result, origin_of, write


def unlearn(pipe: Pipeline, config: ReceConfig, directory: Path | str, progress: loop.Progress | None = None) -> Result:
    """Edit the UNet's keys and values in rounds, write them, and return the result; `pipe` itself stays as it is.

    The log has, for each round, the residual of what it erases, as "loss", and of what it preserves.

    Raises:
        InputError: no concept, a concept that the text encoder cannot read whole, or another run's directory.
    """
    folder, base = Path(directory), pipe.parts.unet_params
    old = projections(base)
    named = uce.pairs(config.erase, config.guide)
    first = [uce.from_last_token(pipe, *pair, config.erase_scale) for pair in named]
    contexts = [tuple(uce.context_rows(pipe, text)[0] for text in pair) for pair in named]
    kept = [uce.whole(pipe, text, config.preserve_scale) for text in config.preserve]

    def step(done: np.ndarray, i: int) -> tuple[np.ndarray, dict[str, float]]:
        new = {name: done @ kernel for name, kernel in old.items()}
        gone = first
        if i:
            found = [closed_form(new, old, concept, config.inversion_regularizer) for concept, _ in contexts]
            pairs = zip(found, contexts, strict=True)
            gone = [uce.Edit(source, guide, config.erase_scale) for source, (_, guide) in pairs]
        matrix = uce.edit_matrix([*gone, *kept], config.regularizer)
        metrics = {"loss": uce.residual(new, matrix, gone)}
        return matrix @ done, {**metrics, "preserve": uce.residual(new, matrix, kept)} if kept else metrics

    settings = dataclasses.asdict(config)
    with loop.owned(folder):
        matrix = loop.run(
            step,
            np.eye(first[0].source.shape[1]),
            steps=config.steps,
            directory=folder,
            save_every=1,
            config={**origin_of(pipe), "rece": settings},
            progress=progress,
        )
        params = uce.edited(base, matrix)
        return write(pipe, params, folder, {"method": "rece", "config": settings, **origin_of(pipe)})
