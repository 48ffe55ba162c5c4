"""What MACE works on: sentences about a concept and its guide, images of the concept, and masks of where it is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from ine_jax.config import MaceConfig
from ine_jax.errors import InputError
from ine_jax.inversion.templates import NAMED
from ine_jax.pipeline import from_config
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.types import HostImages
from ine_jax.unlearning import uce

Masks = Bool[np.ndarray, "image H W"]


def templates(pipe: Pipeline, texts: Sequence[str]) -> tuple[str, ...]:
    """The sentences that fit the text encoder with each of the texts, and whose own words are one token each."""

    def usable(template: str) -> bool:
        words = template.replace("{}", "").split()
        known = all(len(pipe.tokenizer.word_ids(word)) == 1 for word in words)
        return known and not any(pipe.tokenizer.truncated([template.format(text) for text in texts]))

    found = tuple(filter(usable, NAMED["object"]))
    if not found:
        given = f"no sentence about {texts[0]!r} fits the text encoder"
        raise InputError(given, f"{pipe.tokenizer.max_length - 2} tokens in all", "shorten the concepts")
    return found


def refinements(pipe: Pipeline, sentences: Sequence[str], concept: str, guide: str) -> list[uce.Edit]:
    """The edits of stage 1 of one concept: in every sentence the positions that both texts have, and those after."""
    edits = []
    for template in sentences:
        texts = [template.format(text) for text in (concept, guide)]
        old, new = pipe.tokenizer.ids(texts).tolist()
        places = matching(old, new, int(pipe.tokenizer.backend.eos_token_id))
        source, target = (uce.context_rows(pipe, text)[0] for text in texts)
        edits.append(uce.Edit(source[places[0]], target[places[1]], 1.0))
    return edits


def matching(old: Sequence[int], new: Sequence[int], end: int) -> tuple[list[int], list[int]]:
    """Positions of two padded rows of ids that correspond: before and after the words that differ. `end` ends a text.

    The text with more words is followed to the end; the other loses as many positions at its end.
    """
    ends = [list(row).index(end) + 1 for row in (old, new)]
    first = [list(row)[:stop] for row, stop in zip((old, new), ends, strict=True)]
    start = 0
    while start < min(ends) and first[0][start] == first[1][start]:
        start += 1
    after = 0
    while after < min(ends) - start and first[0][-1 - after] == first[1][-1 - after]:
        after += 1
    length, longest = len(old), max(ends)
    places = ([*range(start), *range(stop - after, length - (longest - stop))] for stop in ends)
    return next(places), next(places)


def concept_tokens(pipe: Pipeline, text: str, concept: str) -> Bool[np.ndarray, "token"]:
    """The positions of a concept's tokens in a text, and all that hold the end token."""
    ids, words = pipe.tokenizer.ids([text])[0].tolist(), pipe.tokenizer.word_ids(concept)
    found: np.ndarray = np.asarray(ids) == int(pipe.tokenizer.backend.eos_token_id)
    for i in range(len(ids) - len(words) + 1):
        if words and ids[i : i + len(words)] == words:
            found[i : i + len(words)] = True
    return found


def images_and_masks(pipe: Pipeline, config: MaceConfig, concept: str) -> tuple[HostImages, Masks]:
    """Images of a concept and their masks: from folders of its name, or generated, and by their background."""
    if config.images:
        images = from_config.images(Path(config.images) / concept, pipe)[: config.images_each]
    else:
        seeds = [(config.seed * 1_000_003 + i) % 2**31 for i in range(config.images_each)]
        prompts = [f"a photo of the {concept}"] * config.images_each
        images = pipe(prompts, guidance=config.guidance, seeds=seeds, steps=config.sample_steps).arrays
    if len(images) < config.images_each:
        given = f"{len(images)} images of {concept!r}"
        raise InputError(given, f"{config.images_each} of each concept", "add images, or lower images_each")
    if not config.masks:
        return images, foreground(images)
    grey = from_config.images(Path(config.masks) / concept, pipe)[: config.images_each].mean(axis=-1)
    if len(grey) != len(images):
        given = f"{len(grey)} masks for {len(images)} images of {concept!r}"
        raise InputError(given, "one for each image", "complete the folder")
    return images, grey > 127.5


def foreground(images: HostImages, tolerance: int = 48) -> Masks:
    """The pixels of an image that differ from its most frequent colour by more than `tolerance` in a channel."""
    masks = []
    for image in images:
        colours, counts = np.unique((image // 16).reshape(-1, 3), axis=0, return_counts=True)
        frequent = colours[counts.argmax()].astype(int) * 16 + 8
        masks.append((np.abs(image.astype(int) - frequent) > tolerance).any(axis=-1))
    return np.stack(masks)
