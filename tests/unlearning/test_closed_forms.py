"""UCE and RECE: the published expressions in PyTorch's layout, which tokens count, and the rounds."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ine_jax.config import ReceConfig, UceConfig, UnlearnConfig
from ine_jax.errors import InputError
from ine_jax.inversion.rece import projections
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.training.curves import read_log
from ine_jax.unlearning import rece, uce

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4, compile_cache=False)


def published(weight: np.ndarray, edits: list[uce.Edit], lamb: float) -> np.ndarray:
    """A weight [out, D] after the sums of the authors' code, one outer product per row of context."""
    left, right = lamb * weight, lamb * np.eye(weight.shape[1])
    for edit in edits:
        for source, target in zip(edit.source, edit.target, strict=True):
            left = left + edit.weight * np.outer(weight @ target, source)
            right = right + edit.weight * np.outer(source, source)
    return left @ np.linalg.inv(right)


def made_edits(dim: int = 6) -> list[uce.Edit]:
    rng = RNG(0)
    source, target, kept = rng.standard_normal((3, 3, dim))
    return [uce.Edit(source[:2], target[:2], 1.0), uce.Edit(kept, kept, 0.3)]


@pytest.mark.parametrize("lamb", [0.1, 0.5, 3.0])
def test_the_edit_equals_the_published_expression(lamb: float) -> None:
    kernel, edits = RNG(1).standard_normal((6, 4)), made_edits()
    found = uce.edit_matrix(edits, lamb) @ kernel
    np.testing.assert_allclose(found, published(kernel.T, edits, lamb).T, rtol=1e-9, atol=1e-12)


def test_the_edit_is_a_minimum() -> None:
    kernel, edits, lamb = RNG(1).standard_normal((6, 4)), made_edits(), 0.5

    def objective(edited: np.ndarray) -> float:
        far = [edit.weight * np.sum((edit.source @ edited - edit.target @ kernel) ** 2) for edit in edits]
        return float(sum(far) + lamb * np.sum((edited - kernel) ** 2))

    best = uce.edit_matrix(edits, lamb) @ kernel
    around = [best + 1e-3 * RNG(seed).standard_normal(best.shape) for seed in range(20)]
    assert all(objective(best) < objective(other) for other in around)


def test_without_a_concept_to_change_nothing_changes() -> None:
    kept = RNG(0).standard_normal((3, 6))
    np.testing.assert_allclose(uce.edit_matrix([uce.Edit(kept, kept, 2.0)], 0.1), np.eye(6), atol=1e-12)


@pytest.mark.parametrize("text", ["", "knife", "a photo of the red apple"])
def test_the_last_token_is_where_the_mask_ends(pipe: Pipeline, text: str) -> None:
    backend, length = pipe.tokenizer.backend, pipe.tokenizer.max_length
    mask = backend([text], padding="max_length", max_length=length, truncation=True)["attention_mask"]
    rows = pipe.encode([text])[0]
    edit = uce.last_token(pipe, text, text, 1.0)
    np.testing.assert_array_equal(edit.source, rows[[np.sum(mask) - 2]])


@pytest.mark.parametrize(("concept", "guide"), [("knife", ""), ("a knife", "the red apple"), ("the red apple", "cat")])
def test_the_older_code_edits_from_there_to_the_end(pipe: Pipeline, concept: str, guide: str) -> None:
    lasts = [len(pipe.tokenizer.word_ids(text)) for text in (concept, guide)]
    cut = []
    for text, last in zip((concept, guide), lasts, strict=True):
        rows = pipe.encode([text])[0]
        cut.append(rows[last : len(rows) - max(0, max(lasts) - last)])
    edit = uce.from_last_token(pipe, concept, guide, 1.0)
    np.testing.assert_array_equal(edit.source, cut[0])
    np.testing.assert_array_equal(edit.target, cut[1])


def test_the_whole_run_equals_the_published_sums(pipe: Pipeline, tmp_path: Path) -> None:
    config = UceConfig(erase=("knife", "a weapon"), guide=("cat", ""), preserve=("a dog", "apple"), expand="object")
    found = projections(uce.unlearn(pipe, config, tmp_path).params)
    phrases = ("", "image of ", "photo of ", "portrait of ", "picture of ", "painting of ")

    def last(text: str) -> np.ndarray:
        return pipe.encode([text])[0].astype(np.float64)[[len(pipe.tokenizer.word_ids(text))]]

    pairs = [(f"{p}{a}", f"{p}{b}") for p in phrases for a, b in (("knife", "cat"), ("a weapon", ""))]
    edits = [uce.Edit(last(concept), last(guide), 1.0) for concept, guide in pairs]
    edits += [uce.Edit(last(text), last(text), 1.0) for text in config.preserve]
    for name, kernel in projections(pipe.parts.unet_params).items():
        np.testing.assert_allclose(found[name], published(kernel.T, edits, 0.5).T, rtol=1e-5, atol=1e-6)
    log = read_log(tmp_path)
    assert 0 < log["loss"][0] < 1 and 0 <= log["preserve"][0] < 0.5


def test_reces_rounds_equal_the_published_ones(pipe: Pipeline, tmp_path: Path) -> None:
    config = ReceConfig(erase=("knife",), epochs=2)
    found = projections(rece.unlearn(pipe, config, tmp_path).params)
    old = {name: kernel.T for name, kernel in projections(pipe.parts.unet_params).items()}  # [out, D]
    concept, empty = (pipe.encode([text])[0].astype(np.float64) for text in ("knife", " "))
    kept = uce.Edit(empty, empty, 0.1)
    new = {name: published(w, [uce.Edit(concept[1:], empty[:-1], 1.0), kept], 0.1) for name, w in old.items()}
    # the empty text's last token is its begin: the older code cuts one position off its end
    for _ in range(config.epochs):
        left = 0.1 * np.eye(concept.shape[1]) + sum(w.T @ w for w in new.values())
        coefficient = np.linalg.inv(left) @ sum(new[name].T @ old[name] for name in old)
        adversarial = concept @ coefficient.T
        new = {name: published(w, [uce.Edit(adversarial, empty, 1.0), kept], 0.1) for name, w in new.items()}
    for name, weight in new.items():
        np.testing.assert_allclose(found[name], weight.T, rtol=1e-4, atol=1e-5)
    assert list(read_log(tmp_path)["step"]) == [1, 2, 3]


def test_wrong_settings_are_named(pipe: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="erase: empty"):
        uce.unlearn(pipe, UceConfig(), tmp_path / "none")
    with pytest.raises(InputError, match="more tokens than the text encoder reads"):
        rece.unlearn(pipe, ReceConfig(erase=("cat " * 40,)), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="guide"):
        UceConfig(erase=("a", "b", "c"), guide=("x", "y"))
    with pytest.raises(InputError, match="settings of esd with method uce"):
        UnlearnConfig(method="uce", esd=dataclasses.replace(UnlearnConfig().esd, steps=7))
