"""Words of a model's vocabulary near learned vectors, read from its files; no model is built."""

from pathlib import Path

import numpy as np

from ine_jax import assets
from ine_jax.errors import InputError
from ine_jax.storage.weight_files import Weights, inside, read_json

TABLE = "text_model.embeddings.token_embedding.weight"
_WORD_END = "</w>"  # CLIP's mark of a piece that ends a word


def nearest_words(vectors: np.ndarray, model: str, count: int = 5) -> tuple[list[list[str]], float]:
    """Find the entries of a model's vocabulary nearest to each of the vectors `[k, d]`; `model` is bundled or a folder.

    Returns:
        For each row the `count` entries of largest cosine, as "word 0.812" (a piece that does not end a word has a
        hyphen behind it), and the median norm of the vocabulary.
    """
    folder = _folder(model)
    words = read_json(inside(folder, "tokenizer/vocab.json"))
    table = _table(folder)
    rows = np.asarray(vectors, np.float32)
    if table.shape[1] != rows.shape[1]:
        given = f"vectors of {rows.shape[1]} numbers, and {table.shape[1]} in the table of {model}"
        raise InputError(given, "a model of the embedding's own family", "name another --base")
    names = {index: name for name, index in words.items() if isinstance(index, int)}
    lengths = np.linalg.norm(table, axis=1)
    cosines = (rows @ table.T) / np.maximum(np.linalg.norm(rows, axis=1)[:, None] * lengths[None], 1e-12)
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    pairs = zip(best.tolist(), cosines, strict=True)
    return [[f"{_word(names, i)} {row[i]:.3f}" for i in chosen] for chosen, row in pairs], float(np.median(lengths))


def _folder(model: str) -> Path:
    bundled = assets.resolve(model)
    folder = bundled[0] if bundled else Path(model)
    if not (folder / "text_encoder").is_dir() or not (folder / "tokenizer").is_dir():
        given = f"--base {model}: no text_encoder and tokenizer"
        raise InputError(given, "a bundled name or a model folder", "check the path")
    return folder


def _table(folder: Path) -> np.ndarray:
    """Return the token table in float32, from the safetensors file of the text encoder that holds it."""
    files = sorted((folder / "text_encoder").glob("*.safetensors"))
    for file in files:
        held = Weights((inside(folder, f"text_encoder/{file.name}"),))
        if TABLE in held:
            return np.asarray(held[TABLE], np.float32)
    raise InputError(f"{folder}/text_encoder holds no {TABLE}", "safetensors of a CLIP text model", "check the folder")


def _word(names: dict[int, str], index: int) -> str:
    name = names.get(index, f"#{index}")
    return name.removesuffix(_WORD_END) if name.endswith(_WORD_END) or name.startswith("<|") else f"{name}-"
