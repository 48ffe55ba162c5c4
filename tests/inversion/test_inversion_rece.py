"""RECE in an inversion: as its start, as a run without images, as a negative, as a command and in its records."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ine_jax import api
from ine_jax.cli import main as cli
from ine_jax.cli.describe import describe
from ine_jax.cli.parsing import parse
from ine_jax.config import InversionConfig, InvertConfig
from ine_jax.config.commands import ConceptConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.guidance.cfg import Cfg
from ine_jax.inversion import derive, invert, rece
from ine_jax.inversion.preview import LABEL
from ine_jax.inversion.start import first_vectors
from ine_jax.pipeline.pipeline import Pipeline
from tests.support.tiny_pipeline import CELLS, LENGTH, SIDE, WIDTH
from tests.support.unlearned import base, pipe, unlearned_folder

__all__ = ["base", "pipe", "unlearned_folder"]

RECE = InversionConfig(concept="thing", method="rece", space="context", words="a knife", regularizer=0.01)
START = InversionConfig(
    concept="thing", space="context", init="rece", words="a knife", steps=1, batch=2, save_every=1, log_every=1
)


def test_the_nearest_row_of_an_unchanged_model_is_the_word(base: Pipeline) -> None:
    for before in ("", "a photo of the "):
        assert rece.nearest_row(base, base, "knife", before, 1e-9) == base.tokenizer.word_ids("knife")[0]


def test_the_nearest_row_equals_a_search_over_whole_prompts(pipe: Pipeline, base: Pipeline) -> None:
    before, words = "a photo of the ", "red knife"
    wanted = rece.solve(pipe, base, before + words, 1.0).context[1 + 4 + 1]
    backend, size = pipe.tokenizer.backend, pipe.parts.text_config.vocab_size
    prompts = np.full((size, LENGTH), backend.eos_token_id, np.int32)
    prompts[:, 0] = backend.bos_token_id
    prompts[:, 1:5] = pipe.tokenizer.word_ids(before)
    prompts[:, 5] = np.arange(size)
    nothing = np.zeros((8, WIDTH), np.float32)
    contexts = np.asarray(pipe.programs.encode(pipe.parts.text_params, prompts, nothing))[:, 5]
    order = np.argsort(np.linalg.norm(contexts - wanted, axis=1))
    ordinary = [i for i in order if i not in (backend.bos_token_id, backend.eos_token_id)]
    assert rece.nearest_row(pipe, base, words, before, 1.0) == ordinary[0]


def test_starts_from_the_closed_form(pipe: Pipeline, base: Pipeline) -> None:
    named = dataclasses.replace(START, concept="knife", words="")
    both = first_vectors(pipe, [START, named], base)
    np.testing.assert_array_equal(both[0], rece.solve(pipe, base, "a knife", START.regularizer).context)
    np.testing.assert_array_equal(both[1], rece.solve(pipe, base, "knife", START.regularizer).context)
    table = np.asarray(pipe.parts.text_params["text_model"]["embeddings"]["token_embedding"]["embedding"])
    rows = dataclasses.replace(START, space="token", words="knife", vectors=2, templates=("the {} photo", "a {}"))
    row = rece.nearest_row(pipe, base, "knife", "the ", rows.regularizer)
    np.testing.assert_array_equal(first_vectors(pipe, [rows], base)[0], table[[row, row]])
    with pytest.raises(InputError, match="without the original"):
        first_vectors(pipe, [START])


@pytest.mark.thorough
def test_an_inversion_starts_exactly_there(pipe: Pipeline, base: Pipeline, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    start = rece.solve(pipe, base, "a knife", START.regularizer).context
    result = invert(pipe, images, START, tmp_path, preview=False, base=base)
    moved = np.abs(np.asarray(result.embedding.vectors) - start)
    np.testing.assert_allclose(moved.max(), START.learning_rate, rtol=1e-3)  # one step of Adam
    assert result.embedding.space == "context"
    bound = json.loads((tmp_path / "config.json").read_text())
    assert bound["base_model_id"] == result.embedding.provenance["base_model_id"] != bound["model_id"]
    assert (bound["concepts"][0]["words"], bound["concepts"][0]["regularizer"]) == ("a knife", 0.1)
    with pytest.raises(InputError, match="words"):
        invert(pipe, images, dataclasses.replace(START, words="a cat"), tmp_path, preview=False, base=base)


@pytest.mark.thorough
def test_rece_binds_no_other_inversion(pipe: Pipeline, tmp_path: Path) -> None:
    images = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    plain = dataclasses.replace(START, init="cat", words="")
    invert(pipe, images, plain, tmp_path, preview=False)
    again = dataclasses.replace(plain, words="a knife", regularizer=3.0)
    invert(pipe, images, again, tmp_path, preview=False)
    assert "base_model_id" not in (tmp_path / "config.json").read_text()
    with pytest.raises(InputError, match="call derive"):
        invert(pipe, images, RECE, tmp_path / "other")


# ------------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.thorough
def test_a_run_without_images(pipe: Pipeline, base: Pipeline, tmp_path: Path) -> None:
    result = derive(pipe, base, RECE, tmp_path / "run")
    folder = tmp_path / "run"
    assert {p.name for p in folder.iterdir()} == {
        "thing.safetensors", "log.jsonl", "timing.jsonl", "preview.png", "checkpoints", "config.json", ".lock",
        "SHA256SUMS", "SHA256SUMS.times",
    }  # fmt: skip
    loaded, wanted = Embedding.load(result.path), rece.solve(pipe, base, "a knife", 0.01)
    np.testing.assert_array_equal(loaded.vectors, wanted.context)
    assert (loaded.space, loaded.concept, loaded.base_model) == ("context", "thing", pipe.name)
    notes = loaded.provenance
    assert set(notes) == {"model_id", "base_model_id", "base", "config", "residual"}
    assert json.loads(notes["config"]) == {
        "method": "rece", "concept": "thing", "words": "a knife", "regularizer": 0.01,
    }  # fmt: skip
    assert float(notes["residual"]) == pytest.approx(wanted.residual, abs=1e-6)
    log = json.loads((folder / "log.jsonl").read_text())
    assert log["loss"] == pytest.approx(wanted.residual) and log["explicit"] == pytest.approx(wanted.explicit)
    assert Image.open(folder / "preview.png").height == 2 * (LABEL + SIDE + 2)
    assert describe(folder)["kind"] == "training directory"
    assert describe(result.path)["space"] == "context"

    before = result.path.read_bytes()
    derive(pipe, base, RECE, folder, preview=False)
    assert result.path.read_bytes() == before
    with pytest.raises(InputError, match=r"regularizer: 0\.01 -> 0\.5"):
        derive(pipe, base, dataclasses.replace(RECE, regularizer=0.5), folder)


def test_the_embedding_is_a_negative(pipe: Pipeline, base: Pipeline, tmp_path: Path) -> None:
    found = Embedding.load(derive(pipe, base, RECE, tmp_path, preview=False).path)
    draw: dict[str, Any] = {"seeds": 0, "steps": 2, "output": "latents"}
    against = pipe("a photo of a cat", negative=found, **draw).latents
    words = pipe("a photo of a cat", negative="a knife", **draw).latents
    assert against.shape == (1, CELLS, CELLS, 4) and np.isfinite(against).all()
    assert np.abs(against - words).max() > 1e-2
    exact = Embedding(rece.solve(pipe, base, "a knife", 0.0).context, "context", "thing")
    alone = Cfg(0.0)  # only the negative is drawn: here what the original makes of its words
    mine = pipe("a cat", guidance=alone, negative=exact, **draw).latents
    np.testing.assert_allclose(mine, base("a cat", guidance=alone, negative="a knife", **draw).latents, atol=1e-3)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.thorough
def test_the_command(
    workplace: Path, tiny_folder: Path, unlearned_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"model: {unlearned_folder}", f"base: {tiny_folder}", "out: out", "inversion:"]
    lines += ["  concept: thing", "  method: rece", "  space: context", "  words: a knife"]
    (workplace / "rece.yaml").write_text("\n".join(lines) + "\n")
    assert cli.main(["invert", "rece.yaml", "--dry-run"]) == 0
    assert "writes: out (new)" in capsys.readouterr().out
    assert [path.name for path in workplace.iterdir()] == ["rece.yaml"]

    assert cli.main(["invert", "rece.yaml", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])["embeddings"]
    found = Embedding.load(workplace / "out/thing.safetensors")
    assert [each["token"] for each in said] == ["<thing>"]
    assert said[0]["loss"] == pytest.approx(float(found.provenance["residual"]), abs=1e-6)
    assert found.vectors.shape == (LENGTH, WIDTH)
    assert (workplace / "out/preview.png").is_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ine_jax.pipeline.from_config.pipeline", _no_model)
        assert cli.main(["invert", "rece.yaml", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["embeddings"] == said

    assert cli.main(["invert", "rece.yaml", "--base", "./absent/model", "--dry-run"]) == 2
    assert "no such folder" in capsys.readouterr().err


def _no_model(*_: Any) -> Any:
    raise AssertionError("a model is loaded")


@pytest.mark.thorough
def test_the_command_starts_an_inversion_from_rece_and_reads_a_finished_one(
    workplace: Path,
    tiny_folder: Path,
    unlearned_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (workplace / "images").mkdir()
    Image.new("RGB", (SIDE, SIDE)).save(workplace / "images/a.png")
    words = ["invert", "--model", str(unlearned_folder), "--base", str(tiny_folder), "--images", "images"]
    words += ["--out", "out", "--inversion.init", "rece", "--inversion.concept", "knife", "--inversion.steps", "1"]
    assert cli.main([*words, "--inversion.batch", "2", "--inversion.templates", "bare"]) == 0, capsys.readouterr().err
    found = Embedding.load(workplace / "out/knife.safetensors")
    assert found.vectors.shape == (1, WIDTH) and "base_model_id" in found.provenance
    again = [*words, "--inversion.batch", "2", "--inversion.templates", "bare"]
    first = capsys.readouterr().out
    monkeypatch.setattr("ine_jax.pipeline.from_config.pipeline", _no_model)
    assert cli.main(again) == 0
    assert capsys.readouterr() == (first, "out: already complete\n")
    for flags in (["--inversion.seed", "1"], ["--inversion.steps", "2"], ["--inversion.batch", "3"]):
        with pytest.raises(AssertionError, match="a model is loaded"):
            api.invert(parse([*again, *flags]).config)  # type: ignore[attr-defined]
    Image.new("RGB", (SIDE, SIDE), "red").save(workplace / "images/a.png")
    with pytest.raises(AssertionError, match="a model is loaded"):
        api.invert(parse(again).config)  # type: ignore[attr-defined]


def test_records_that_contradict_rece_are_refused() -> None:
    assert InvertConfig(base="tiny", inversion=RECE).inversion.regularizer == 0.01
    with pytest.raises(InputError, match="space"):
        InversionConfig(method="rece")
    with pytest.raises(InputError, match="regularizer"):
        InversionConfig(regularizer=-1.0)
    wrong: Any
    for wrong in ({}, {"base": "tiny", "images": "images"}):
        with pytest.raises(InputError):
            InvertConfig(inversion=RECE, **wrong)
    with pytest.raises(InputError, match="base"):
        InvertConfig(base="tiny")
    concept = ConceptConfig(concept="knife", images="pictures", init="rece")
    with pytest.raises(InputError, match="base"):
        InvertConfig(concepts=(concept,))
    with pytest.raises(InputError, match="one concept per run"):
        InvertConfig(base="tiny", concepts=(concept,), inversion=RECE)
    assert InvertConfig(base="tiny", concepts=(concept,)).concepts[0].words == ""
