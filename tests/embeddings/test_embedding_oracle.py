"""diffusers reads the file: its textual-inversion loader on a small CLIP, and the context that then comes out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.embeddings.embedding import Embedding
from ine_jax.models.checkpoints.pipeline_folder import read_pipeline
from ine_jax.models.clip import ClipText
from ine_jax.models.text import Tokenizer
from tests.support.encoding import encode_prompts
from tests.support.tiny_pipeline import LENGTH, WIDTH

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")


@pytest.fixture
def loader(tiny_folder: Path) -> Any:
    """The part of a diffusers pipeline that loads textual inversions, over the pipeline folder's own text encoder."""
    from diffusers.loaders import TextualInversionLoaderMixin
    from transformers import CLIPTextModel, CLIPTokenizer

    class Loader(TextualInversionLoaderMixin):
        hf_device_map = None
        components: dict[str, Any] = {}  # noqa: RUF012  as in the pipelines that mix it in

        def __init__(self) -> None:
            self.tokenizer = CLIPTokenizer.from_pretrained(tiny_folder / "tokenizer", local_files_only=True)
            self.text_encoder = CLIPTextModel.from_pretrained(tiny_folder / "text_encoder", local_files_only=True)

    return Loader()


def learned(k: int, dtype: Any = np.float32) -> Embedding:
    rows = np.random.default_rng(k).standard_normal((k, WIDTH)).astype(dtype)
    return Embedding(rows, concept="sharp-thing", provenance={"steps": "1"})


@pytest.mark.parametrize("vectors", [1, 3])
def test_diffusers_reads_the_file_and_encodes_alike(
    loader: Any, tiny_folder: Path, tmp_path: Path, vectors: int
) -> None:
    embedding = learned(vectors)
    path = embedding.save(tmp_path / "learned_embeds.safetensors")
    loader.load_textual_inversion(str(tmp_path), weight_name=path.name, local_files_only=True)
    table = loader.text_encoder.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(table[-vectors:], embedding.vectors)
    assert "<sharp-thing>" in loader.tokenizer.get_vocab()

    prompts = ["a photo of a <sharp-thing> and a dog", "<sharp-thing>", "a cat"]
    converted = loader.maybe_convert_prompt(prompts, loader.tokenizer)
    ids = loader.tokenizer(converted, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = loader.text_encoder(ids["input_ids"]).last_hidden_state.numpy()
    parts = read_pipeline(tiny_folder)
    tokenizer = Tokenizer.from_dir(parts.tokenizer_dir, LENGTH)
    found = encode_prompts(ClipText(parts.text_config), parts.text_params, tokenizer, prompts, [embedding])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_half_precision_files_are_read_too(loader: Any, tmp_path: Path) -> None:
    learned(2, np.float16).save(tmp_path / "e.safetensors")
    loader.load_textual_inversion(str(tmp_path), weight_name="e.safetensors", local_files_only=True)
    table = loader.text_encoder.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(table[-2:], learned(2, np.float16).vectors.astype(np.float32))


def test_diffusers_refuses_a_context_embedding(loader: Any, tmp_path: Path) -> None:
    Embedding(np.ones((LENGTH, WIDTH), np.float32), "context").save(tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="incorrect"):
        loader.load_textual_inversion(str(tmp_path), weight_name="c.safetensors", local_files_only=True)
