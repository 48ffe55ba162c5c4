"""Every format to every format: {f32, f16, bf16} x {k = 1, 4, 77 where it fits}, in every bit that the dtype allows."""

import io
import itertools
import re
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from ine_jax.embeddings import convert, read_embedding
from ine_jax.embeddings.embedding import Embedding
from ine_jax.embeddings.torch_writer import torch_bytes
from ine_jax.errors import InputError
from tests.support.embedding_files import DTYPES, SINGLE, file_of, vectors

SHORT = {"a1111", "a1111-pt"}  # at most 75 vectors, the words of one prompt
WIDENED = {"npy", "npz"}  # numpy files have no bfloat16


def same(found: np.ndarray, expected: np.ndarray, widened: bool) -> None:
    """Equal dtype, shape and bits; or float32 of the very same values where a numpy file stood between."""
    if widened and expected.dtype == ml_dtypes.bfloat16:
        expected = expected.astype(np.float32)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("k", [1, 4, 77])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pair_of_formats_keeps_token_and_bits(tmp_path: Path, dtype: str, k: int) -> None:
    rows = vectors(k, dtype=DTYPES[dtype])
    origin = Embedding(rows, concept="weapon").save(tmp_path / "weapon.safetensors")
    forms = [form for form in SINGLE if k <= 75 or form not in SHORT]
    firsts = {form: convert(origin, file_of(tmp_path / form, form), form).path for form in forms}
    for one, other in itertools.product(forms, forms):
        target = file_of(tmp_path / f"{one}-{other}", other)
        done = convert(firsts[one], target, other, space="token" if one in ("npy", "tensor") else "")
        assert done.source_format == one
        assert (done.stored.embedding.space, done.stored.embedding.token) == ("token", "<weapon>")
        same(done.stored.vectors, rows, widened=bool({one, other} & WIDENED))
    assert len(firsts) ** 2 == (64 if k <= 75 else 36)


@pytest.mark.parametrize("dtype", DTYPES)
def test_context_goes_through_every_format_that_can_hold_it(tmp_path: Path, dtype: str) -> None:
    rows = vectors(77, dtype=DTYPES[dtype])
    origin = Embedding(rows, "context", "weapon").save(tmp_path / "weapon.safetensors")
    holding = ("native", "diffusers-bin", "npy", "npz", "tensor")
    firsts = {form: convert(origin, file_of(tmp_path / form, form), form).path for form in holding}
    for one, other in itertools.product(holding, holding):
        bare = one in ("npy", "tensor")
        done = convert(firsts[one], file_of(tmp_path / f"{one}-{other}", other), other, space="context" if bare else "")
        assert (done.source_format, done.stored.embedding.space) == (one, "context")
        same(done.stored.vectors, rows, widened=bool({one, other} & WIDENED))
    for form in SINGLE:
        if form not in holding:
            with pytest.raises(InputError, match="before CLIP") as refused:
                convert(origin, file_of(tmp_path / form, form), form)
            assert len(str(refused.value).splitlines()) == 3
            assert not list((tmp_path / form).iterdir())


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sdxl_pairs_come_from_and_go_to_every_format(tmp_path: Path, dtype: str, k: int) -> None:
    first, second = vectors(k, 768, DTYPES[dtype]), vectors(k, 1280, DTYPES[dtype])
    one = Embedding(first, concept="weapon").save(tmp_path / "weapon.safetensors")
    other = Embedding(second, concept="second").save(tmp_path / "second.safetensors")
    pair = convert(one, file_of(tmp_path / "pair", "sdxl"), "sdxl", clip_g=other)
    for form in SINGLE:
        widened = form in WIDENED
        for part, rows in (("clip_l", first), ("clip_g", second)):
            target = file_of(tmp_path / f"{part}-{form}", form)
            if part == "clip_g" and form.startswith("a1111"):
                with pytest.raises(InputError, match="1280"):
                    convert(pair.path, target, form, part=part)
                continue
            alone = convert(pair.path, target, form, part=part)
            same(alone.stored.vectors, rows, widened)
            if part == "clip_l":
                back = convert(alone.path, file_of(tmp_path / f"back-{form}", "sdxl"), "sdxl", clip_g=other)
                same(back.stored.vectors, first, widened)
                same(np.asarray(back.stored.clip_g), second, widened=False)
    both = convert(pair.path, tmp_path / "weapon.npz", "npz")
    again = convert(both.path, file_of(tmp_path / "again", "sdxl"), "sdxl")
    same(again.stored.vectors, first, widened=True)
    same(np.asarray(again.stored.clip_g), second, widened=True)
    as_pt = convert(pair.path, tmp_path / "weapon.pt", "sdxl")
    same(np.asarray(read_embedding(as_pt.path)[0].clip_g), second, widened=False)


def test_provenance_survives_where_the_format_has_room_for_it(tmp_path: Path) -> None:
    facts = {"step": "3000", "weights_sha256": "ab"}
    origin = Embedding(vectors(1), "token", "weapon", "tiny", facts).save(tmp_path / "weapon.safetensors")
    for form, kept in (("native", facts), ("a1111", facts), ("comfyui", facts), ("a1111-pt", {"step": "3000"})):
        done = convert(origin, file_of(tmp_path / form, form), form)
        assert done.stored.embedding.base_model == "tiny"
        assert dict(done.stored.embedding.provenance) == kept


def test_equal_embeddings_give_equal_bytes_in_every_format(tmp_path: Path) -> None:
    origin = Embedding(vectors(2), concept="weapon").save(tmp_path / "weapon.safetensors")
    for form in SINGLE:
        one, two = (convert(origin, file_of(tmp_path / f"{form}{i}", form), form).path for i in (1, 2))
        assert one.read_bytes() == two.read_bytes()


def test_the_name_of_kohyas_pt_is_its_stem(tmp_path: Path) -> None:
    vectors = np.ones((2, 768), np.float32)
    (tmp_path / "weapon.pt").write_bytes(torch_bytes({"emb_params": vectors}))
    found, _ = read_embedding(tmp_path / "weapon.pt")
    assert found.name == "weapon"
    np.testing.assert_array_equal(found.vectors, vectors)


def test_a_torch_file_has_no_member_that_old_readers_refuse() -> None:
    """The web UI before mid-2024 allows these members alone."""
    names = zipfile.ZipFile(io.BytesIO(torch_bytes({"a": np.ones(2, np.float32)}))).namelist()
    assert all(re.fullmatch(r"[^/]+/((data/\d+)|version|(data\.pkl))", name) for name in names)
