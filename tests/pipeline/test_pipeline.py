"""The pipeline on random weights: images belong to items, one program per shape, negatives in their slots."""

import inspect
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.config import SamplerConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.evaluation import Plan
from ine_jax.guidance import Cfg, Negative, NoGuidance, Texts
from ine_jax.guidance.concept import Concept
from ine_jax.models.clip import ClipText
from ine_jax.models.unet import UNet
from ine_jax.models.vae import Vae
from ine_jax.pipeline.noise import item_noise
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.pipeline.sampling import sample
from ine_jax.pipeline.torch_noise import torch_noise
from tests.support.encoding import encode_prompts
from tests.support.tiny_pipeline import CELLS, LENGTH, SIDE, WIDTH
from tests.support.typechecking import unchecked

PROMPTS = ["a photo of a cat", "a dog", "the red knife", "apple and dog", "cat", "", "a red apple", "weapon"]
STEPS = 3


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4)


@pytest.fixture(scope="module")
def learned() -> Embedding:
    return Embedding(np.random.default_rng(0).standard_normal((2, WIDTH)).astype(np.float32), concept="weapon")


def test_python_samples_as_the_command_line_does_by_default() -> None:
    steps = inspect.signature(Pipeline.__call__).parameters["steps"].default
    assert steps == SamplerConfig().steps == Plan((), {}).steps


def test_images_have_the_models_shape_and_depend_on_prompt_and_seed(pipe: Pipeline) -> None:
    images = pipe(["a cat", "a cat", "a dog"], seeds=[0, 1, 0], steps=STEPS).arrays
    assert images.shape == (3, SIDE, SIDE, 3)
    assert images.dtype == np.uint8
    assert (images[0] != images[1]).mean() > 0.1
    assert (images[0] != images[2]).mean() > 0.01
    assert images.std(axis=(1, 2, 3)).min() > 1


def test_an_item_is_the_same_alone_in_company_and_in_any_order(pipe: Pipeline) -> None:
    seeds = list(range(40, 48))
    whole = pipe(PROMPTS, seeds=seeds, steps=STEPS, output="latents").latents
    for batch in (1, 3, 8):
        parts = [
            pipe(PROMPTS[i : i + batch], seeds=seeds[i : i + batch], steps=STEPS, output="latents").latents
            for i in range(0, 8, batch)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    shuffled = pipe([PROMPTS[i] for i in order], seeds=[seeds[i] for i in order], steps=STEPS).arrays
    np.testing.assert_array_equal(shuffled, pipe(PROMPTS, seeds=seeds, steps=STEPS).arrays[order])


@pytest.mark.thorough
def test_other_row_counts_agree_closely(pipe: Pipeline) -> None:
    one = pipe(PROMPTS[:3], steps=STEPS, output="latents", batch_size=1).latents
    four = pipe(PROMPTS[:3], steps=STEPS, output="latents").latents
    np.testing.assert_allclose(one, four, atol=1e-3, rtol=1e-3)


def test_the_pipeline_equals_its_parts_written_out(pipe: Pipeline) -> None:
    """Encode, sample and decode by hand, without batching or sharding."""
    parts = pipe.parts
    unet, vae = UNet(parts.unet_config), Vae(parts.vae_config)
    clip = ClipText(parts.text_config)
    prompt, empty, bad = (
        encode_prompts(clip, parts.text_params, pipe.tokenizer, [text]) for text in ("a red cat", "", "knife, weapon")
    )
    texts = Texts(prompt=prompt, uncond=empty, negative=bad)
    latents = sample(
        lambda x, t, c: cast(jax.Array, unet.apply({"params": parts.unet_params}, x, t, c)),
        pipe.scheduler,
        pipe.scheduler.tables(STEPS),
        Cfg(5.0),
        texts,
        jnp.asarray(item_noise([9], (CELLS, CELLS, 4))),
    )
    options: Any = {"seeds": 9, "steps": STEPS, "guidance": Cfg(5.0), "negative": ["knife", "weapon"]}
    np.testing.assert_allclose(pipe("a red cat", output="latents", **options).latents, latents, atol=1e-3)
    scaled = latents / parts.vae_config.scaling_factor
    image = jax.jit(lambda latents: vae.apply({"params": parts.vae_params}, latents, method="decode"))(scaled)
    expected = np.round(np.clip(np.asarray(image) / 2 + 0.5, 0, 1) * 255)
    assert np.abs(pipe("a red cat", **options).arrays.astype(int) - expected).max() <= 1


def test_one_program_per_shape(tiny_folder: Path, learned: Embedding) -> None:
    pipe = load(tiny_folder, batch_size=6, scheduler="euler")  # rows that no other test uses: programs are shared
    before = pipe.compiles
    pipe(PROMPTS[:5], steps=2)
    used = pipe.compiles - before
    assert used == 3  # encode, sample, decode
    pipe(PROMPTS[3:4], steps=2, seeds=[3], guidance=Cfg(2.0))
    pipe(PROMPTS, steps=2, negative="knife")
    pipe(PROMPTS, steps=2, negative=learned)
    pipe(PROMPTS, steps=2, negative=learned, negative_scale=6.5)  # s = w - 1: two rows
    pipe.with_unet(jax.tree.map(lambda x: x * 0.9, pipe.parts.unet_params))(PROMPTS, steps=2)
    assert pipe.compiles - before == used
    pipe(PROMPTS, steps=2, negative=learned, negative_scale=2.0)
    pipe(PROMPTS, steps=2, negative="knife", guidance=Cfg(3.0), negative_scale=4.0)
    assert pipe.compiles - before == used + 1


def test_no_negative_is_the_empty_prompt(pipe: Pipeline) -> None:
    np.testing.assert_array_equal(pipe("cat", steps=STEPS).arrays, pipe("cat", steps=STEPS, negative="").arrays)
    assert (pipe("cat", steps=STEPS).arrays != pipe("cat", steps=STEPS, negative="knife").arrays).any()


def test_an_embedding_of_a_words_rows_acts_like_the_word(pipe: Pipeline) -> None:
    ids = pipe.tokenizer.word_ids("knife")
    rows = np.asarray(pipe.parts.text_params["text_model"]["embeddings"]["token_embedding"]["embedding"])[ids]
    same = Embedding(rows, concept="anything")
    word = pipe("cat", steps=STEPS, negative="knife", output="latents").latents
    np.testing.assert_allclose(pipe("cat", steps=STEPS, negative=same, output="latents").latents, word, atol=1e-4)
    framed = Concept(embeddings=(same,), template="a photo of a {}")
    template = pipe("cat", steps=STEPS, negative=framed, output="latents").latents
    long = pipe("cat", steps=STEPS, negative="a photo of a knife", output="latents").latents
    np.testing.assert_allclose(template, long, atol=1e-4)
    prompt = pipe("a <anything>", steps=STEPS, embeddings=[same], output="latents").latents
    np.testing.assert_allclose(prompt, pipe("a knife", steps=STEPS, output="latents").latents, atol=1e-4)


def test_a_context_embedding_takes_the_negatives_place_directly(pipe: Pipeline) -> None:
    context = Embedding(pipe.encode(["knife"])[0], "context", "knife")
    word = pipe("cat", steps=STEPS, negative="knife", output="latents").latents
    np.testing.assert_allclose(pipe("cat", steps=STEPS, negative=context, output="latents").latents, word, atol=1e-4)
    with pytest.raises(InputError, match="context embedding"):
        pipe("cat", steps=STEPS, negative=Embedding(np.ones((3, WIDTH), np.float32), "context"))


def test_several_phrases_are_one_negative_joined_by_commas(pipe: Pipeline) -> None:
    joined = pipe("cat", steps=STEPS, negative="knife, weapon", output="latents").latents
    np.testing.assert_array_equal(
        pipe("cat", steps=STEPS, negative=["knife", "weapon"], output="latents").latents, joined
    )
    concept = Concept(words=("knife", "weapon"))
    np.testing.assert_array_equal(pipe("cat", steps=STEPS, negative=concept, output="latents").latents, joined)


def test_words_of_a_negative_may_hold_a_learned_token(pipe: Pipeline, learned: Embedding) -> None:
    found = pipe("cat", steps=STEPS, negative=learned, output="latents").latents
    named = pipe("cat", steps=STEPS, negative=learned.token, embeddings=[learned], output="latents").latents
    np.testing.assert_array_equal(named, found)


def test_the_negatives_own_scale(pipe: Pipeline) -> None:
    def draw(**options: object) -> np.ndarray:
        return pipe("cat", steps=STEPS, output="latents", **options).latents  # type: ignore[arg-type]

    tied = draw(guidance=Cfg(4.0), negative="knife")
    np.testing.assert_array_equal(draw(guidance=Cfg(4.0), negative="knife", negative_scale=3.0), tied)
    np.testing.assert_allclose(draw(guidance=Negative(4.0, 3.0), negative="knife"), tied, atol=1e-3)
    free = draw(guidance=Cfg(4.0), negative="knife", negative_scale=0.0)
    np.testing.assert_allclose(free, draw(guidance=Cfg(4.0)), atol=1e-3)


def test_scales_may_differ_from_item_to_item(pipe: Pipeline) -> None:
    scales = np.linspace(1, 9, 6, dtype=np.float32)
    many = pipe(["cat"] * 6, seeds=[3] * 6, steps=STEPS, guidance=Cfg(scales), output="latents").latents
    for scale, row in zip(scales, many, strict=True):
        alone = pipe("cat", seeds=3, steps=STEPS, guidance=Cfg(float(scale)), output="latents").latents[0]
        np.testing.assert_allclose(row, alone, atol=1e-4)


def test_given_noise_replaces_the_seeds(pipe: Pipeline) -> None:
    noise = item_noise([4, 5], (CELLS, CELLS, 4))
    given = pipe(["cat", "dog"], noise=noise, steps=STEPS).arrays
    np.testing.assert_array_equal(given, pipe(["cat", "dog"], seeds=[4, 5], steps=STEPS).arrays)
    planes = pipe(["cat", "dog"], noise=noise.transpose(0, 3, 1, 2), noise_layout="NCHW", steps=STEPS).arrays
    np.testing.assert_array_equal(given, planes)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_seeds_may_mean_what_they_mean_in_torch(pipe: Pipeline, device: Any) -> None:
    noise = torch_noise(device, np.array([4, 5]), (CELLS, CELLS, 4))
    given = pipe(["cat", "dog"], noise=noise, steps=STEPS).arrays
    mode: Any = f"torch-{device}"
    np.testing.assert_array_equal(given, pipe(["cat", "dog"], seeds=[4, 5], noise=mode, steps=STEPS).arrays)
    assert not np.array_equal(given, pipe(["cat", "dog"], seeds=[4, 5], steps=STEPS).arrays)


@pytest.mark.thorough
def test_sizes_other_than_the_models_own(pipe: Pipeline) -> None:
    assert pipe("cat", steps=2, height=2 * SIDE, width=SIDE).arrays.shape == (1, 2 * SIDE, SIDE, 3)


def test_images_go_through_the_vae_both_ways(pipe: Pipeline) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
    mean, logvar = pipe.encode_images(images)
    assert mean.shape == logvar.shape == (5, CELLS, CELLS, 4)
    vae = Vae(pipe.parts.vae_config)
    encode = jax.jit(lambda scaled: vae.apply({"params": pipe.parts.vae_params}, scaled, method="encode"))
    expected, _ = encode(jnp.asarray(images / np.float32(127.5) - 1))
    np.testing.assert_allclose(mean, expected, atol=1e-4)
    decoded = pipe.decode(mean * pipe.parts.vae_config.scaling_factor)
    assert decoded.shape == images.shape
    assert decoded.dtype == np.uint8


def test_no_prompts_give_no_images(pipe: Pipeline) -> None:
    assert pipe([], seeds=[], steps=STEPS).arrays.shape == (0, SIDE, SIDE, 3)
    assert pipe([], seeds=[], steps=STEPS, output="latents").latents.shape == (0, CELLS, CELLS, 4)


WRONG = {
    "steps": ({"steps": 0}, "teps"),
    "too many steps": ({"steps": 1001}, "teps"),
    "side": ({"height": 30}, "image side 30"),
    "zero side": ({"width": 0}, "image side 0"),
    "seeds": ({"seeds": []}, "0 seeds for 1 prompts"),
    "noise": ({"noise": np.zeros((1, 4, 4, 4))}, "latents of shape"),
    "rows of noise": ({"noise": np.zeros((2, CELLS, CELLS, 4))}, "noise of shape"),
    "noise mode": ({"noise": "torch"}, "noise 'torch'"),
    "batch size": ({"batch_size": 0}, "batch_size 0"),
    "output": ({"output": "jpeg"}, "output 'jpeg'"),
    "scale without negative": ({"negative_scale": 2.0}, "without a negative"),
    "guard without negative": ({"guidance": Negative(7.5, 2.0)}, "without a negative"),
    "scale beside another guard": (
        {"guidance": NoGuidance(), "negative": "knife", "negative_scale": 2.0},
        "negative_scale beside NoGuidance",
    ),
    "no negative at all": ({"negative": []}, "an empty negative"),
    "mixed negatives": (
        {"negative": ["knife", Embedding(np.ones((1, WIDTH), np.float32))]},
        "of Embedding, str",
    ),
    "width of vectors": ({"negative": Embedding(np.ones((1, 8), np.float32))}, "8 numbers per vector"),
    "scales": ({"guidance": Cfg(np.ones(3, np.float32))}, "a scale of shape"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls_are_rejected(pipe: Pipeline, case: str) -> None:
    options: Any
    options, reason = WRONG[case]
    with unchecked(), pytest.raises(InputError, match=reason):
        pipe("cat", **{"steps": STEPS, **options})


def test_the_context_length_is_the_text_models(pipe: Pipeline) -> None:
    assert pipe.encode(["cat", "a very long prompt " * 20]).shape == (2, LENGTH, WIDTH)
