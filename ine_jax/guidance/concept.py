"""The concept a guard avoids, and its forms for the slots: one mechanism for words and for learned embeddings.

A guard reads encoded text, whatever its source. It comes in three forms: a *sequence* [token, dim] for the
unconditional or safety row, a *bank* of sequences to choose among, and *columns*, pooled vectors that span the
concept's subspace (SAFREE).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from ine_jax import assets
from ine_jax.config.checks import is_file_name
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError, InputTypeError
from ine_jax.storage.provenance import value_hash

# (prompts, embeddings whose tokens they contain) -> contexts [B, T, D] and the position of each prompt's end token [B]
Encode: TypeAlias = Callable[[Sequence[str], Sequence[Embedding]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Concept:
    """The concept to avoid: phrases, learned embeddings, or a blend of both.

    Attributes:
        words: phrases; a sequence encodes all of them, joined by commas.
        embeddings: token-space ones are put into `template` and encoded, context-space ones used as they are.
        template: text around a learned token, with one {}.
        blend: β, the weight of the embeddings beside words: (1 - β) words + β embeddings.

    Raises:
        InputError: neither words nor embeddings; both without `blend`, or `blend` without both; β outside [0, 1]; a
            template that does not have exactly one {}; words that are the name of a file.
    """

    words: tuple[str, ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    template: str = "{}"
    blend: float | None = None

    def __post_init__(self) -> None:
        if not (self.words or self.embeddings):
            raise InputError("an empty negative", "words, embeddings, or both", "name the concept to avoid")
        both = bool(self.words and self.embeddings)
        if both != (self.blend is not None) or not 0 <= (self.blend or 0.0) <= 1:
            given = f"words {bool(self.words)}, embeddings {bool(self.embeddings)}, blend {self.blend}"
            raise InputError(given, "blend from 0 (words) to 1 (embeddings), with both and only then", "change blend")
        file = next(filter(is_file_name, self.words), None)
        if file is not None:
            raise InputError(f"negative words {file!r}: a file", "phrases", f"give Embedding.load({file!r})")
        if self.template.count("{}") != 1:
            given = f"negative template {self.template[:60]!r}"
            raise InputError(given, "text with one {}", "for example 'a photo of a {}'")

    def sequence(self, encode: Encode) -> Float[np.ndarray, "1 token dim"]:
        """Return one context of all words and embeddings: several embeddings by their mean."""
        forms = []
        if self.words:
            forms.append(encode([", ".join(self.words)], ())[0][0])
        if self.embeddings:
            forms.append(np.mean([self._implicit(e, encode)[0] for e in self.embeddings], axis=0))
        return self._mixed(forms)[None]

    def record(self) -> dict[str, object]:
        """The concept as JSON values, to which a directory is bound; embeddings by the hash of their numbers."""
        learned = [
            {"token": e.token, "space": e.space, "values": value_hash(np.asarray(e.vectors, np.float32).tolist())}
            for e in self.embeddings
        ]
        return {"words": list(self.words), "embeddings": learned, "template": self.template, "blend": self.blend}

    def bank(self, encode: Encode) -> Float[np.ndarray, "choice token dim"]:
        """Return one context per phrase and per embedding; `blend` plays no part."""
        forms = [encode([phrase], ())[0][0] for phrase in self.words]
        return np.stack([*forms, *(self._implicit(e, encode)[0] for e in self.embeddings)])

    def columns(self, encode: Encode) -> Float[np.ndarray, "column dim"]:
        """Return pooled vectors, one per phrase, or one per embedding where there are no words.

        A blend moves every phrase's vector towards the mean vector of the embeddings. The pooled vector is the context
        at the end token; of a context-space embedding, its last position, which is an end token's too.
        """
        implicit = np.stack([self._implicit(e, encode)[1] for e in self.embeddings]) if self.embeddings else None
        if not self.words:
            assert implicit is not None  # noqa: S101  __post_init__ checks it
            return implicit
        contexts, ends = encode(list(self.words), ())
        explicit = contexts[np.arange(len(ends)), ends]
        if implicit is None or self.blend is None:
            return explicit
        return np.asarray((1 - self.blend) * explicit + self.blend * implicit.mean(axis=0), np.float32)

    def _implicit(
        self, embedding: Embedding, encode: Encode
    ) -> tuple[Float[np.ndarray, "token dim"], Float[np.ndarray, "dim"]]:
        """Return the context and the pooled vector of one embedding."""
        if embedding.space == "token":
            contexts, ends = encode([self.template.replace("{}", embedding.token)], (embedding,))
            return contexts[0], contexts[0, ends[0]]
        shape = encode([""], ())[0].shape[1:]
        vectors = np.asarray(embedding.vectors, np.float32)
        if vectors.shape != shape:
            given = f"context embedding {embedding.token} of shape {vectors.shape}"
            raise InputError(given, f"{shape} for this model", "use an embedding made for this model family")
        return vectors, vectors[-1]

    def _mixed(self, forms: Sequence[np.ndarray]) -> Float[np.ndarray, "token dim"]:
        if len(forms) == 1:
            return np.asarray(forms[0], np.float32)
        beta = self.blend or 0.0
        return np.asarray((1 - beta) * forms[0] + beta * forms[1], np.float32)


Part: TypeAlias = str | os.PathLike[str] | Embedding
NegativeLike: TypeAlias = Part | Sequence[Part] | Concept | None


def as_concept(negative: NegativeLike) -> Concept | None:
    """Return a phrase, several, an embedding or several as a `Concept`; None stays None.

    A path, a text that names a file, and the name of a bundled embedding are loaded, or rejected as `Embedding.load`
    does: as a phrase the name of a file would guard nothing.
    """
    if negative is None or isinstance(negative, Concept):
        return negative
    several = isinstance(negative, Sequence) and not isinstance(negative, str)
    given = tuple(map(_loaded, negative if several else (negative,)))  # type: ignore[arg-type]
    if all(isinstance(each, str) for each in given):
        return Concept(words=given)  # type: ignore[arg-type]
    if all(isinstance(each, Embedding) for each in given):
        return Concept(embeddings=given)  # type: ignore[arg-type]
    kinds = ", ".join(sorted({type(each).__name__ for each in given}))
    raise InputTypeError(f"a negative of {kinds}", "phrases, or embeddings", "use Concept to give both, with a blend")


def _loaded(part: Part) -> str | Embedding:
    """Return the embedding that a path or name means, and anything else as it is."""
    if isinstance(part, os.PathLike):
        return Embedding.load(part)
    if isinstance(part, str) and (part in assets.embeddings() or is_file_name(part)):
        return Embedding.load(part)
    return part
