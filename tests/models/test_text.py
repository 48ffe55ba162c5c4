"""Prompts to context: ids, truncation, and learned rows in the place of their token."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.models.clip import ClipText, ClipTextConfig
from ine_jax.models.text import PLACEHOLDER, Tokenizer, encode_ids, learned_rows, splice
from ine_jax.types import Params
from tests.support.encoding import encode_prompts
from tests.support.tiny_pipeline import LENGTH, WIDTH, random_like, text_config


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.from_dir(tokenizer_folder, LENGTH)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> tuple[ClipText, Params]:
    clip = ClipText(ClipTextConfig.from_dict(text_config(len(tokenizer.backend))))
    shapes = jax.eval_shape(clip.init, jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))["params"]
    return clip, jax.tree.map(jnp.asarray, random_like(shapes, 0))


def learned(k: int = 3, concept: str = "knife") -> Embedding:
    return Embedding(np.random.default_rng(k).standard_normal((k, WIDTH)).astype(np.float32), concept=concept)


def table(params: Params) -> jax.Array:
    return params["text_model"]["embeddings"]["token_embedding"]["embedding"]


@pytest.mark.parametrize("length", [8, 24, 77])
def test_ids_equal_the_tokenizers_own(tokenizer_folder: Path, length: int) -> None:
    tokenizer = Tokenizer.from_dir(tokenizer_folder, length)
    prompts = ["a photo of a cat", "", "Red, APPLE and  dog!", "knife " * 100, "<other> <|endoftext|> cat", "naïve 刀"]
    expected = tokenizer.backend(prompts, padding="max_length", max_length=length, truncation=True)["input_ids"]
    found = tokenizer.ids(prompts)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def test_truncation_is_flagged(tokenizer: Tokenizer) -> None:
    fits = " ".join(["cat"] * (LENGTH - 2))
    assert tokenizer.truncated([fits, fits + " dog", ""]) == [False, True, False]
    assert tokenizer.truncated(["cat " * (LENGTH - 3) + "<knife>"], [learned(2)]) == [True]


def test_a_learned_token_becomes_consecutive_placeholders(tokenizer: Tokenizer) -> None:
    one, two = learned(3), learned(2, "weapon group")
    prompt = f"a {two.token}, <knife>"
    ids = tokenizer.ids([prompt], [one, two])[0].tolist()
    plain = tokenizer.ids(["a ,"])[0].tolist()
    assert ids[:8] == [*plain[:2], PLACEHOLDER + 3, PLACEHOLDER + 4, plain[2], *range(PLACEHOLDER, PLACEHOLDER + 3)]
    assert ids[8] == tokenizer.backend.eos_token_id


def test_an_unknown_name_stays_ordinary_text(tokenizer: Tokenizer) -> None:
    prompts = ["a <knife>", "a <Knife>", "a knife"]
    np.testing.assert_array_equal(tokenizer.ids(prompts, [learned(1, "other")]), tokenizer.ids(prompts))
    assert (tokenizer.ids(prompts, [learned(1)]) >= PLACEHOLDER).any(axis=1).tolist() == [True, False, False]


def test_the_vocabulary_never_grows(tokenizer: Tokenizer) -> None:
    before = len(tokenizer.backend)
    tokenizer.ids(["a <knife>"], [learned()])
    assert len(tokenizer.backend) == before


def test_rows_of_the_table_as_embedding_encode_like_their_words(
    tokenizer: Tokenizer, model: tuple[ClipText, Params]
) -> None:
    clip, params = model
    words = tokenizer.word_ids("red knife")
    assert len(words) == 2
    same = Embedding(np.asarray(table(params))[np.asarray(words)], concept="x")
    found = encode_prompts(clip, params, tokenizer, ["a photo of a <x> and the dog"], [same])
    expected = encode_prompts(clip, params, tokenizer, ["a photo of a red knife and the dog"])
    assert found.shape == (1, LENGTH, WIDTH)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_learned_rows_change_the_context_from_their_place_on(
    tokenizer: Tokenizer, model: tuple[ClipText, Params]
) -> None:
    clip, params = model
    plain = encode_prompts(clip, params, tokenizer, ["a cat"])
    other = encode_prompts(clip, params, tokenizer, ["a <knife>"], [learned(1)])
    np.testing.assert_array_equal(plain[0, :2], other[0, :2])
    assert np.abs(np.asarray(plain[0, 2:] - other[0, 2:])).max() > 1e-2


def test_splice_puts_each_row_in_its_place(model: tuple[ClipText, Params]) -> None:
    _, params = model
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((8, WIDTH)), jnp.float32)
    ids = jnp.asarray([[5, PLACEHOLDER + 1, 7, PLACEHOLDER]], jnp.int32)
    known, vectors = splice(params, ids, rows)
    assert known.tolist() == [[5, 0, 7, 0]]
    np.testing.assert_array_equal(vectors[0, 1], rows[1])
    np.testing.assert_array_equal(vectors[0, 3], rows[0])
    np.testing.assert_array_equal(vectors[0, 2], table(params)[7])


def test_a_half_precision_table_does_not_round_learned_rows(model: tuple[ClipText, Params]) -> None:
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model[1])
    rows = jnp.full((8, WIDTH), 1.001, jnp.float32)
    _, vectors = splice(params, jnp.asarray([[PLACEHOLDER]], jnp.int32), rows)
    np.testing.assert_array_equal(vectors[0, 0], rows[0])


def test_only_used_rows_have_a_gradient(tokenizer: Tokenizer, model: tuple[ClipText, Params]) -> None:
    clip, params = model
    ids = jnp.asarray(tokenizer.ids(["a <knife>"], [learned(2)]))
    rows = jnp.asarray(learned_rows([learned(2)], WIDTH))
    # A plain sum would have no gradient: a layer norm fixes the sum of its output.
    gradient = jax.grad(lambda r: (encode_ids(clip, params, ids, r) ** 3).sum())(rows)
    assert (np.abs(gradient).max(axis=1) > 1e-5).tolist() == [True, True] + [False] * 6


def test_learned_rows_are_padded_to_few_shapes() -> None:
    assert learned_rows([], WIDTH).shape == (8, WIDTH)
    rows = learned_rows([learned(3), learned(6, "b")], WIDTH)
    assert rows.shape == (16, WIDTH)
    np.testing.assert_array_equal(rows[3:9], learned(6, "b").vectors)
    assert not rows[9:].any()


def test_misfits_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two embeddings"):
        tokenizer.ids(["a"], [learned(1), learned(2)])
    with pytest.raises(InputError, match="context embedding"):
        tokenizer.ids(["a"], [Embedding(np.ones((LENGTH, WIDTH), np.float32), "context")])
    with pytest.raises(InputError, match="16 numbers"):
        learned_rows([learned()], 32)
    with pytest.raises(InputError, match="list of prompts"):
        tokenizer.ids("a cat")
    with pytest.raises(InputError, match="max_length"):
        Tokenizer.from_dir(tmp_path, 2)


def test_folders_that_are_no_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"vocab\.json"):
        Tokenizer.from_dir(tmp_path, 24)
    (tmp_path / "vocab.json").write_text("{broken")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(InputError, match="tokenizer folder"):
        Tokenizer.from_dir(tmp_path, 24)
