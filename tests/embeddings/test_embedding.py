"""The embedding value and its file: round trips, equal bytes, and every way in which a file can be wrong."""

import dataclasses
import json
import os
import struct
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from ine_jax.cli.artifacts import verified
from ine_jax.embeddings import convert, read_embedding
from ine_jax.embeddings.containers import MAX_BYTES, SCHEMA
from ine_jax.embeddings.embedding import Embedding, slug
from ine_jax.errors import InputError
from tests.support.flips import CHANCE, flip, flipped


def vectors(k: int = 2, d: int = 16, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(k).standard_normal((k, d)).astype(dtype)


def raw_file(path: Path, header: dict, data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("space", ["token", "context"])
def test_round_trip_keeps_every_field(tmp_path: Path, dtype: Any, space: str) -> None:
    before = Embedding(vectors(3, dtype=dtype), space, "sharp things", "tiny", {"steps": "30", "loss": "0.1"})
    after = Embedding.load(before.save(tmp_path / "e.safetensors"))
    assert after.vectors.dtype == before.vectors.dtype
    np.testing.assert_array_equal(after.vectors, before.vectors)
    for field in ("space", "concept", "base_model", "provenance", "token"):
        assert getattr(after, field) == getattr(before, field)


def test_the_file_is_one_tensor_under_its_token_with_a_header(tmp_path: Path) -> None:
    path = Embedding(vectors(), concept="knife", provenance={"seed": "1"}).save(tmp_path / "e.safetensors")
    with safe_open(path, "numpy") as file:
        assert list(file.keys()) == ["<knife>"]
        assert file.metadata()["schema"] == SCHEMA
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["provenance"]) == {"seed": "1"}
        np.testing.assert_array_equal(file.get_tensor("<knife>"), vectors())


def test_a_context_file_is_not_one_tensor(tmp_path: Path) -> None:
    path = Embedding(vectors(24), "context", "knife").save(tmp_path / "e.safetensors")
    assert set(safetensors.numpy.load_file(path)) == {"negative_prompt_embeds", "schema"}


def test_equal_embeddings_give_equal_bytes(tmp_path: Path) -> None:
    one = Embedding(vectors(), provenance={"a": "1", "b": "2"}).save(tmp_path / "1.safetensors")
    two = Embedding(vectors(), provenance={"b": "2", "a": "1"}).save(tmp_path / "2.safetensors")
    assert one.read_bytes() == two.read_bytes()


def test_saving_replaces_whole_files_and_leaves_no_others(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    Embedding(vectors(1)).save(path)
    Embedding(vectors(4)).save(path)
    assert os.listdir(tmp_path) == ["e.safetensors"]
    assert Embedding.load(path).vectors.shape == (4, 16)


@pytest.mark.parametrize("name", ["<cat-toy>", "cat-toy"])
def test_files_of_other_trainers_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "learned_embeds.safetensors"
    safetensors.numpy.save_file({name: np.ones(8, np.float32)}, path)
    found = Embedding.load(path)
    assert (found.concept, found.token, found.space, found.vectors.shape) == ("cat-toy", "<cat-toy>", "token", (1, 8))


@pytest.mark.parametrize("name", ["*", "../../x", "x" * 300, "x\n", "my token", ""])
def test_a_token_that_no_prompt_can_hold_becomes_its_slug(tmp_path: Path, name: str) -> None:
    safetensors.numpy.save_file({name: np.ones(8, np.float32)}, tmp_path / "e.safetensors")
    found = Embedding.load(tmp_path / "e.safetensors")
    assert found.token == f"<{slug(found.concept)}>" and found.concept == (name[:200] or "concept")


def test_an_sdxl_pair_is_named_with_what_to_do(tmp_path: Path) -> None:
    pair = {"clip_l": np.ones((1, 768), np.float32), "clip_g": np.ones((1, 1280), np.float32)}
    safetensors.numpy.save_file(pair, tmp_path / "e.safetensors")
    with pytest.raises(InputError, match=r"an SDXL pair.*--part clip_l"):
        Embedding.load(tmp_path / "e.safetensors")


def test_a_concept_in_the_header_cannot_rename_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    safetensors.numpy.save_file({"<a>": np.ones(8, np.float32)}, path, {"concept": "b", "space": "token"})
    assert Embedding.load(path).token.strip("<>") == "a"


@pytest.mark.parametrize("space", ["token", "context"])
def test_every_flip_is_found_by_whatever_reads_the_file(tmp_path: Path, space: str) -> None:
    whole = Embedding(vectors(), space, "knífe", "tiny", {"config": '{"a": "é"}'})
    path = whole.save(tmp_path / "e.safetensors")
    data = path.read_bytes()
    assert not verified(path).faults
    for at in range(len(data)):
        path.write_bytes(flipped(data, at, CHANCE.randrange(8)))
        for read in (Embedding.load, read_embedding):
            with pytest.raises(InputError):
                read(path)
        assert verified(path).faults
    path.write_bytes(data)
    assert Embedding.load(path).provenance == whole.provenance


@pytest.mark.parametrize("form", ["a1111", "comfyui"])
def test_our_files_for_other_tools_have_a_hash_too(tmp_path: Path, form: str) -> None:
    Embedding(vectors(1, 768)).save(tmp_path / "e.safetensors")
    path = convert(tmp_path / "e.safetensors", tmp_path / f"{form}.safetensors", form).path
    assert not verified(path).faults
    flip(path, -1)
    assert verified(path).faults
    with pytest.raises(InputError, match="damaged"):
        read_embedding(path)


def test_files_without_a_hash_are_read(tmp_path: Path) -> None:
    """Those of schema 1, and of other programs."""
    texts = {"schema": "ine_jax.embedding/1", "space": "token", "concept": "knife", "provenance": "{}"}
    safetensors.numpy.save_file({"<knife>": vectors()}, tmp_path / "e.safetensors", texts)
    assert Embedding.load(tmp_path / "e.safetensors").concept == "knife"
    with pytest.raises(InputError, match="it has no hash"):
        verified(tmp_path / "e.safetensors")


def test_a_concept_that_is_no_text_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unicode"):
        Embedding(vectors(), concept="\ud800").save(tmp_path / "e.safetensors")
    assert not list(tmp_path.iterdir())


def f32(shape: list[int], end: int, **more: object) -> dict:
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, end], **more}


WRONG = {
    "no tensor": ({"__metadata__": {"format": "pt"}}, b"", "0 tensors"),
    "two tensors": (
        {"a": f32([1], 4), "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        b"\0" * 8,
        "2 ten",
    ),
    "rank 0": ({"x": f32([], 4)}, b"\0" * 4, "shape ()"),
    "rank 3": ({"x": f32([1, 1, 1], 4)}, b"\0" * 4, "shape (1, 1, 1)"),
    "empty": ({"x": f32([0, 4], 0)}, b"", "shape (0, 4)"),
    "nan": ({"x": f32([1, 1], 4)}, struct.pack("<f", float("nan")), "NaN"),
    "infinity": ({"x": f32([1, 1], 4)}, struct.pack("<f", float("inf")), "NaN or infinity"),
    "int8": ({"x": {"dtype": "I8", "shape": [1, 4], "data_offsets": [0, 4]}}, b"\0" * 4, "dtype I8"),
    "float64": ({"x": {"dtype": "F64", "shape": [1, 1], "data_offsets": [0, 8]}}, b"\0" * 8, "dtype float64"),
    "float8": ({"x": {"dtype": "F8_E4M3", "shape": [1, 4], "data_offsets": [0, 4]}}, b"\0" * 4, "dtype F8"),
    "too short": ({"x": f32([1, 2], 8)}, b"\0" * 4, "not a safetensors file"),
    "unknown space": ({"__metadata__": {"space": "pixel"}, "x": f32([1, 1], 4)}, b"\0" * 4, "space 'pixel'"),
    "context alone": ({"__metadata__": {"space": "context"}, "x": f32([1, 1], 4)}, b"\0" * 4, "context embedding"),
    "bad provenance": ({"__metadata__": {"provenance": "[1"}, "x": f32([1, 1], 4)}, b"\0" * 4, "provenance"),
    "list provenance": ({"__metadata__": {"provenance": "[]"}, "x": f32([1, 1], 4)}, b"\0" * 4, "provenance"),
    "many vectors": ({"x": f32([1025, 1], 4100)}, b"\0" * 4100, "1025 vectors"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_names_itself_and_the_reason(tmp_path: Path, case: str) -> None:
    header, data, reason = WRONG[case]
    path = raw_file(tmp_path / "e.safetensors", header, data)
    with pytest.raises(InputError) as error:
        Embedding.load(path)
    assert reason in str(error.value)
    assert "e.safetensors" in str(error.value)
    assert len(str(error.value).splitlines()) == 3


def test_size_is_capped_before_parsing(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="larger than 64 MiB"):
        Embedding.load(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(InputError, match=r"no such file|a folder, not a file"):
            Embedding.load(path)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_input_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError):
        Embedding.load(path)


@given(position=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, position: int, byte: int) -> None:
    path = tmp_path_factory.getbasetemp() / "flip.safetensors"
    data = bytearray(Embedding(vectors(), concept="knife").save(path).read_bytes())
    data[position % len(data)] = byte
    path.write_bytes(data)
    try:
        found = Embedding.load(path)
    except InputError:
        return
    assert found.vectors.ndim == 2
    assert np.isfinite(found.vectors).all()


@pytest.mark.parametrize("bad", [np.full((1, 4), np.nan, np.float32), np.ones((1, 2, 3), np.float32), np.ones((2, 2))])
def test_saving_refuses_what_loading_would(tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(InputError):
        Embedding(bad).save(tmp_path / "e.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_saving_refuses_another_suffix_and_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.safetensors"):
        Embedding(vectors()).save(tmp_path / "e.pt")
    (tmp_path / "file").write_text("x")
    for folder in ("file", "absent"):
        with pytest.raises(InputError, match=f"no folder .*{folder}"):
            Embedding(vectors()).save(tmp_path / folder / "e.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@given(st.text(min_size=1, max_size=200))
def test_every_text_has_a_slug_that_is_a_safe_name(text: str) -> None:
    name = slug(text)
    assert 0 < len(name) <= 64
    assert all(c.isascii() and (c.isalnum() or c in "_-") for c in name)
    assert slug(name) == name


def test_slugs_of_different_texts_differ() -> None:
    assert len({slug(t) for t in ("a b", "a-b", "a  b", "ä b", "a/b", "../b", "刀", "剣")}) == 8
    assert slug("knife") == "knife"


def test_an_embedding_is_a_pytree_with_one_leaf() -> None:
    value = Embedding(vectors(), concept="knife", provenance={"a": "1"})
    assert len(jax.tree.leaves(value)) == 1
    doubled = jax.jit(lambda e: dataclasses.replace(e, vectors=e.vectors * 2))(value)
    assert (doubled.token, doubled.provenance["a"]) == ("<knife>", "1")
    np.testing.assert_allclose(doubled.vectors, 2 * value.vectors)


def test_wrong_values_are_refused_when_made() -> None:
    with pytest.raises(InputError, match="space"):
        Embedding(vectors(), "pixel")
    with pytest.raises(InputError, match="concept"):
        Embedding(vectors(), concept="")
    with pytest.raises(InputError, match="provenance"):
        embedding = Embedding(vectors())
        object.__setattr__(embedding, "provenance", {"steps": 3})  # what a type checker would reject
        embedding.save("never.safetensors")
