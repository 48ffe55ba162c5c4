"""SAFREE around other guards: which text they see at which step, and the reference row of re-attention."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax import schedulers
from ine_jax.errors import InputError
from ine_jax.guidance import Cfg, Guidance, Negative, NoGuidance, Safree, Texts, sld_preset
from ine_jax.guidance.base import phases, rows
from ine_jax.guidance.safree import Reference
from ine_jax.models.checkpoints import names
from ine_jax.models.layers import per_row
from ine_jax.models.skips import SkipEdit
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline import programs
from ine_jax.pipeline.sampling import predict, sample
from tests.support.model_recipes import UNETS, normal, torch_state
from tests.support.toys import ToyDenoiser
from tests.support.typechecking import unchecked

STEPS, SHAPE, TOKENS, DIM = 4, (3, 4, 4, 2), 5, 4
RNG = np.random.default_rng(8)
PROMPT, UNCOND, AVOID, SAFE = (jnp.asarray(RNG.standard_normal((3, TOKENS, DIM)), jnp.float32) for _ in range(4))
UNTIL = jnp.asarray([-1, 1, 1001], jnp.int32)
TEXTS = Texts(PROMPT, UNCOND, AVOID, safe=SAFE, until=UNTIL)
NOISE = jnp.asarray(RNG.standard_normal(SHAPE), jnp.float32)
INNER = {
    "none": NoGuidance(),
    "cfg": Cfg(7.5),
    "negative": Negative(7.5, 3.0),
    "sld": sld_preset("medium", warmup=0.0, safety_scale=3.0),
    "sld in phases": sld_preset("weak", warmup_unit="fraction", warmup=20.0, safety_scale=3.0),
}
every = pytest.mark.parametrize("inner", INNER.values(), ids=INNER)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PromptLast(Cfg):
    """A guard whose prompt is its last row."""

    def contexts(self, texts: Texts, step: Any) -> Any:
        return rows(texts.uncond, texts.uncond, texts.prompt)


def run(guard: Guidance, texts: Texts) -> jax.Array:
    sampler = schedulers.from_config({"clip_sample": False}, "ddim")
    compiled = jax.jit(lambda guard, texts: sample(ToyDenoiser(), sampler, sampler.tables(STEPS), guard, texts, NOISE))
    return compiled(guard, texts)


@every
def test_a_run_is_the_inner_guard_on_one_prompt_or_the_other(inner: Guidance) -> None:
    got = run(Safree(inner, negative_in_cfg=True), TEXTS)
    np.testing.assert_allclose(got[0], run(inner, TEXTS)[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got[2], run(inner, replace(TEXTS, prompt=SAFE))[2], rtol=1e-6, atol=1e-6)
    assert np.abs(np.asarray(got - run(inner, TEXTS)))[1:].max() > 1e-3


@every
def test_the_prompt_changes_at_its_own_step_for_every_item_and_nothing_else_does(inner: Guidance) -> None:
    for step in range(4):
        got = Safree(inner, negative_in_cfg=True).contexts(TEXTS, jnp.int32(step))
        here = jnp.where(jnp.asarray([False, step <= 1, True])[:, None, None], SAFE, PROMPT)
        np.testing.assert_array_equal(got, inner.contexts(replace(TEXTS, prompt=here), jnp.int32(step)))


def test_the_negative_enters_the_unconditional_row_of_cfg_only_where_asked() -> None:
    texts, step = replace(TEXTS, until=jnp.full(3, -1)), jnp.int32(0)
    np.testing.assert_array_equal(Safree(Cfg()).contexts(texts, step), rows(UNCOND, PROMPT))
    np.testing.assert_array_equal(Safree(Cfg(), negative_in_cfg=True).contexts(texts, step), rows(AVOID, PROMPT))
    np.testing.assert_array_equal(Safree(Negative()).contexts(texts, step), rows(UNCOND, PROMPT, AVOID))


def test_the_window_has_a_first_step() -> None:
    guard = Safree(NoGuidance(), window=(1.0, 1001.0))
    used = [guard.contexts(TEXTS, jnp.int32(step))[:, 0] for step in range(3)]
    for step, safe in enumerate(([0, 0, 0], [0, 1, 1], [0, 0, 1])):
        np.testing.assert_array_equal(used[step], jnp.where(jnp.asarray(safe, bool)[:, None, None], SAFE, PROMPT))


def test_phases_state_and_rows_are_the_inner_guards() -> None:
    inner = sld_preset("weak", warmup_unit="fraction", warmup=20.0)
    parts = phases(Safree(inner), 5)
    assert [(part.branches, count) for part, count in parts] == [(2, 2), (3, 3)]
    assert all(isinstance(part, Safree) for part, _ in parts)
    assert phases(Safree(Cfg()), 5) == [(Safree(Cfg()), 5)]
    np.testing.assert_array_equal(Safree(inner).init(TEXTS, NOISE), inner.init(TEXTS, NOISE))


def test_what_does_not_fit_is_refused_in_three_lines() -> None:
    calls = [
        lambda: Safree(Cfg()).init(replace(TEXTS, safe=None), NOISE),
        lambda: Safree(Cfg()).contexts(replace(TEXTS, until=None), jnp.int32(0)),
        lambda: Safree(Cfg(), reattention="both"),  # type: ignore[arg-type]
        lambda: Safree(Negative()).init(replace(TEXTS, negative=None), NOISE),
    ]
    for call in calls:
        with unchecked(), pytest.raises(InputError) as error:
            call()
        assert len(str(error.value).splitlines()) == 3


def test_as_released_is_off() -> None:
    for mode in ("off", "as-released"):
        assert Safree(Cfg(), reattention=mode).reference(TEXTS, jnp.int32(0)) is None  # type: ignore[arg-type]
    got = (run(Safree(Cfg(), reattention="as-released"), TEXTS), run(Safree(Cfg()), TEXTS))
    np.testing.assert_array_equal(*got)


@pytest.mark.parametrize(
    ("inner", "prompt"),
    [(NoGuidance(), 0), (Cfg(), 1), (Negative(), 1), (sld_preset("max"), 1), (PromptLast(), 2)],
    ids=["none", "cfg", "negative", "sld", "prompt last"],
)
def test_the_inner_guard_says_which_row_is_edited(inner: Guidance, prompt: int) -> None:
    guard = Safree(inner, reattention="low")
    found: list[Reference | None] = []

    @jax.jit
    def traced(guard: Safree, texts: Texts) -> jax.Array:
        def body(carry: None, step: jax.Array) -> tuple[None, jax.Array]:
            found.append(guard.reference(texts, step))
            assert found[-1] is not None
            return carry, found[-1].active

        return jax.lax.scan(body, None, jnp.arange(3))[1]

    np.testing.assert_array_equal(
        traced(guard, TEXTS), [[False, True, True], [False, True, True], [False, False, True]]
    )
    assert found[0] is not None
    assert found[0].rows == (prompt,)
    bank = replace(TEXTS, bank=jnp.ones((3, 2, TOKENS, DIM)), negative=AVOID)
    told = guard.reference(bank, jnp.int32(0))
    assert told is not None
    assert (told.rows, told.mode) == ((prompt,), "low")
    np.testing.assert_array_equal(told.context, PROMPT)


def test_the_reference_is_the_last_row_of_every_item() -> None:
    seen = []

    def network(latents: Any, timesteps: Any, context: Any, reference: Reference) -> jax.Array:
        seen.append((latents, timesteps, context, reference))
        out = ToyDenoiser()(latents, timesteps, context)
        return out.reshape(3, 3, *SHAPE[1:])[:, :-1].reshape(6, *SHAPE[1:])

    guard = Safree(Cfg(), reattention="all")
    eps = predict(network, guard, TEXTS, NOISE, jnp.float32(10), jnp.int32(1))
    plain = predict(ToyDenoiser(), Safree(Cfg()), TEXTS, NOISE, jnp.float32(10), jnp.int32(1))
    np.testing.assert_array_equal(eps, plain)
    latents, timesteps, context, _ = seen[0]
    assert (timesteps.shape, context.shape[0]) == ((3,), 9)
    np.testing.assert_array_equal(context.reshape(3, 3, TOKENS, DIM)[:, -1], PROMPT)
    np.testing.assert_array_equal(latents, NOISE)


SMALL = UNETS["shallow"]


@pytest.fixture(scope="module")
def params() -> Any:
    return names.from_torch("unet", torch_state(SMALL), SMALL)


def small_texts(count: int, until: tuple[int, ...]) -> Texts:
    made = (jnp.asarray(normal(name, count, 5, 24)) for name in ("prompt", "uncond", "negative", "safe"))
    prompt, uncond, negative, safe = made
    return Texts(prompt, uncond, negative, safe=safe, until=jnp.asarray(until, jnp.int32))


def test_the_unet_gets_the_edit_of_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    edits: list[SkipEdit] = []

    class Recorder:
        def __init__(self, config: UNetConfig, dtype: Any, platform: str) -> None: ...

        def apply(self, variables: Any, latents: Any, timesteps: Any, context: Any, edit: SkipEdit) -> Any:
            edits.append(edit)
            return edit.kept(latents)

    monkeypatch.setattr(programs, "UNet", Recorder)
    denoise = programs.native_unet(SMALL, jnp.float32)
    guard = Safree(Cfg(), reattention="high", backbone=(1.2, 0.9))
    predict(lambda *given: denoise({}, *given), guard, TEXTS, NOISE, jnp.float32(500), jnp.int32(2))
    assert (edits[0].backbone, edits[0].skip) == ((1.2, 0.9), (0.9, 0.2))
    assert (edits[0].mode, edits[0].rows) == ("high", (1,))
    np.testing.assert_array_equal(edits[0].active, [False, False, True])


@pytest.mark.thorough
def test_reattention_edits_the_prompt_row_of_items_within_their_steps_alone(params: Any) -> None:
    denoise = programs.native_unet(SMALL, jnp.float32)
    latents, step = jnp.asarray(normal("latents", 3, 8, 8, 4)), jnp.int32(2)
    guard = Safree(Cfg(), reattention="low", backbone=(1.2, 0.9))

    @jax.jit
    def compiled(params: Any, texts: Texts) -> jax.Array:
        return predict(lambda *given: denoise(params, *given), guard, texts, latents, jnp.float32(500), step)

    texts = small_texts(3, (-1, 1, 1001))
    assert texts.safe is not None
    plain = compiled(
        params, replace(texts, prompt=jnp.stack([*texts.prompt[:2], texts.safe[2]]), until=jnp.full(3, -1))
    )
    changed = np.abs(np.asarray(compiled(params, texts) - plain)).max((2, 3, 4))
    np.testing.assert_array_equal(changed > 1e-4, [[False, False], [False, False], [False, True]])
    assert changed[:2].max() < 5e-6


REATTENTION = Safree(sld_preset("weak", 3.0, "fraction", warmup=20.0, safety_scale=3.0), reattention="low")


@pytest.mark.thorough
def test_a_reattention_run_does_not_depend_on_the_neighbour_bit_for_bit(params: Any) -> None:
    """Whole trajectories, in batches of one shape: the same compiled loop, with another item beside."""
    denoise = programs.native_unet(SMALL, jnp.float32)
    texts, noise = small_texts(2, (0, 2)), jnp.asarray(normal("noise", 2, 8, 8, 4))
    sampler = schedulers.from_config({"clip_sample": False}, "ddim")

    @jax.jit
    def run(params: Any, texts: Texts, noise: jax.Array) -> jax.Array:
        return sample(lambda *given: denoise(params, *given), sampler, sampler.tables(3), REATTENTION, texts, noise)

    together = run(params, texts, noise)
    assert np.isfinite(together).all()
    for i in range(2):
        twice = jnp.asarray([i, i])
        alone = run(params, jax.tree.map(lambda leaf, twice=twice: leaf[twice], texts), noise[twice])
        np.testing.assert_array_equal(alone[i], together[i])


def test_one_reattention_step_on_equal_features_is_the_same_in_every_batch() -> None:
    """One call, other batch shapes: no two spectra come near each other here, so the filter chooses alike."""

    def network(latents: Any, timesteps: Any, context: Any, reference: Reference) -> jax.Array:
        features = per_row(latents, context) * (1.0 + 0.5 * context.mean(axis=(1, 2)))[:, None, None, None]
        numbers = (reference.active, reference.backbone, reference.skip)
        edit = SkipEdit(*numbers, mode=reference.mode, rows=reference.rows)
        kept, skip = edit(edit.kept(features), features, (features.shape[-1],))
        return kept + 0.3 * skip

    sampler = schedulers.from_config({"clip_sample": False}, "ddim")
    guard = Safree(Negative(3.0, 2.0), reattention="all", backbone=(1.2, 0.9))
    run = jax.jit(lambda texts, noise: sample(network, sampler, sampler.tables(1), guard, texts, noise))
    texts = replace(TEXTS, until=jnp.asarray([-1, 0, 0]))
    together = run(texts, NOISE)
    for i in range(3):
        alone = run(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], texts), NOISE[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-5, atol=1e-5)


@pytest.mark.oracle
def test_the_diffusers_unet_refuses_reattention() -> None:
    pytest.importorskip("diffusers.models.unets.unet_2d_condition_flax")
    denoise = programs.diffusers_unet("{}", jnp.float32)
    guard = Safree(Cfg(), reattention="low")
    with pytest.raises(InputError, match="re-attention 'low'"):
        predict(lambda *given: denoise({}, *given), guard, TEXTS, NOISE, jnp.float32(10), jnp.int32(0))
