"""SAFREE's text side against its formulas told prompt by prompt in float64."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.guidance import Cfg, Safree
from ine_jax.guidance.projection import basis, find_triggers, masked_copies, onto
from ine_jax.guidance.safree import SafeText

TOKENS, DIM = 32, 48
COPIES = TOKENS - 2
LENGTHS = (0, 1, 5, 22)
RNG = np.random.default_rng(3)
PROMPTS = RNG.standard_normal((len(LENGTHS), TOKENS, DIM))
# Hiding one token moves a pooled vector a little, as in CLIP.
POOLED = RNG.standard_normal((len(LENGTHS), 1, DIM)) + 0.3 * RNG.standard_normal((len(LENGTHS), COPIES, DIM))
MASK = jnp.arange(COPIES)[None, :] < jnp.asarray(LENGTHS)[:, None]
END = jnp.asarray(LENGTHS, jnp.int32) + 1
PHRASES = RNG.standard_normal((17, DIM))
DEFICIENT = RNG.standard_normal((17, 5)) @ RNG.standard_normal((5, DIM))  # rank 5
SOFT: dict[str, Any] = {
    "steepness": 0.3,
    "midpoint": 8.0,
}  # the filter's curve, stretched over the shifts of these texts


def projector(columns: np.ndarray) -> np.ndarray:
    """C (CᵀC)⁺ Cᵀ, with the columns of C given as rows."""
    return columns.T @ np.linalg.pinv(columns @ columns.T, rcond=1e-10, hermitian=True) @ columns


def told(i: int, phrases: np.ndarray, alpha: float = 0.01, up: float = 10, k: float = 2.5, t0: float = 5.333) -> Any:
    """Prompt i alone: distances, triggers, text, β and t'; a prompt without tokens stays."""
    n, text = LENGTHS[i], PROMPTS[i]
    if n == 0:
        return np.zeros(0), np.zeros(0, bool), text, None, -1
    away = np.eye(DIM) - projector(phrases)
    m = POOLED[i, :n]
    distances = np.linalg.norm(m @ away, axis=1)
    triggers = []
    for j in range(n):
        others = np.delete(distances, j)
        triggers.append(not distances[j] < (1 + alpha) * (others.mean() if n > 1 else np.nan))
    moved = text @ (away @ projector(m)).T
    safe = text.copy()
    for j in map(int, np.flatnonzero(triggers)):
        safe[j + 1] = moved[j + 1]
    a, b = moved[: n + 2], text[: n + 2]
    beta = 1 - np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
    return distances, np.array(triggers), safe, beta, round(up / (1 + np.exp(-2 * k * (10 * beta - t0))))


def projected(guard: Safree, phrases: np.ndarray = PHRASES, items: Any = slice(None), **more: Any) -> SafeText:
    where = items if isinstance(items, slice) else jnp.asarray(items)
    prompts, pooled = (jnp.asarray(np.asarray(a[items], np.float32)) for a in (PROMPTS, POOLED))
    return guard.project(prompts, pooled, MASK[where], END[where], jnp.asarray(phrases, jnp.float32), **more)


def check(got: SafeText, phrases: np.ndarray, items: Any = (0, 1, 2, 3), **numbers: float) -> None:
    for row, i in enumerate(items):
        distances, triggers, safe, beta, until = told(i, phrases, **numbers)
        n = LENGTHS[i]
        np.testing.assert_allclose(got.distances[row, :n], distances, rtol=1e-5)
        np.testing.assert_array_equal(got.triggers[row, :n], triggers)
        assert not got.triggers[row, n:].any()
        np.testing.assert_allclose(got.safe[row], safe, atol=2e-5)
        assert beta is None or abs(float(got.shift[row]) - beta) < 1e-5
        assert int(got.until[row]) == until


@pytest.mark.parametrize("phrases", [PHRASES, DEFICIENT], ids=["17", "17 of rank 5"])
def test_a_batch_of_unequal_prompts_is_the_formulas_one_by_one(phrases: np.ndarray) -> None:
    got = projected(Safree(Cfg()), phrases)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    assert 2 < int(got.triggers.sum()) < int(MASK.sum()) - 2
    assert got.triggers[1, 0], "a single token counts as a trigger"
    check(got, phrases)


def test_the_filter_and_its_numbers() -> None:
    got = projected(Safree(Cfg(), alpha=0.05, up_t=20.0, **SOFT))
    check(got, PHRASES, alpha=0.05, up=20, k=0.3, t0=8.0)
    assert len(set(np.asarray(got.until[1:]).tolist())) == 3
    assert int(got.until[1:].min()) > 0 and int(got.until.max()) < 20


def test_each_prompt_may_have_numbers_of_its_own() -> None:
    alpha, up, k, t0 = (
        np.array(v, float) for v in ([0.0, 0.1, 0.05, 0.02], [1, 9, 20, 30], [1, 0.3, 0.2, 0.4], [1, 8, 7, 9])
    )
    got = projected(Safree(Cfg(), alpha=alpha, up_t=up, steepness=k, midpoint=t0))
    for i in range(len(LENGTHS)):
        one = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], got)
        check(one, PHRASES, [i], alpha=alpha[i], up=up[i], k=k[i], t0=t0[i])


def test_a_batch_is_its_prompts_alone_and_cut_sequences_change_nothing() -> None:
    guard = Safree(Cfg(), **SOFT)
    project, together = jax.jit(Safree.project), projected(guard)
    for i, n in enumerate(LENGTHS):
        cut = (PROMPTS[i : i + 1, : n + 2], POOLED[i : i + 1, : max(n, 1)], MASK[i : i + 1, : max(n, 1)])
        prompt, pooled, mask = (jnp.asarray(a, a.dtype if a.dtype == bool else np.float32) for a in cut)
        if n == 0:  # a sequence of two positions has no room for a copy
            prompt = jnp.asarray(PROMPTS[:1, :3], jnp.float32)
        alone = project(guard, prompt, pooled, mask, END[i : i + 1], jnp.asarray(PHRASES, jnp.float32))
        np.testing.assert_allclose(alone.safe[0], together.safe[i, : prompt.shape[1]], atol=1e-5)
        np.testing.assert_array_equal(alone.triggers[0, :n], together.triggers[i, :n])
        assert alone.until[0] == together.until[i]


def test_only_triggers_change_and_nothing_without_tokens_or_without_a_concept() -> None:
    got = projected(Safree(Cfg()))
    changed = np.asarray(got.safe != PROMPTS.astype(np.float32)).any(-1)
    np.testing.assert_array_equal(changed, np.pad(np.asarray(got.triggers), ((0, 0), (1, 1))))
    assert got.until[0] == -1
    without = projected(Safree(Cfg(), validate=False), np.zeros((8, DIM)))
    np.testing.assert_array_equal(without.safe, PROMPTS.astype(np.float32))
    np.testing.assert_array_equal(without.until, -1)
    assert not without.triggers.any()


def test_halves_round_to_even() -> None:
    """At k = 0 the sigmoid is 1/2."""
    ups = np.array([1.0, 5.0, 7.0, 3.0])
    got = projected(Safree(Cfg(), up_t=ups, steepness=0.0))
    np.testing.assert_array_equal(got.until, [-1, 2, 4, 2])


def test_steps_are_counted_as_released_or_as_shares_of_the_run() -> None:
    as_released, scaled = Safree(Cfg(), steepness=0.0), Safree(Cfg(), steepness=0.0, steps_of_50=True)
    for calls, until in ((50, 5), (20, 2), (100, 10)):
        assert int(projected(as_released, calls=calls).until[3]) == 5
        assert int(projected(scaled, calls=calls).until[3]) == until


def test_without_the_filter_the_window_says_until_when() -> None:
    np.testing.assert_array_equal(projected(Safree(Cfg(), validate=False)).until, [-1, 1001, 1001, 1001])
    given = projected(Safree(Cfg(), validate=False, window=(3.0, 12.0)))
    np.testing.assert_array_equal(given.until, [-1, 12, 12, 12])


def test_other_lengths_concepts_and_numbers_compile_nothing() -> None:
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(guard: Safree, *arrays: Any) -> SafeText:
        return guard.project(*arrays)

    def padded(phrases: np.ndarray) -> np.ndarray:
        return np.pad(phrases, ((0, 24 - len(phrases)), (0, 0))).astype(np.float32)

    order = [2, 3, 0, 1]
    for rows, phrases, alpha in ((slice(None), PHRASES, 0.01), (order, PHRASES[:1], 0.05)):
        prompts, pooled = (a[rows].astype(np.float32) for a in (PROMPTS, POOLED))
        guard = Safree(Cfg(jnp.float32(alpha)), jnp.float32(alpha))
        got = run(guard, prompts, pooled, np.asarray(MASK)[rows], np.asarray(END)[rows], padded(phrases))
        check(got, phrases, range(4) if rows == slice(None) else order, alpha=float(np.float32(alpha)))


def test_the_text_keeps_its_dtype_and_the_arithmetic_is_float32() -> None:
    half = jnp.asarray(PROMPTS, jnp.bfloat16)
    arrays = (jnp.asarray(POOLED, jnp.float32), MASK, END, jnp.asarray(PHRASES, jnp.float32))
    got, exact = (Safree(Cfg()).project(p, *arrays) for p in (half, half.astype(jnp.float32)))
    assert got.safe.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.safe, exact.safe.astype(jnp.bfloat16))


def test_a_basis_spans_what_the_pseudo_inverse_projects_on() -> None:
    vectors = RNG.standard_normal((6, DIM))
    for columns, rank in ((PHRASES, 17), (DEFICIENT, 5), (PHRASES[:1], 1), (np.zeros((3, DIM)), 0)):
        span = basis(jnp.asarray(columns, jnp.float32))
        assert int((np.abs(span).sum(-1) > 0).sum()) == rank
        want = vectors @ projector(columns) if rank else np.zeros_like(vectors)
        np.testing.assert_allclose(onto(span, jnp.asarray(vectors, jnp.float32)), want, atol=2e-5)
    more = basis(jnp.asarray(RNG.standard_normal((60, DIM)), jnp.float32))  # more columns than dimensions
    np.testing.assert_allclose(onto(more, jnp.asarray(vectors, jnp.float32)), vectors, atol=2e-5)


def test_triggers_of_given_distances() -> None:
    distances = jnp.asarray([[1.0, 1.0, 1.3, 9.0], [2.0, 2.0, 2.0, 2.0], [0.0, 7.0, 7.0, 7.0], [5.0, 1.0, 1.0, 1.0]])
    mask = jnp.asarray([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    want = np.asarray([[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(find_triggers(distances, mask, 0.01), want)
    np.testing.assert_array_equal(find_triggers(distances, mask, 0.0)[1], True)  # equal is enough


@pytest.mark.parametrize(("pad", "hidden"), [(99, 0), (0, 0), (99, 5)], ids=["SD 1", "SD 2", "another id"])
def test_copies_hide_one_token_each(pad: int, hidden: int) -> None:
    begin, end, learned = 98, 99, 1 << 24
    prompts: list[list[int]] = [[], [7], [3, learned, 0, 4, 3, 9]]
    ids = np.asarray([([begin, *p, end] + [pad] * 6)[:8] for p in prompts], np.int32)
    copies = masked_copies(jnp.asarray(ids), end, hidden)
    assert copies.ids.shape == (3, 6, 8)
    np.testing.assert_array_equal(copies.end, [1, 2, 7])
    for row, prompt in enumerate(prompts):
        np.testing.assert_array_equal(copies.mask[row], np.arange(6) < len(prompt))
        for i in range(len(prompt)):
            want = ids[row].copy()
            want[i + 1] = hidden
            np.testing.assert_array_equal(copies.ids[row, i], want)
