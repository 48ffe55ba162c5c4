"""RECE's closed form: against other ways to the same minimum, and between whole models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from ine_jax.errors import InputError
from ine_jax.inversion import rece
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import native_unet
from tests.support.tiny_pipeline import CELLS, LENGTH, WIDTH
from tests.support.unlearned import MIX, base, changed, pipe, unlearned_folder  # noqa: F401  fixtures

Kernels = dict[str, np.ndarray]


def kernels(seed: int, dim: int = 5, outs: tuple[int, ...] = (4, 7, 6)) -> Kernels:
    rng = np.random.default_rng(seed)
    return {f"layer{i}": rng.standard_normal((dim, out)) for i, out in enumerate(outs)}


def objective(found: np.ndarray, new: Kernels, old: Kernels, context: np.ndarray, weight: float) -> float:
    """Σ_i ||W_i c' - W°_i c||² + λ ||c'||² of one position."""
    far = sum(float(np.sum((new[n].T @ found - old[n].T @ context) ** 2)) for n in new)
    return far + weight * float(found @ found)


# ------------------------------------------------------------------------------------------------------------- formula


@pytest.mark.parametrize("weight", [0.0, 1e-3, 0.1, 5.0])
def test_the_closed_form_equals_the_published_expression(weight: float) -> None:
    new, old, context = kernels(0), kernels(1), np.random.default_rng(2).standard_normal((3, 5))
    left, right = weight * np.eye(5), np.zeros((5, 5))
    for name in new:
        w, w_old = new[name].T, old[name].T
        left, right = left + w.T @ w, right + w.T @ w_old
    told = context @ (np.linalg.inv(left) @ right).T
    np.testing.assert_allclose(rece.closed_form(new, old, context, weight), told, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.1, 5.0])
def test_the_closed_form_is_what_a_minimiser_finds(weight: float) -> None:
    new, old, context = kernels(3), kernels(4), np.random.default_rng(5).standard_normal((2, 5))
    found = rece.closed_form(new, old, context, weight)
    for position in range(2):
        known = (new, old, context[position], weight)
        searched = scipy.optimize.minimize(objective, np.zeros(5), known, method="BFGS", options={"gtol": 1e-9})
        np.testing.assert_allclose(found[position], searched.x, atol=1e-5)
        assert objective(found[position], *known) <= searched.fun + 1e-9


def test_an_unchanged_model_gives_the_words_back() -> None:
    same, context = kernels(0), np.random.default_rng(1).standard_normal((3, 5))
    np.testing.assert_allclose(rece.closed_form(same, same, context, 0.0), context, rtol=1e-10)
    shrunk = rece.closed_form(same, same, context, 1.0)
    assert (np.linalg.norm(shrunk, axis=1) < np.linalg.norm(context, axis=1)).all()
    assert rece.residual(same, same, context, context) == 0
    assert rece.residual(same, same, np.zeros_like(context), context) == pytest.approx(1.0)


def test_an_undetermined_context_is_refused() -> None:
    thin, context = kernels(0, outs=(2, 2)), np.ones((1, 5))
    with pytest.raises(InputError, match="do not determine"):
        rece.closed_form(thin, thin, context, 0.0)
    assert np.isfinite(rece.closed_form(thin, thin, context, 1e-3)).all()


def test_models_that_do_not_match_are_refused() -> None:
    new, context = kernels(0), np.ones((1, 5))
    for old in (kernels(0, outs=(4, 7)), kernels(0, outs=(4, 7, 5)), kernels(0, dim=6)):
        with pytest.raises(InputError, match="its own original"):
            rece.closed_form(new, old, context)
    with pytest.raises(InputError, match="a context of 6"):
        rece.closed_form(new, new, np.ones((1, 6)))


# --------------------------------------------------------------------------------------------------------------- models


def test_projections_are_the_keys_and_values_of_cross_attention(base: Pipeline) -> None:
    found = rece.projections(base.parts.unet_params)
    assert len(found) == 8  # four transformers
    assert all("attn2.to_k" in name or "attn2.to_v" in name for name in found)
    assert {kernel.shape for kernel in found.values()} == {(WIDTH, 32)}
    assert {kernel.dtype for kernel in found.values()} == {np.dtype(np.float64)}
    with pytest.raises(InputError, match="without cross-attention"):
        rece.projections({"conv_in": {"kernel": np.ones((3, 3, 4, 8))}})


def test_the_unlearned_model_draws_from_it_what_the_original_drew_from_the_words(
    pipe: Pipeline, base: Pipeline
) -> None:
    words = base.encode(["a knife"])[0]
    found = rece.solve(pipe, base, "a knife", 0.0)
    np.testing.assert_allclose(found.context, words @ np.linalg.inv(MIX), atol=1e-4)
    assert found.residual < 1e-8 < 1e-2 < found.explicit
    unet = jax.jit(native_unet(pipe.parts.unet_config, jnp.float32))
    latents = jnp.asarray(np.random.default_rng(0).standard_normal((1, CELLS, CELLS, 4)), jnp.float32)

    def eps(model: Pipeline, context: np.ndarray) -> np.ndarray:
        return np.asarray(unet(model.parts.unet_params, latents, jnp.asarray([500.0]), jnp.asarray(context)[None]))

    np.testing.assert_allclose(eps(pipe, found.context), eps(base, words), atol=1e-4)
    assert np.abs(eps(pipe, words) - eps(base, words)).max() > 1e-2


def test_a_regularizer_costs_residual_and_length(pipe: Pipeline, base: Pipeline) -> None:
    found = [rece.solve(pipe, base, "a knife", weight) for weight in (1e-3, 1.0, 100.0)]
    assert found[0].residual < found[1].residual < found[2].residual
    lengths = [np.linalg.norm(each.context) for each in found]
    assert lengths[0] > lengths[1] > lengths[2]


def test_words_that_are_too_long_are_refused(pipe: Pipeline, base: Pipeline) -> None:
    with pytest.raises(InputError, match=f"at most {LENGTH - 2} tokens"):
        rece.solve(pipe, base, "a " * LENGTH)
