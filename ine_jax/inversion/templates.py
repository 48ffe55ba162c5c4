"""Sentences in which a learned token stands while it is being learned; {} is its place."""

import numpy as np

from ine_jax.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.text import PLACEHOLDER, Tokenizer

BARE = ("{}",)
# Ordinary captions in plain words, so that a small vocabulary knows most of them.
OBJECT = (
    "a photo of a {}",
    "a photo of the {}",
    "a photo of one {}",
    "a picture of a {}",
    "a picture of the {}",
    "an image of a {}",
    "an image of the {}",
    "a photo with a {} in it",
    "a picture that shows a {}",
    "here is a {}",
    "this is a {}",
    "one {} in the picture",
    "a single {}",
    "a small {}",
    "a large {}",
    "a clear view of a {}",
    "a {} seen from the front",
    "a {} seen from the side",
    "a {} on a plain background",
    "the {} in the middle of the image",
)
NAMED = {"bare": BARE, "object": OBJECT}


def usable(templates: str | tuple[str, ...], embedding: Embedding, tokenizer: Tokenizer) -> tuple[str, ...]:
    """The templates by name or as given, in which all rows of the embedding fit before the text encoder's end.

    Of a named list those that are too long for a short text encoder are left out; a given one that is too long is an
    error. Raises InputError for that, an unknown name, or a template without exactly one {}.
    """
    if isinstance(templates, str) and templates not in NAMED:
        raise InputError(f"templates {templates!r}", "object, bare, or sentences that each hold {}", "change templates")
    named = isinstance(templates, str)
    sentences = NAMED[templates] if isinstance(templates, str) else tuple(templates)
    for sentence in sentences:
        if sentence.count("{}") != 1:
            raise InputError(f"template {sentence!r}", "a sentence with one {}", "write {} where the concept stands")
    prompts = [sentence.replace("{}", embedding.token) for sentence in sentences]
    whole = [not cut for cut in tokenizer.truncated(prompts, [embedding])]
    if named and any(whole):
        return tuple(sentence for sentence, fits in zip(sentences, whole, strict=True) if fits)
    if not all(whole) or not sentences:
        long = sentences[whole.index(False)] if sentences else "(none)"
        given = f"template {long!r} with {len(embedding.vectors)} vectors"
        raise InputError(given, f"at most {tokenizer.max_length - 2} tokens", "use a shorter template or fewer vectors")
    return sentences


def template_ids(sentences: tuple[str, ...], embedding: Embedding, tokenizer: Tokenizer) -> np.ndarray:
    """Token ids int32 [P, T] of the sentences; row j of the embedding appears as PLACEHOLDER + j."""
    ids = tokenizer.ids([sentence.replace("{}", embedding.token) for sentence in sentences], [embedding])
    if not ((ids >= PLACEHOLDER).sum(1) == len(embedding.vectors)).all():
        raise AssertionError("a learned row is missing from a template")
    return ids
