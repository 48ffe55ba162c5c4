"""What a call of a pipeline would reject, found without running a network."""

from collections.abc import Sequence

import numpy as np

from ine_jax.embeddings.embedding import Embedding
from ine_jax.guidance import slots
from ine_jax.guidance.base import Guidance
from ine_jax.guidance.concept import Concept
from ine_jax.models.text import learned_rows
from ine_jax.pipeline.latents import Latents, as_noise
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.prompts.items import Item


def check_call(
    pipe: Pipeline,
    guidance: Guidance,
    concept: Concept | None,
    items: Sequence[Item],
    latents: Latents | None,
    *,
    steps: int,
    height: int | None = None,
    width: int | None = None,
) -> None:
    """Raise InputError for a size, number of steps, embedding or row of latents that does not fit the model."""
    shape = pipe.latent_shape(height, width)
    if latents is not None:
        for item in items:
            as_noise(latents([item]), shape, latents.layout)
    pipe.scheduler.tables(steps)
    text, end = pipe.parts.text_config, pipe.tokenizer.backend.eos_token_id

    def encode(prompts: Sequence[str], own: Sequence[Embedding]) -> tuple[np.ndarray, np.ndarray]:
        learned_rows(own, text.hidden_size)
        ids = pipe.tokenizer.ids(prompts, own)
        return np.zeros((*ids.shape, text.hidden_size), np.float32), np.argmax(ids == end, axis=1)

    slots.fill(guidance, concept, encode)
