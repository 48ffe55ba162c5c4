"""What is to be avoided, and its three forms: one sequence, a bank of them, pooled columns."""

from pathlib import Path

import numpy as np
import pytest

from ine_jax import assets
from ine_jax.config import NegativeConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.guidance.concept import Concept, as_concept
from ine_jax.pipeline.pipeline import Pipeline, load
from scripts.train_world.manifest import write_manifest
from tests.support.concepts import DIM, ONE, TOKENS, TWO, encode, numbers, one
from tests.support.tiny_pipeline import LENGTH, WIDTH
from tests.support.typechecking import unchecked

CONTEXT = Embedding(numbers("found"), "context", "found", "tiny")


def test_a_sequence_is_made_of_all_phrases_joined_by_commas() -> None:
    found = Concept(words=("knife", "a gun")).sequence(encode)
    assert found.shape == (1, TOKENS, DIM) and found.dtype == np.float32
    np.testing.assert_array_equal(found[0], one("knife, a gun"))


def test_a_learned_token_stands_in_its_template() -> None:
    np.testing.assert_array_equal(Concept(embeddings=(ONE,)).sequence(encode)[0], one("<one>", ONE))
    framed = Concept(embeddings=(TWO,), template="a photo of {}").sequence(encode)
    np.testing.assert_array_equal(framed[0], one("a photo of <two>", TWO))


def test_several_embeddings_act_by_their_mean() -> None:
    found = Concept(embeddings=(ONE, TWO, CONTEXT)).sequence(encode)
    told = (np.float64(one("<one>", ONE)) + one("<two>", TWO) + CONTEXT.vectors) / 3
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], told, atol=1e-6)


def test_a_context_embedding_is_taken_as_it_is() -> None:
    found = Concept(embeddings=(CONTEXT,), template="a photo of {}").sequence(encode)
    np.testing.assert_array_equal(found[0], CONTEXT.vectors)


def test_a_blend_goes_from_words_to_embeddings() -> None:
    words, found = Concept(words=("knife", "gun")).sequence(encode), Concept(embeddings=(ONE, TWO)).sequence(encode)

    def blend(weight: float) -> np.ndarray:
        return Concept(("knife", "gun"), (ONE, TWO), blend=weight).sequence(encode)

    np.testing.assert_array_equal(blend(0.0), words)
    np.testing.assert_array_equal(blend(1.0), found)
    np.testing.assert_allclose(blend(0.25), 0.75 * np.float64(words) + 0.25 * found, atol=1e-6)
    assert blend(0.25).dtype == np.float32


def test_a_bank_has_one_context_for_every_phrase_and_every_embedding() -> None:
    found = Concept(("knife", "a gun"), (ONE, CONTEXT), blend=0.5).bank(encode)
    assert found.shape == (4, TOKENS, DIM)
    for context, told in zip(found, (one("knife"), one("a gun"), one("<one>", ONE), CONTEXT.vectors), strict=True):
        np.testing.assert_array_equal(context, told)


def test_columns_are_contexts_at_the_end_token() -> None:
    words = Concept(words=("knife", "a very big gun")).columns(encode)
    assert words.shape == (2, DIM)
    np.testing.assert_array_equal(words, [one("knife")[2], one("a very big gun")[5]])
    found = Concept(embeddings=(ONE, CONTEXT), template="a photo of {}").columns(encode)
    assert found.shape == (2, DIM)
    # of a context embedding the last position, which holds the end token like all of the padding
    np.testing.assert_array_equal(found, [one("a photo of <one>", ONE)[5], CONTEXT.vectors[-1]])


def test_columns_of_a_blend_are_those_of_the_words_moved_towards_the_embeddings() -> None:
    words, found = ("knife", "gun"), (ONE, TWO)
    explicit, implicit = Concept(words).columns(encode), Concept(embeddings=found).columns(encode)
    np.testing.assert_array_equal(Concept(words, found, blend=0.0).columns(encode), explicit)
    whole = Concept(words, found, blend=1.0).columns(encode)
    np.testing.assert_array_equal(whole, np.stack([implicit.mean(axis=0)] * 2))
    half = Concept(words, found, blend=0.5).columns(encode)
    np.testing.assert_allclose(half, (explicit + implicit.mean(axis=0)) / 2, atol=1e-6)
    assert half.dtype == np.float32


def test_everything_that_names_a_concept_becomes_one() -> None:
    assert as_concept(None) is None
    given = Concept(words=("knife",))
    assert as_concept(given) is given
    assert as_concept("knife") == given
    assert as_concept("").words == ("",)  # type: ignore[union-attr]  # the empty prompt is a negative too
    assert as_concept(["knife", "gun"]) == as_concept(("knife", "gun")) == Concept(words=("knife", "gun"))
    assert as_concept(ONE) == Concept(embeddings=(ONE,))
    assert as_concept([ONE, TWO]) == Concept(embeddings=(ONE, TWO))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "an empty negative"),
        ({"blend": 0.5}, "an empty negative"),
        ({"words": ("knife",), "blend": 0.5}, "blend"),
        ({"embeddings": (ONE,), "blend": 0.5}, "blend"),
        ({"words": ("knife",), "embeddings": (ONE,)}, "blend"),
        ({"words": ("knife",), "embeddings": (ONE,), "blend": 1.5}, "blend"),
        ({"words": ("knife",), "embeddings": (ONE,), "blend": -0.5}, "blend"),
        ({"words": ("knife",), "embeddings": (ONE,), "blend": float("nan")}, "blend"),
        ({"embeddings": (ONE,), "template": "a photo"}, "template"),
        ({"embeddings": (ONE,), "template": "{} {}"}, "template"),
    ],
)
def test_concepts_that_contradict_themselves_are_refused(fields: dict, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Concept(**fields)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "an empty negative"),
        (["knife", ONE], "of Embedding, str"),
        ([ONE, None], "of Embedding, NoneType"),
        (3, "of int"),
        (np.ones((1, TOKENS, DIM)), "of ndarray"),
    ],
)
def test_what_names_no_concept_is_refused(given: object, reason: str) -> None:
    with unchecked(), pytest.raises(InputError, match=reason):
        as_concept(given)  # type: ignore[arg-type]


def test_a_text_that_names_a_file_is_loaded_or_rejected_and_never_a_phrase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("weapon.safetensors", ["./weapon.safetensors"], "runs/Weapon.PT", "weapon.bin ", Path("weapon")):
        with pytest.raises(InputError, match="embedding file"):
            as_concept(given)
    ONE.save("weapon.safetensors")
    Path("knife").write_bytes(Path("weapon.safetensors").read_bytes())
    Path("gun").write_text("no embedding")
    for given in ("weapon.safetensors", tmp_path / "weapon.safetensors", ["weapon.safetensors"], "knife"):
        found = as_concept(given)
        assert found is not None and not found.words
        np.testing.assert_array_equal(found.embeddings[0].vectors, ONE.vectors)
    with pytest.raises(InputError, match="embedding file gun"):
        as_concept("gun")
    for words in ("weapon.safetensors", "other.pt", "knife"):
        with pytest.raises(InputError, match=f"negative words '{words}': a file"):
            Concept(words=(words,))
        with pytest.raises(InputError, match="a file belongs to embedding"):
            NegativeConfig(words=("a sword", words))


def test_the_name_of_a_bundled_embedding_is_loaded() -> None:
    if not assets.embeddings():
        pytest.skip("the family is not installed")
    name = assets.embeddings()[0]
    found = as_concept(name)
    assert found is not None and found.embeddings[0].concept == Embedding.load(assets.embedding(name)).concept


@pytest.mark.parametrize("form", ["sequence", "bank", "columns"])
def test_a_context_of_another_model_is_refused(form: str) -> None:
    other = Embedding(np.ones((TOKENS + 1, DIM), np.float32), "context", "other")
    with pytest.raises(InputError, match=r"context embedding <other> of shape \(7, 4\)"):
        getattr(Concept(embeddings=(other,)), form)(encode)


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4)


def test_forms_from_a_real_encoder(pipe: Pipeline) -> None:
    """The pooled vector stands where the end token is, of words and of a token of several rows."""
    found = Embedding(np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32), concept="thing")
    concept = Concept(("knife", "red apple"), (found,), template="a photo of a {}", blend=0.0)
    real = pipe._encoder((), 4)
    contexts = pipe.encode(["knife", "red apple", "knife, red apple"])
    np.testing.assert_allclose(concept.sequence(real)[0], contexts[2], atol=1e-6)
    np.testing.assert_allclose(concept.columns(real), [contexts[0, 2], contexts[1, 3]], atol=1e-6)
    framed = pipe.encode(["a photo of a <thing>"], [found])[0]
    bank = concept.bank(real)
    assert bank.shape == (3, LENGTH, WIDTH)
    np.testing.assert_allclose(bank, [*contexts[:2], framed], atol=1e-6)
    implicit = Concept(embeddings=(found,), template="a photo of a {}").columns(real)
    np.testing.assert_allclose(implicit, framed[None, 1 + 4 + 3], atol=1e-6)


def test_bundled_embeddings_have_names_and_others_have_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    with pytest.raises(InputError, match=r"embedding weapon\n.*none in this installation"):
        assets.embedding("weapon")
    folder = tmp_path / "tiny" / "embeddings"
    folder.mkdir(parents=True)
    for name in ("weapon", "other"):
        ONE.save(folder / f"{name}.safetensors")
    write_manifest(tmp_path)
    assert assets.embedding("weapon") == folder / "weapon.safetensors"
    with pytest.raises(InputError, match="other, weapon"):
        assets.embedding("weapons")
    for path in ("weapon.safetensors", "runs/weapon", "./weapon", r"runs\weapon"):
        assert assets.embedding(path) == Path(path)
