"""`ine convert` and `ine inspect` on embeddings: output, names that tools can read, and every rejection."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.cli import main as cli
from ine_jax.cli.convert import Formats
from ine_jax.cli.describe import describe
from ine_jax.embeddings import FORMATS, conversion, convert, read_embedding
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.storage.atomic import write_atomic
from tests.support.embedding_files import vectors

SHARP, WEAPON = "<sharp>", "<weapon>"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with embeddings of every kind, which is the current one."""
    monkeypatch.chdir(tmp_path)
    Embedding(vectors(2), concept="weapon", base_model="sd-1.4").save("weapon.safetensors")
    Embedding(vectors(2, 1280), concept="second").save("second.safetensors")
    Embedding(vectors(77), "context", "weapon").save("context.safetensors")
    Embedding(vectors(76), concept="long").save("long.safetensors")
    Embedding(vectors(1, 16), concept="narrow").save("narrow.safetensors")
    np.save("rows.npy", vectors(77))
    np.save("sequence.npy", vectors(77)[None])
    Path("old.pt").write_bytes(b"")
    return tmp_path


def test_the_flags_and_the_table_name_the_same_formats() -> None:
    assert set(Formats.__args__) == set(FORMATS)  # type: ignore[attr-defined]
    assert all(form.name == name and form.suffixes for name, form in FORMATS.items())


USES = {
    "native": ('load_textual_inversion("out.safetensors")', 'negative_prompt="<weapon>"'),
    "diffusers-bin": ('load_textual_inversion("out.bin")', 'negative_prompt="<weapon>"'),
    "a1111-pt": ("stable-diffusion-webui/embeddings/", "write out into the negative prompt"),
    "a1111": ("stable-diffusion-webui/embeddings/", "write out into the negative prompt"),
    "comfyui": ("ComfyUI/models/embeddings/", "embedding:out"),
    "npy": ('numpy.load("out.npy")', "ine convert out.npy out.safetensors --to native --token out --space token"),
    "npz": ('numpy.load("out.npz")', "ine convert out.npz"),
    "tensor": ('torch.load("out.pt", weights_only=True)', "load_textual_inversion(vectors"),
}


@pytest.mark.parametrize("form", USES)
def test_the_command_prints_what_it_did_and_how_to_use_it(place: Path, capsys: Capture, form: str) -> None:
    target = f"out{FORMATS[form].suffixes[0]}"
    assert cli.main(["convert", "weapon.safetensors", target, "--to", form, "--json"]) == 0
    first, *use, result = capsys.readouterr().out.splitlines()
    assert first.startswith(f"weapon.safetensors (native) -> {target} ({form})")
    assert first.endswith("2 x 768 float32, read back equal")
    assert len(use) == 2
    assert all(expected in line for expected, line in zip(USES[form], use, strict=True))
    facts = json.loads(result)
    assert (facts["ok"], facts["path"], facts["to"], facts["vectors"]) == (True, target, form, 2)
    np.testing.assert_array_equal(read_embedding(target)[0].vectors, vectors(2))


def test_an_sdxl_pair_prints_the_loader_of_diffusers(place: Path, capsys: Capture) -> None:
    words = "convert weapon.safetensors xl.safetensors --to sdxl --clip-g second.safetensors"
    assert cli.main(words.split()) == 0
    _, first, second, webui = capsys.readouterr().out.splitlines()
    assert 't["clip_l"], token="<xl>", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer' in first
    assert 't["clip_g"], token="<xl>", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2' in second
    assert "embedding:xl" in webui


def test_a_folder_gets_a_file_named_by_the_embedding(place: Path) -> None:
    done = convert("weapon.safetensors", place, "a1111-pt", token=SHARP)
    assert done.path == place / "sharp.pt"
    assert read_embedding(done.path)[0].embedding.token == SHARP


def test_a_dry_run_checks_everything_and_writes_nothing(place: Path, capsys: Capture) -> None:
    before = sorted(place.iterdir())
    assert cli.main(["convert", "weapon.safetensors", "out.pt", "--to", "a1111-pt", "--dry-run"]) == 0
    assert "not written (dry run)" in capsys.readouterr().out
    assert cli.main(["convert", "context.safetensors", "out.pt", "--to", "a1111-pt", "--dry-run"]) == 2
    assert sorted(place.iterdir()) == before


REJECTED = {
    "convert context.safetensors out.pt --to a1111-pt": "before CLIP",
    "convert context.safetensors out.safetensors --to a1111": "before CLIP",
    "convert context.safetensors out.safetensors --to comfyui": "before CLIP",
    "convert context.safetensors out.safetensors --to sdxl": "before CLIP",
    "convert long.safetensors out.pt --to a1111-pt": "75",
    "convert narrow.safetensors out.pt --to a1111-pt": "768 (clip_l), 1024 (clip_h)",
    "convert narrow.safetensors out.pt --to comfyui": "1280 (clip_g)",
    "convert weapon.safetensors out.safetensors --to sdxl": "--clip-g",
    "convert weapon.safetensors out.safetensors --to sdxl --clip-g narrow.safetensors": "2 vectors and 1",
    "convert weapon.safetensors out.safetensors --to sdxl --clip-g context.safetensors": "context",
    "convert weapon.safetensors out.safetensors --to native --part clip_l": "one text encoder",
    "convert weapon.safetensors out.safetensors --to native --token a,b": "letters, digits",
    "convert weapon.safetensors out.pt --to native": "name it out.safetensors",
    "convert weapon.safetensors comfy --to comfyui": "target comfy: no suffix, which is not a file of comfyui",
    "convert weapon.safetensors sharp,things.pt --to a1111-pt": "sharp-things",
    "convert weapon.safetensors sharp,things.safetensors --to comfyui": "sharp-things",
    "convert weapon.safetensors old.pt --to a1111-pt": "exists",
    "convert weapon.safetensors weapon.safetensors --to native": "exists",
    "convert weapon.safetensors old.pt/x.pt --to tensor": "Not a directory",
    "convert weapon.safetensors out.safetensors --to onnx": "--to",
    "convert weapon.safetensors out.safetensors": "--to",
    "convert weapon.safetensors": "target",
    "convert absent.pt out.safetensors --to native": "no such file",
    "convert old.pt out.safetensors --to native": "old.pt",
    "convert rows.npy out.safetensors --to native": "--space token or --space context",
    "convert sequence.npy out.safetensors --to native --space token": "context",
    "convert context.safetensors out.safetensors --to native --space token": "context",
    "inspect old.pt": "old.pt",
    "inspect narrow.safetensors --base ./absent": "absent",
}


@pytest.mark.parametrize("line", REJECTED)
def test_rejections_have_three_lines_and_write_nothing(place: Path, capsys: Capture, line: str) -> None:
    before = sorted(place.iterdir())
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert not out
    assert REJECTED[line] in err
    assert 1 <= len(err.splitlines()) <= 3
    assert sorted(place.iterdir()) == before


def test_names_with_spaces_are_rejected_for_tools_that_split_there(place: Path) -> None:
    for form in ("a1111", "a1111-pt", "comfyui"):
        with pytest.raises(InputError, match="cannot read in a prompt"):
            convert("weapon.safetensors", place / f"sharp things{FORMATS[form].suffixes[0]}", form)
    assert convert("weapon.safetensors", place / "sharp things.bin", "diffusers-bin").stored.embedding.token == WEAPON


def test_a_bare_array_is_what_the_user_says(place: Path) -> None:
    assert read_embedding("rows.npy", space="token")[0].embedding.space == "token"
    assert read_embedding("rows.npy", space="context")[0].embedding.space == "context"
    item, _ = read_embedding("sequence.npy")
    assert (item.embedding.space, item.vectors.shape, item.embedding.concept) == ("context", (77, 768), "sequence")


def test_a_conversion_that_cannot_be_exact_says_so(place: Path, capsys: Capture) -> None:
    import ml_dtypes

    Embedding(vectors(77, dtype=ml_dtypes.bfloat16), concept="half").save("half.safetensors")
    assert cli.main(["convert", "half.safetensors", "half.npy", "--to", "npy"]) == 0
    notes = capsys.readouterr().out.splitlines()[3:]
    assert notes == [
        "bfloat16 became float32: every value is the same",
        "a prompt holds 75 vectors: the last 2 will be cut",
    ]


def test_a_file_that_reads_back_otherwise_is_taken_away(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damage(path: Path, data: bytes, **how: bool) -> None:
        changed = bytearray(data)
        changed[-1] ^= 1
        write_atomic(path, bytes(changed), **how)

    monkeypatch.setattr(conversion, "write_atomic", damage)
    with pytest.raises(RuntimeError, match="another embedding"):
        convert("weapon.safetensors", "out.safetensors", "native")
    assert not Path("out.safetensors").exists()


def test_inspect_describes_an_embedding_of_every_format(place: Path) -> None:
    for form in USES:
        path = convert("weapon.safetensors", place / f"out{FORMATS[form].suffixes[0]}", form).path
        facts: Any = describe(path)
        assert (facts["kind"], facts["format"], facts["space"]) == ("embedding", form, "token")
        assert (facts["vectors"], facts["width"], facts["dtype"]) == (2, 768, "float32")
        assert facts["family"] == "Stable Diffusion 1.x"
        np.testing.assert_allclose(facts["norms"], np.linalg.norm(vectors(2), axis=1), atol=1e-3)
        assert len(facts["sha256"]) == 64
        path.unlink()
    assert describe("context.safetensors")["space"] == "context"


def test_inspect_names_the_nearest_words_of_a_base(tmp_path: Path, tiny_folder: Path) -> None:
    import safetensors.numpy

    state = safetensors.numpy.load_file(tiny_folder / "text_encoder" / "model.safetensors")
    table = state["text_model.embeddings.token_embedding.weight"].astype(np.float32)
    words = json.loads((tiny_folder / "tokenizer" / "vocab.json").read_text("utf-8"))
    chosen = [word for word in words if word.endswith("</w>")][-2:]
    rows = 3 * table[[words[word] for word in chosen]]
    path = Embedding(rows, concept="found").save(tmp_path / "found.safetensors")
    facts: Any = describe(path, str(tiny_folder))
    assert [near[0] for near in facts["nearest"]] == [f"{word.removesuffix('</w>')} 1.000" for word in chosen]
    assert all(len(near) == 5 for near in facts["nearest"])
    np.testing.assert_allclose(facts["vocabulary_norm"], np.median(np.linalg.norm(table, axis=1)), atol=1e-3)
    wide = Embedding(np.ones((1, 64), np.float32)).save(tmp_path / "wide.safetensors")
    with pytest.raises(InputError, match="own family"):
        describe(wide, str(tiny_folder))


def test_a_header_as_long_as_a_pickle_s_first_bytes_is_still_safetensors(tmp_path: Path) -> None:
    """A header of 0x380 bytes makes the file begin with 0x80 0x03, like a pickle of protocol 3."""
    rows, source = np.ones((1, 8), np.float32), tmp_path / "e.safetensors"
    for size in range(1, 900):
        Embedding(rows, provenance={"note": "x" * size}).save(source)
        if source.read_bytes()[:2] == b"\x80\x03":
            break
    assert source.read_bytes()[:2] == b"\x80\x03"
    learned, _ = read_embedding(source)
    np.testing.assert_array_equal(np.asarray(learned.vectors), rows)
