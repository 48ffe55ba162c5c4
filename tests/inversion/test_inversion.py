"""Concept inversion: the loss against a NumPy reference, its gradient, its sampling, templates and starts."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.config import InversionConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.inversion import objective, paper_setting
from ine_jax.inversion.start import first_vectors
from ine_jax.inversion.templates import template_ids, usable
from ine_jax.models.clip import ClipText
from ine_jax.models.text import PLACEHOLDER, encode_ids
from ine_jax.models.unet import UNet
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.schedulers import alphas_cumprod
from tests.support.tiny_pipeline import SCHEDULER, SIDE, WIDTH

SMALL = InversionConfig(concept="thing", steps=4, batch=2, save_every=2, log_every=1, templates=("a {}", "the red {}"))
ALPHAS = alphas_cumprod(SCHEDULER)


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=8, compile_cache=False)


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def toy_data(counts: tuple[int, ...] = (3,), seeds: tuple[int, ...] = (5,), sentences: int = 2) -> objective.Data:
    rng = np.random.default_rng(1)
    total = sum(counts)
    return objective.Data(
        mean=jnp.asarray(rng.standard_normal((total, 2, 2, 3)), jnp.float32),
        logvar=jnp.asarray(rng.standard_normal((total, 2, 2, 3)), jnp.float32),
        start=jnp.asarray(np.cumsum(counts) - counts, jnp.int32),
        images=jnp.asarray(counts, jnp.int32),
        seed=jnp.asarray(seeds, jnp.uint32),
        steps=jnp.full(len(counts), 10, jnp.int32),
        ids=jnp.arange(sentences, dtype=jnp.int32)[:, None],
        norm=None,
    )


# ------------------------------------------------------------------------------------------------------------- sampling


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    data = toy_data()
    sample = jax.jit(lambda step: objective.sample(data, step, 4, 1000, 0.5))
    first, again, other = sample(3), objective.sample(data, 3, 4, 1000, 0.5), sample(4)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(first.noise, other.noise)
    reseeded = objective.sample(data._replace(seed=jnp.asarray([6], jnp.uint32)), 3, 4, 1000, 0.5)
    assert not np.array_equal(first.noise, reseeded.noise)


def test_samples_cover_what_they_should() -> None:
    data = toy_data((3, 2), (5, 9))
    batch = jax.vmap(lambda step: objective.sample(data, step, 16, 1000, 0.5))(jnp.arange(200))
    t = np.asarray(batch.timesteps)
    assert t.min() >= 0 and t.max() <= 999 and abs(t.mean() - 499.5) < 15
    assert set(np.unique(batch.sentence)) == {0, 1}
    assert abs(float(batch.noise.mean())) < 0.02 and abs(float(batch.noise.std()) - 1) < 0.02


def test_latents_are_scaled_samples_of_the_posterior() -> None:
    data = toy_data((1,))
    batch = jax.vmap(lambda step: objective.sample(data, step, 8, 10, 0.5))(jnp.arange(500))
    samples = np.asarray(batch.latents).reshape(-1, 2, 2, 3)
    np.testing.assert_allclose(samples.mean(0), 0.5 * data.mean[0], atol=0.05)
    np.testing.assert_allclose(samples.std(0), 0.5 * np.exp(0.5 * data.logvar[0]), rtol=0.06)


def test_concepts_sample_as_if_alone() -> None:
    together = objective.sample(toy_data((3, 2), (5, 9)), 7, 4, 1000, 0.5)
    both = toy_data((3, 2), (5, 9))
    second = {"mean": both.mean[3:], "logvar": both.logvar[3:], "start": both.start[:1]}
    own = both._replace(**second, images=both.images[1:], seed=both.seed[1:])
    alone = objective.sample(own, 7, 4, 1000, 0.5)
    for name in ("latents", "noise", "timesteps", "sentence", "weight"):
        a, b = getattr(together, name), getattr(alone, name)
        np.testing.assert_allclose(a[4:], b, rtol=1e-5, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sentences", [2, 5])  # fewer and more than the rows of a concept
def test_loss_equals_a_numpy_reference(prediction_type: str, sentences: int) -> None:
    data = toy_data((3, 2), (5, 9), sentences)
    ids = jnp.where(jnp.arange(4) == 2, PLACEHOLDER, jnp.arange(sentences)[:, None] + jnp.arange(4)[None])
    ids = ids.astype(jnp.int32)
    batch = objective.sample(data, 3, 4, 1000, 0.5)
    vectors = jnp.asarray(np.random.default_rng(2).standard_normal((2, 1, 3)), jnp.float32)
    found = objective.losses(
        vectors, batch, ids,
        denoise=lambda x, t, c: 0.5 * x + 0.001 * t[:, None, None, None] + c.sum(1)[:, None, None, :],
        encode=toy_encode, alphas_cumprod=ALPHAS, prediction_type=prediction_type,
    )  # fmt: skip
    for concept in range(2):
        errors = []
        for row in range(4):
            x0, eps, t = (np.asarray(part)[4 * concept + row] for part in batch[:3])
            a, s = np.sqrt(ALPHAS[t]), np.sqrt(1 - ALPHAS[t])
            words = np.asarray(ids)[int(batch.sentence[4 * concept + row])]
            context = sum(np.asarray(vectors)[concept, 0] if w >= PLACEHOLDER else np.full(3, 0.1 * w) for w in words)
            answer = 0.5 * (a * x0 + s * eps) + 0.001 * t + context
            wanted = eps if prediction_type == "epsilon" else a * eps - s * x0
            errors.append(np.mean((wanted - answer) ** 2))
        np.testing.assert_allclose(found[concept], np.mean(errors), rtol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_in_context_space_reads_the_contexts_themselves(prediction_type: str) -> None:
    batch = objective.sample(toy_data((3, 2), (5, 9)), 3, 4, 1000, 0.5)
    contexts = np.random.default_rng(2).standard_normal((2, 5, 3)).astype(np.float32)
    found = objective.losses(
        jnp.asarray(contexts), batch, None,
        denoise=lambda x, t, c: 0.5 * x + 0.001 * t[:, None, None, None] + c.sum(1)[:, None, None, :],
        encode=lambda ids, learned: pytest.fail("nothing is encoded"),
        alphas_cumprod=ALPHAS, prediction_type=prediction_type,
    )  # fmt: skip
    x0, eps, t = (np.asarray(part, np.float64).reshape(2, 4, *part.shape[1:]) for part in batch[:3])
    a, s = (np.sqrt(level)[..., None, None, None] for level in (ALPHAS[t.astype(int)], 1 - ALPHAS[t.astype(int)]))
    answer = 0.5 * (a * x0 + s * eps) + 0.001 * t[..., None, None, None] + contexts.sum(1)[:, None, None, None, :]
    wanted = eps if prediction_type == "epsilon" else a * eps - s * x0
    np.testing.assert_allclose(found, np.mean((wanted - answer) ** 2, axis=(1, 2, 3, 4)), rtol=1e-5)


def test_every_concept_meets_its_own_rows_in_order() -> None:
    vectors = jnp.arange(18, dtype=jnp.float32).reshape(2, 3, 3)  # two concepts of three rows
    ids = jnp.asarray([[0, PLACEHOLDER, PLACEHOLDER + 1, PLACEHOLDER + 2], [PLACEHOLDER, PLACEHOLDER + 1, 5, 6]])
    few = objective.contexts(vectors, ids, jnp.asarray([0, 0]), jnp.arange(2), toy_encode)
    np.testing.assert_array_equal(few[:, 1:], vectors)
    many = objective.contexts(vectors, ids, jnp.asarray([0, 1, 0, 1, 1, 0]), jnp.arange(6) // 3, toy_encode)
    np.testing.assert_array_equal(many[jnp.asarray([0, 2, 5]), 1:], vectors[jnp.asarray([0, 0, 1])])
    np.testing.assert_array_equal(many[jnp.asarray([1, 3, 4]), :2], vectors[jnp.asarray([0, 1, 1]), :2])


def toy_encode(ids: jax.Array, learned: jax.Array) -> jax.Array:
    known = 0.1 * jnp.broadcast_to(ids[..., None], (*ids.shape, 3)).astype(jnp.float32)
    return jnp.where(
        (ids >= PLACEHOLDER)[..., None], learned[jnp.where(ids >= PLACEHOLDER, ids - PLACEHOLDER, 0)], known
    )


def exact_attention(q: jax.Array, k: jax.Array, v: jax.Array, *, is_causal: bool = False, **_: Any) -> jax.Array:
    """Attention in the inputs' own precision: JAX's takes the softmax in float32, which hides small slopes."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[-1])
    if is_causal:
        scores = jnp.where(np.tril(np.ones(scores.shape[-2:], bool))[None, None], scores, -np.inf)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)


@pytest.mark.thorough
def test_gradient_equals_finite_differences(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.nn, "dot_product_attention", exact_attention)
    parts = pipe.parts
    probe = Embedding(np.zeros((2, WIDTH), np.float32), concept="thing")
    ids = template_ids(("a photo of a {}",), probe, pipe.tokenizer)
    zeros: Any = np.zeros((3, 8, 8, 4))  # float64, which jax.numpy cannot hold yet
    data = toy_data()._replace(mean=zeros, logvar=zeros, ids=jnp.asarray(ids))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # int32 data meet x64's int64
        double = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), (parts.text_params, parts.unet_params))
        unet, clip = UNet(parts.unet_config, dtype=jnp.float64), ClipText(parts.text_config, dtype=jnp.float64)
        batch = objective.sample(jax.tree.map(jnp.asarray, data), 0, 1, 1000, 0.5)

        @jax.jit
        def loss(vectors: jax.Array) -> jax.Array:
            return objective.losses(
                vectors, batch, jnp.asarray(ids),
                denoise=lambda x, t, c: cast(jax.Array, unet.apply({"params": double[1]}, x, t, c)),
                encode=lambda i, learned: encode_ids(clip, double[0], i, learned),
                alphas_cumprod=ALPHAS, prediction_type="epsilon",
            ).sum()  # fmt: skip

        rng = np.random.default_rng(0)
        at = jnp.asarray(rng.standard_normal((1, 2, WIDTH)))
        gradient = jax.jit(jax.grad(loss))(at)
        assert gradient.dtype == jnp.float64
        for _ in range(3):
            way = jnp.asarray(rng.standard_normal(at.shape))
            h = 1e-4
            slope = (loss(at + h * way) - loss(at - h * way)) / (2 * h)
            np.testing.assert_allclose(jnp.vdot(gradient, way), slope, rtol=2e-5)


def test_pull_moves_lengths_and_keeps_directions() -> None:
    vectors = jnp.asarray([[3.0, 4.0], [0.0, 0.5]])
    np.testing.assert_allclose(objective.pull(vectors, 1.0, 0.01), [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(objective.pull(vectors, 1.0, 0.005), [[1.8, 2.4], [0.0, 0.75]], rtol=1e-6)


# ---------------------------------------------------------------------------------------------------- templates, starts


def test_templates_that_do_not_fit_are_left_out_or_rejected(pipe: Pipeline) -> None:
    probe = Embedding(np.zeros((6, WIDTH), np.float32), concept="thing")
    fitting = usable("object", probe, pipe.tokenizer)
    assert fitting == ("a photo of a {}", "a photo of the {}")  # the other sentences hold words that would be spelled
    wide = Embedding(np.zeros((19, WIDTH), np.float32), concept="thing")
    with pytest.raises(InputError, match="with 19 vectors"):
        usable("object", wide, pipe.tokenizer)
    ids = template_ids(fitting, probe, pipe.tokenizer)
    assert ((ids >= PLACEHOLDER).sum(1) == 6).all()
    assert usable("bare", probe, pipe.tokenizer) == ("{}",)
    bare, backend = template_ids(("{}",), probe, pipe.tokenizer)[0], pipe.tokenizer.backend
    assert list(bare[:7]) == [backend.bos_token_id, *range(PLACEHOLDER, PLACEHOLDER + 6)]
    assert (bare[7:] == backend.eos_token_id).all()
    with pytest.raises(InputError, match="at most 22 tokens"):
        usable(("a " * 20 + "{}",), probe, pipe.tokenizer)
    for wrong in ("style", ("no place",), ("{} and {}",), ()):
        with pytest.raises(InputError):
            usable(wrong, probe, pipe.tokenizer)


def test_starts(pipe: Pipeline) -> None:
    table = np.asarray(pipe.parts.text_params["text_model"]["embeddings"]["token_embedding"]["embedding"])
    word = pipe.tokenizer.word_ids("knife")[0]
    two = dataclasses.replace(SMALL, vectors=2)
    starts = first_vectors(pipe, [dataclasses.replace(two, init="knife"), dataclasses.replace(two, init="mean")])
    np.testing.assert_array_equal(starts[0], table[[word, word]])
    np.testing.assert_allclose(starts[1], np.tile(table.mean(0), (2, 1)), rtol=1e-5)
    context = first_vectors(pipe, [dataclasses.replace(SMALL, space="context", init="cat")])
    np.testing.assert_array_equal(context[0], pipe.encode(["cat"], batch_size=1)[0])
    with pytest.raises(InputError, match="tokens"):
        first_vectors(pipe, [dataclasses.replace(SMALL, init="submarine")])


def test_the_paper_setting() -> None:
    paper = paper_setting("violence", seed=3)
    assert (paper.learning_rate, paper.batch, paper.steps, paper.vectors, paper.seed) == (5e-3, 1, 3000, 1, 3)
