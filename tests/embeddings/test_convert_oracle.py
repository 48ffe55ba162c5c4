"""The tools' own readers open every file: torch.load(weights_only=True), diffusers on a small real CLIP, and the rules
of A1111 and ComfyUI.
"""

import importlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ine_jax.embeddings import convert, read_embedding, torch_bytes
from ine_jax.embeddings.embedding import Embedding
from tests.support.embedding_files import DTYPES, SINGLE, file_of, vectors

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle

TORCH_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
KINDS = [(dtype, k) for dtype in DTYPES for k in (1, 4, 75)]


@pytest.fixture(scope="module")
def tool_readers() -> Any:
    """The readers of A1111 and ComfyUI; they need torch."""
    return importlib.import_module("tests.support.tool_readers")


def bits(tensor: Any) -> np.ndarray:
    """The tensor's numbers as an array of the same dtype."""
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def origin(folder: Path, rows: np.ndarray) -> Path:
    return Embedding(rows, concept="weapon").save(folder / "weapon.safetensors")


@pytest.mark.parametrize(("dtype", "k"), KINDS)
def test_torch_opens_every_torch_file_and_finds_the_bits(tmp_path: Path, dtype: str, k: int) -> None:
    rows = vectors(k, dtype=DTYPES[dtype])
    for form, key in (("diffusers-bin", "<weapon>"), ("a1111-pt", None), ("tensor", None), ("comfyui", "clip_l")):
        path = convert(origin(tmp_path, rows), tmp_path / f"{form}.pt", form).path
        found = torch.load(path, weights_only=True)
        found = found["string_to_param"]["*"] if form == "a1111-pt" else found[key] if key else found
        assert found.dtype == TORCH_DTYPES[dtype]
        np.testing.assert_array_equal(bits(found).view(np.uint8), rows.view(np.uint8))
        assert torch.load(path, weights_only=True, mmap=True) is not None


@pytest.mark.parametrize(("dtype", "k"), KINDS)
def test_a1111_knows_the_embedding_by_its_files_stem(tool_readers: Any, tmp_path: Path, dtype: str, k: int) -> None:
    rows = vectors(k, dtype=DTYPES[dtype])
    for form in ("a1111-pt", "a1111", "comfyui", "native", "diffusers-bin"):
        path = convert(origin(tmp_path, rows), file_of(tmp_path / form, form, "sharp_things"), form).path
        word, found = tool_readers.a1111(path, 768)
        assert word == "sharp_things"
        np.testing.assert_array_equal(found.numpy(), rows.astype(np.float32))
    data = torch.load(tmp_path / "a1111-pt" / "sharp_things.pt", weights_only=True)
    assert data["name"] == "sharp_things"
    assert set(data) == {"string_to_token", "string_to_param", "name", "step", "sd_checkpoint", "sd_checkpoint_name"}


@pytest.mark.parametrize(("dtype", "k"), KINDS)
def test_comfyui_finds_the_embedding_by_its_name(tool_readers: Any, tmp_path: Path, dtype: str, k: int) -> None:
    rows = vectors(k, dtype=DTYPES[dtype])
    for form in ("comfyui", "a1111-pt", "a1111", "native", "diffusers-bin"):
        convert(origin(tmp_path, rows), file_of(tmp_path / form, form, "sharp_things"), form)
        found = tool_readers.comfy(tmp_path / form, "embedding:sharp_things, a dog", 768, "clip_l")
        np.testing.assert_array_equal(bits(found).view(np.uint8), rows.view(np.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_both_tools_read_an_sdxl_pair(tool_readers: Any, tmp_path: Path, dtype: str, suffix: str) -> None:
    first, second = vectors(4, 768, DTYPES[dtype]), vectors(4, 1280, DTYPES[dtype])
    other = Embedding(second, concept="second").save(tmp_path / "second.safetensors")
    pair = convert(origin(tmp_path, first), tmp_path / f"xl{suffix}", "sdxl", clip_g=other).path
    word, found = tool_readers.a1111(pair, 768 + 1280)
    assert word == "xl"
    np.testing.assert_array_equal(found["clip_l"].numpy(), first.astype(np.float32))
    np.testing.assert_array_equal(found["clip_g"].numpy(), second.astype(np.float32))
    for key, rows in (("clip_l", first), ("clip_g", second)):
        found = tool_readers.comfy(tmp_path, "embedding:xl", rows.shape[1], key)
        np.testing.assert_array_equal(bits(found).view(np.uint8), rows.view(np.uint8))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "sequence"])
@pytest.mark.parametrize(("dtype", "k"), KINDS)
def test_what_torch_and_safetensors_write_is_read(tmp_path: Path, dtype: str, k: int, new: bool) -> None:
    rows = torch.from_numpy(vectors(k)).to(TORCH_DTYPES[dtype])
    files = {
        "diffusers-bin": {"<weapon>": rows},
        "a1111-pt": {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.nn.Parameter(rows)}, "name": "x"},
        "comfyui": [{"a": rows[:1]}, {"b": rows[1:]}] if k > 1 else [{"a": rows}],
        "tensor": rows,
    }
    for form, value in files.items():
        path = tmp_path / f"{form}.pt"
        torch.save(value, path, _use_new_zipfile_serialization=new)
        item, found = read_embedding(path)
        assert found.name == form
        np.testing.assert_array_equal(item.vectors.view(np.uint8), bits(rows).view(np.uint8))


def test_the_first_trainers_module_of_parameters_is_read(tmp_path: Path) -> None:
    held = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.from_numpy(vectors(2)))})
    tokens = {"*": torch.tensor(265)}
    torch.save({"string_to_token": tokens, "string_to_param": held}, tmp_path / "old.pt")
    item, form = read_embedding(tmp_path / "old.pt")
    assert form.name == "a1111-pt"
    np.testing.assert_array_equal(item.vectors, vectors(2))


def test_values_of_every_kind_survive_our_writer_and_torch(tmp_path: Path) -> None:
    value: dict[str, Any] = {
        "n": None,
        "b": [True, False],
        "i": [0, -1, 255, 2**40, -(2**70)],
        "f": 1.5,
        "t": ("ü", {"x": []}),
    }
    arrays = [np.arange(6, dtype=d).reshape(2, 3) for d in (np.float64, np.int64, np.int32, np.int16, np.int8)]
    arrays += [np.zeros((0, 3), np.float32), np.asarray(2, np.float32), np.asarray([True, False])]
    path = tmp_path / "x.pt"
    path.write_bytes(torch_bytes({**value, "arrays": arrays}))
    found = torch.load(path, weights_only=True)
    tensors = found.pop("arrays")
    assert found == value
    for array, tensor in zip(arrays, tensors, strict=True):
        assert tensor.numpy().dtype == array.dtype
        np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP text model of Stable Diffusion's width, one layer deep, with the tiny family's tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from tests.support.tiny_pipeline import write_tokenizer

    folder = tmp_path_factory.mktemp("clip")
    vocabulary = write_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=768,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=12,
        max_position_embeddings=77,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return folder


def loader(folder: Path) -> Any:
    """The part of a diffusers pipeline that loads textual inversions."""
    from diffusers.loaders import TextualInversionLoaderMixin
    from transformers import CLIPTextModel, CLIPTokenizer

    class Loader(TextualInversionLoaderMixin):
        hf_device_map = None
        components: dict[str, Any] = {}  # noqa: RUF012  as in the pipelines that mix it in

        def __init__(self) -> None:
            self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
            self.text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True)

    return Loader()


@pytest.mark.parametrize("form", [name for name in SINGLE if name not in ("npy", "npz")])
def test_diffusers_loads_every_format_and_encodes_the_same(tmp_path: Path, clip_folder: Path, form: str) -> None:
    """The line that the command prints, run on a real CLIP: vectors, token and the encoding of a prompt."""
    pytest.importorskip("diffusers")
    for dtype, k in (("f32", 1), ("f16", 4), ("bf16", 4)):
        rows, folder = vectors(k, dtype=DTYPES[dtype]), tmp_path / f"{dtype}{k}"
        folder.mkdir()
        path = convert(origin(folder, rows), file_of(folder / form, form), form).path
        pipe = loader(clip_folder)
        if form == "tensor":
            pipe.load_textual_inversion(torch.load(path, weights_only=True), "<weapon>")
        else:
            pipe.load_textual_inversion(str(path), local_files_only=True)
        token = {"a1111-pt": "weapon", "a1111": "emb_params", "comfyui": "clip_l"}.get(form, "<weapon>")
        assert token in pipe.tokenizer.get_vocab()
        table = pipe.text_encoder.get_input_embeddings().weight.detach().numpy()
        np.testing.assert_array_equal(table[-k:], rows.astype(np.float32))
        prompt = pipe.maybe_convert_prompt(token, pipe.tokenizer)
        ids = pipe.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert ids == list(range(len(table) - k, len(table)))
