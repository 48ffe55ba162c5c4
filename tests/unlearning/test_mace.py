"""MACE: positions, masks and closed forms against independent versions, the attention loss, and whole runs."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.config import MaceConfig
from ine_jax.errors import InputError
from ine_jax.inversion.rece import projections
from ine_jax.models.unet import Attention
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.storage.images import png
from ine_jax.training.rows import ALL, Share
from ine_jax.types import Params
from ine_jax.unlearning import mace, mace_data, uce
from ine_jax.unlearning.adapters import fresh, watched
from tests.support.tiny_pipeline import CELLS, LENGTH, SIDE

RNG = np.random.default_rng
SMALL = MaceConfig(erase=("knife", "weapon"), guide=("the red apple",), preserve=("a cat", "dog"), images_each=2)


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4, compile_cache=False)


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        # begin 1, end 9; the word 5 becomes 7 8: what is before and after both, and the padding
        ([1, 2, 5, 3, 9, 9, 9, 9], [1, 2, 7, 8, 3, 9, 9, 9], ([0, 1, 3, 4, 5, 6], [0, 1, 4, 5, 6, 7])),
        ([1, 2, 7, 8, 3, 9, 9, 9], [1, 2, 5, 3, 9, 9, 9, 9], ([0, 1, 4, 5, 6, 7], [0, 1, 3, 4, 5, 6])),
        ([1, 5, 9, 9], [1, 6, 9, 9], ([0, 2, 3], [0, 2, 3])),
        ([1, 5, 9, 9], [1, 9, 9, 9], ([0, 2, 3], [0, 1, 2])),
    ],
)
def test_positions_outside_of_what_differs(old: list[int], new: list[int], wanted: tuple[list[int], ...]) -> None:
    assert mace_data.matching(old, new, 9) == wanted


def test_the_concepts_tokens_and_all_ends_are_suppressed(pipe: Pipeline) -> None:
    found = mace_data.concept_tokens(pipe, "a photo of the red knife", "red knife")
    np.testing.assert_array_equal(np.flatnonzero(found), [5, 6, *range(7, LENGTH)])


def test_a_mask_without_a_folder_is_what_differs_from_the_background() -> None:
    image = np.full((16, 16, 3), (200, 60, 60), np.uint8)
    image[4:9, 2:7] = (10, 200, 30)
    image[0, 0] += 20  # a shade of the background
    wanted = np.zeros((16, 16), bool)
    wanted[4:9, 2:7] = True
    np.testing.assert_array_equal(mace_data.foreground(image[None])[0], wanted)


def test_the_fusion_is_the_minimum_of_its_sum() -> None:
    rng, lam = RNG(0), 0.3
    old, refined, *adapted = rng.standard_normal((4, 6, 3))
    rows, kept = rng.standard_normal((2, 5, 6)), rng.standard_normal((4, 6))
    edits = [uce.Edit(kept[:1], kept[:1], 0.5), uce.Edit(kept[1:], kept[1:], 0.5)]
    found = mace.fused({"k": old}, {"k": refined}, [{"k": a} for a in adapted], list(rows), edits, lam)["k"]

    def objective(kernel: np.ndarray) -> float:
        far = [np.sum((c @ kernel - c @ a) ** 2) for c, a in zip(rows, adapted, strict=True)]
        return float(sum(far) + 0.5 * np.sum((kept @ (kernel - old)) ** 2) + lam * np.sum((kernel - refined) ** 2))

    around = [found + 1e-3 * RNG(seed).standard_normal(found.shape) for seed in range(20)]
    assert all(objective(found) < objective(other) for other in around)
    slopes = [objective(found + d) - objective(found - d) for d in 1e-4 * np.eye(18).reshape(18, 6, 3)]
    np.testing.assert_allclose(slopes, 0, atol=1e-9)


def test_timesteps_are_chosen_as_published() -> None:
    found = mace.importance(1000)
    raw = [1 / (1 + np.exp(-0.05 * (t - 200))) - 1 / (1 + np.exp(-0.05 * (t - 400))) for t in range(1000)]
    np.testing.assert_allclose(found, np.asarray(raw) / np.sum(raw), rtol=1e-9, atol=1e-15)
    assert abs(found @ np.arange(1000) - 300) < 1


@pytest.mark.thorough
def test_the_attention_is_that_of_each_rows_own_adapters() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
            x = x + Attention(2, name="attn1")(x)
            return Attention(2, name="attn2")(x, context)

    net, rng = Net(), RNG(0)
    x, context = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 9, 8), (2, 5, 6)))
    params: Params = net.init(jax.random.key(0), x, context)["params"]
    own = {
        f"attn2.{name}.{factor}": jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for name in ("to_k", "to_v")
        for factor, shape in (("down", (2, 6, 1)), ("up", (2, 1, 8)))
    }

    def denoise(p: Params, *inputs: jax.Array) -> jax.Array:
        return net.apply({"params": p}, *inputs)  # type: ignore[return-value]

    (found,) = watched(denoise, own)(params, x, context)
    first = np.asarray(x, np.float64) + np.asarray(Attention(2).apply({"params": params["attn1"]}, x))
    for row in range(2):
        kernel = np.asarray(params["attn2"]["to_k"]["kernel"], np.float64)
        kernel = kernel + np.asarray(own["attn2.to_k.down"][row] @ own["attn2.to_k.up"][row], np.float64)
        query = (first[row] @ np.asarray(params["attn2"]["to_q"]["kernel"], np.float64)).reshape(9, 2, 4)
        key = (np.asarray(context[row], np.float64) @ kernel).reshape(5, 2, 4)
        scores = np.exp(np.einsum("phd,thd->hpt", query, key) / 2.0)
        np.testing.assert_allclose(found[row], scores / scores.sum(-1, keepdims=True), rtol=1e-4, atol=1e-6)
    mask = jnp.asarray(rng.random((2, 6, 6)) < 0.5).at[1].set(False)
    tokens = jnp.asarray([[True, False, True, False, True]] * 2)
    norms = mace.suppression(found, mask, tokens)
    pixels = np.asarray(mask)[0, ::2, ::2].reshape(9)
    chosen = np.asarray(found)[0][:, pixels][:, :, [0, 2, 4]]
    np.testing.assert_allclose(norms, np.asarray([np.linalg.norm(chosen), 0.0]), rtol=1e-5)
    slope = jax.grad(lambda a: mace.suppression(a, mask, tokens).sum())(found)
    assert np.isfinite(slope).all() and not np.any(slope[1])


@pytest.mark.thorough
def test_a_step_of_two_shares_is_the_step(pipe: Pipeline) -> None:
    rng, objective = RNG(0), mace.mace_objective(pipe, SMALL)
    contexts = np.stack([pipe.encode(["a knife", "the knife"])] * 2)
    images = jnp.asarray(rng.standard_normal((2, 2, CELLS, CELLS, 4)), jnp.float32)
    masks = jnp.asarray(rng.random((2, 2, SIDE, SIDE)) < 0.5)
    tokens = jnp.asarray(rng.random((2, 2, LENGTH)) < 0.3)
    data = mace.Data(images, images - 30, masks, jnp.asarray(contexts), tokens, jnp.uint32(1))
    shapes = {k.removesuffix(".kernel"): v.shape for k, v in projections(pipe.parts.unet_params).items()}
    start = mace._each([fresh(shapes, 1, k, "gaussian") for k in range(2)])
    step = jax.jit(objective.loss, static_argnums=4)
    whole, metrics = step(start, pipe.parts.unet_params, data, jnp.int32(0), ALL)
    np.testing.assert_allclose(metrics["loss"], whole / 2)
    parts = [objective.loss(start, pipe.parts.unet_params, data, jnp.int32(0), Share(k, 2))[0] for k in range(2)]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)


def test_clipping_is_concept_by_concept(pipe: Pipeline) -> None:
    objective = dataclasses.replace(mace.mace_objective(pipe, SMALL), weight_decay=0.0)
    gradient = {"a.down": jnp.asarray([[[3.0]], [[0.3]]]), "a.up": jnp.asarray([[[4.0]], [[0.4]]])}
    rule = objective.rule(jnp.float32(1.0))
    with jax.numpy_dtype_promotion("standard"):
        _, state = rule.update(gradient, rule.init(gradient), gradient)
    first = next(each.mu for each in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(each, "mu"))
    np.testing.assert_allclose(first["a.down"].ravel(), [0.06, 0.03], rtol=1e-5)
    np.testing.assert_allclose(first["a.up"].ravel(), [0.08, 0.04], rtol=1e-5)


def test_folders_of_images_and_masks_are_read(pipe: Pipeline, tmp_path: Path) -> None:
    rng = RNG(0)
    images, masks = rng.integers(0, 256, (2, SIDE, SIDE, 3), np.uint8), rng.random((2, SIDE, SIDE)) < 0.5
    for kind, values in (("images", images), ("masks", np.repeat(masks[..., None], 3, -1).astype(np.uint8) * 255)):
        (tmp_path / kind / "knife").mkdir(parents=True)
        for i, value in enumerate(values):
            (tmp_path / kind / "knife" / f"{i}.png").write_bytes(png(value))
    config = dataclasses.replace(SMALL, images=str(tmp_path / "images"), masks=str(tmp_path / "masks"))
    found = mace_data.images_and_masks(pipe, config, "knife")
    np.testing.assert_array_equal(found[0], images)
    np.testing.assert_array_equal(found[1], masks)
    with pytest.raises(InputError, match="2 images of 'knife'"):
        mace_data.images_and_masks(pipe, dataclasses.replace(config, images_each=3), "knife")
    (tmp_path / "masks" / "knife" / "1.png").unlink()
    with pytest.raises(InputError, match="1 masks for 2 images"):
        mace_data.images_and_masks(pipe, config, "knife")


def test_the_first_stage_is_the_edit_of_its_sentences(pipe: Pipeline) -> None:
    known = mace_data.templates(pipe, ["knife", "the red apple"])
    assert set(known) == {"a photo of a {}", "a photo of the {}"}
    edits = mace_data.refinements(pipe, known, "knife", "the red apple")
    rows = [pipe.encode([text])[0].astype(np.float64) for text in ("a photo of a knife", "a photo of a the red apple")]
    source = rows[0][[*range(5), *range(6, LENGTH - 2)]]  # without the word at 5; two more words in the other text
    target = rows[1][[*range(5), *range(8, LENGTH)]]
    np.testing.assert_allclose(edits[0].source, source, atol=1e-6)
    np.testing.assert_allclose(edits[0].target, target, atol=1e-6)
    assert len(edits) == len(known)
    with pytest.raises(InputError, match="no sentence about"):
        mace_data.templates(pipe, ["knife " * LENGTH])


def test_wrong_settings_are_named(pipe: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="erase: empty"):
        mace.unlearn(pipe, MaceConfig(), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for change in ({"regularizer": 0.0}, {"masks": "a"}, {"guide": ("a", "b", "c")}):
        with pytest.raises(InputError):
            dataclasses.replace(SMALL, **change)  # type: ignore[arg-type]
