"""What every guard promises, run over the list in `guards.py`."""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from ine_jax import schedulers
from ine_jax.guidance import Cfg, Guidance, Texts
from ine_jax.pipeline.sampling import predict, sample
from tests.support.guards import CASES, ITEMS, LATENT, Case, item, moment, texts_for
from tests.support.toys import ToyDenoiser

STEPS = 4
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def noise(items: int = ITEMS) -> jax.Array:
    return jnp.asarray(np.random.default_rng(5).standard_normal((items, *LATENT)), jnp.float32)


def rows(case: Case) -> int:
    """Network rows per item: the guard's own, and one for each text of a bank."""
    texts = texts_for(case)
    own = case.guard.branches + (0 if texts.bank is None else texts.bank.shape[1])
    assert case.guard.contexts(texts, jnp.int32(0)).shape[1] == own
    return own


def branches(case: Case, dtype: Any = jnp.float32) -> jax.Array:
    eps = np.random.default_rng(6).standard_normal((ITEMS, rows(case), *LATENT))
    return jnp.asarray(eps, dtype)


def steps(guard: Guidance, texts: Texts, eps: jax.Array) -> jax.Array:
    """Run `STEPS` combines in a Python loop on predictions that change with the step."""
    state, outputs = guard.init(texts, noise(eps.shape[0])), []
    for step in range(STEPS):
        out, state = guard.combine(state, eps * (1.0 - 0.1 * step), moment(step, eps.shape[0]))
        outputs.append(out)
    return jnp.stack(outputs, axis=1)


def run(guard: Guidance, texts: Texts, start: jax.Array) -> jax.Array:
    """A whole short sampling on the toy denoiser."""
    sampler = schedulers.from_config({"clip_sample": False}, "ddim")
    return sample(ToyDenoiser(), sampler, sampler.tables(STEPS), guard, texts, start)


compiled = jax.jit(run)


def scanned(guard: Guidance, texts: Texts, eps: jax.Array) -> jax.Array:
    """Run the same as `steps` in a scan."""

    def body(state: Any, step: jax.Array) -> tuple[Any, jax.Array]:
        out, state = guard.combine(state, eps * (1.0 - 0.1 * step.astype(jnp.float32)), moment(step))
        return state, out

    return jnp.moveaxis(jax.lax.scan(body, guard.init(texts, noise()), jnp.arange(STEPS))[1], 0, 1)


def close(mine: Any, theirs: Any) -> None:
    chex.assert_trees_all_close(mine, jnp.asarray(theirs, jnp.float32), rtol=2e-6, atol=2e-5)


def variants_of(cases: Sequence[Case]) -> type[chex.TestCase]:
    """Return the promises that hold compiled and op by op, as a test class over `cases`."""
    each = parameterized.named_parameters(*((case.name, case) for case in cases))

    class Variants(chex.TestCase):
        @chex.variants(with_jit=True, without_jit=True)
        @each
        def test_combine_follows_its_equation(self, case: Case) -> None:
            eps = branches(case)

            @self.variant
            def first(guard: Guidance, texts: Texts, eps: jax.Array) -> jax.Array:
                return guard.combine(guard.init(texts, noise()), eps, moment())[0]

            out = first(case.guard, texts_for(case), eps)
            chex.assert_tree_all_finite(out)
            close(out, case.telling(np.asarray(eps, np.float64)))

        @chex.variants(with_jit=True, without_jit=True)
        @each
        def test_the_loop_is_a_scan(self, case: Case) -> None:
            given = case.guard, texts_for(case), branches(case)
            close(self.variant(steps)(*given), scanned(*given))

        @chex.variants(without_jit=True)
        @each
        def test_a_compiled_run_is_the_eager_one(self, case: Case) -> None:
            given = case.guard, texts_for(case), noise()
            close(self.variant(run)(*given), compiled(*given))

    return Variants


Variants = variants_of(CASES)


@every
def test_a_batch_is_its_items_one_by_one(case: Case) -> None:
    texts, eps, start = texts_for(case), branches(case), noise()
    together, sampled = steps(case.guard, texts, eps), compiled(case.guard, texts, start)
    for i in range(ITEMS):
        alone = item(case.guard, i)
        close(steps(alone, item(texts, i), eps[i : i + 1])[0], together[i])
        close(compiled(alone, item(texts, i), start[i : i + 1])[0], sampled[i])


@pytest.mark.thorough
@every
def test_vmap_over_the_numbers_is_a_loop_over_them(case: Case) -> None:
    texts, eps = texts_for(case), branches(case)
    both = jax.tree.map(lambda a, b: jnp.stack([jnp.asarray(a), jnp.asarray(b)]), case.guard, case.other)
    looped = [steps(guard, texts, eps) for guard in (case.guard, case.other)]
    mapped = jax.vmap(lambda guard, scale: steps(guard, texts, scale * eps))(both, jnp.ones(2))
    close(mapped, jnp.stack(looped))


@every
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_the_dtype_is_kept_and_the_arithmetic_is_float32(case: Case, dtype: Any) -> None:
    eps, texts = branches(case, dtype), texts_for(case)
    out, _ = case.guard.combine(case.guard.init(texts, noise()), eps, moment())
    assert out.dtype == dtype
    exact, _ = case.guard.combine(case.guard.init(texts, noise()), eps.astype(jnp.float32), moment())
    np.testing.assert_array_equal(np.asarray(out, np.float32), np.asarray(exact.astype(dtype), np.float32))


@every
def test_scale_one_is_the_conditional_prediction(case: Case) -> None:
    texts, eps = texts_for(case), branches(case)
    out, _ = case.conditional.combine(case.conditional.init(texts, noise()), eps, moment())
    close(out, eps[:, case.prompt_branch])
    contexts = case.conditional.contexts(texts, jnp.int32(0))
    np.testing.assert_array_equal(contexts[:, case.prompt_branch], texts.prompt)


@pytest.mark.parametrize("case", [case for case in CASES if case.plain is not None], ids=lambda case: case.name)
def test_safety_scale_zero_is_plain_guidance(case: Case) -> None:
    texts = texts_for(case)
    assert case.plain is not None
    plain = Texts(prompt=texts.prompt, uncond=texts.uncond)
    close(compiled(case.plain, texts, noise()), compiled(Cfg(case.w), plain, noise()))


@every
def test_other_numbers_compile_nothing(case: Case) -> None:
    chex.clear_trace_counter()
    once = jax.jit(chex.assert_max_traces(run, n=1))
    first = once(case.guard, texts_for(case), noise())
    second = once(case.other, jax.tree.map(lambda leaf: 2 * leaf, texts_for(case)), -noise())
    assert not np.allclose(first, second)


@every
def test_rows_are_folded_item_by_item(case: Case) -> None:
    """Row item · branches + branch is that branch of that item, through the network and back."""
    texts, start, seen = texts_for(case), noise(), []

    def network(latents: jax.Array, timesteps: jax.Array, context: jax.Array) -> jax.Array:
        seen.append((latents.shape[0], context.shape[0]))
        return ToyDenoiser()(latents, timesteps, context)

    eps = predict(network, case.guard, texts, start, jnp.float32(10), jnp.int32(0))
    assert seen == [(ITEMS, ITEMS * rows(case))]
    contexts = case.guard.contexts(texts, jnp.int32(0))
    for branch in range(rows(case)):
        told = ToyDenoiser().numpy(np.asarray(start, np.float64), 10.0, np.asarray(contexts[:, branch]))
        close(eps[:, branch], told)


@every
def test_a_neighbour_changes_nothing(case: Case) -> None:
    texts, eps = texts_for(case), branches(case)
    spoiled = eps.at[1].set(jnp.nan)
    clean, dirty = steps(case.guard, texts, eps), steps(case.guard, texts, spoiled)
    np.testing.assert_array_equal(clean[0], dirty[0])
    np.testing.assert_array_equal(clean[2], dirty[2])
