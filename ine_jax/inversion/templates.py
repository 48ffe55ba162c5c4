"""Sentences in which a learned token stands while it is being learned; {} is its place."""

import numpy as np

from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.models.text import PLACEHOLDER, Tokenizer

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

    Of a named list only those sentences are used that fit and whose every word is one token of this tokenizer: a small
    model was never shown words that it must spell. A given sentence is used as it is, and one that is too long is an
    error. Raises InputError for that, an unknown name, or a sentence without exactly one {}.
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
    fits = [w and _known(text, tokenizer) for w, text in zip(whole, sentences, strict=True)]
    if named and any(fits):
        return tuple(text for text, good in zip(sentences, fits, strict=True) if good)
    if not all(whole) or not sentences:
        long = sentences[whole.index(False)] if sentences else "(none)"
        given = f"template {long!r} with {len(embedding.vectors)} vectors"
        raise InputError(given, f"at most {tokenizer.max_length - 2} tokens", "use a shorter template or fewer vectors")
    return sentences


def _known(sentence: str, tokenizer: Tokenizer) -> bool:
    return all(len(tokenizer.word_ids(word)) == 1 for word in sentence.replace("{}", " ").split())


def template_ids(sentences: tuple[str, ...], embedding: Embedding, tokenizer: Tokenizer) -> np.ndarray:
    """Token ids int32 [P, T] of the sentences; row j of the embedding appears as PLACEHOLDER + j."""
    ids = tokenizer.ids([sentence.replace("{}", embedding.token) for sentence in sentences], [embedding])
    if not ((ids >= PLACEHOLDER).sum(1) == len(embedding.vectors)).all():
        raise AssertionError("a learned row is missing from a template")
    return ids
