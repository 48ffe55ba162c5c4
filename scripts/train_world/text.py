"""The small world's tokenizer and its text encoder, which is random and never trained.

Stable Diffusion trains its UNet against a frozen text encoder. A random one with token rows of unit variance is the
smallest honest stand-in: every word is its own direction and nothing merges synonyms, so a word can be erased from the
UNet while another word for the same thing stays.
"""

import collections
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import pre_tokenizers

from ine_jax.models.clip import ClipText, ClipTextConfig
from scripts.train_world import world

MAX_LENGTH = 24
START, END = "<|startoftext|>", "<|endoftext|>"
_EMBED_STD, _SPECIAL_STD, _POSITION_STD, _OUT_GAIN = 1.0, 0.3, 0.3, 0.5


def write_tokenizer(folder: Path) -> int:
    """Write CLIP's tokenizer files with merges that make every word one token; return the vocabulary size."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    base = sorted(alphabet) + sorted(f"{c}</w>" for c in alphabet)
    merges = learn_merges(world.vocabulary())
    tokens = base + ["".join(m) for m in merges] + [START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_LENGTH, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1))
    return len(vocab)


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (arXiv 1508.07909, algorithm 1) until every word is one token; ties go to the first in order."""
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while any(len(parts) > 1 for parts in split):
        counts = collections.Counter(pair for parts in split for pair in itertools.pairwise(parts))
        first, second = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append((first, second))
        for parts in split:
            for i in reversed(range(len(parts) - 1)):
                if parts[i : i + 2] == [first, second]:
                    parts[i : i + 2] = [first + second]
    return merges


def random_encoder(vocab_size: int, seed: int) -> tuple[ClipTextConfig, Any]:
    """Config and parameters of the frozen random encoder.

    Token rows have unit variance and special tokens less, so the output at the end token depends on the words before
    it. Attention outputs are halved, so a word's own row dominates its position.
    """
    config = ClipTextConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        eos_token_id=vocab_size - 1,
    )
    ids = jnp.zeros((1, MAX_LENGTH), jnp.int32)
    shapes = jax.eval_shape(lambda: ClipText(config).init(jax.random.key(0), ids)["params"])
    rng = np.random.default_rng(seed)

    def initialise(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("bias") or name.endswith("scale"):
            return np.full(leaf.shape, float(name.endswith("scale")), np.float32)
        values = rng.standard_normal(leaf.shape).astype(np.float32)
        if "token_embedding" in name:
            values[-2:] *= _SPECIAL_STD
            return values * _EMBED_STD
        if "position_embedding" in name:
            return values * _POSITION_STD
        gain = _OUT_GAIN if "out_proj" in name or "fc2" in name else 1.0
        return values * gain / np.sqrt(leaf.shape[0])

    return config, jax.tree_util.tree_map_with_path(initialise, shapes)
