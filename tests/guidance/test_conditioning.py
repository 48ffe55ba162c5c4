"""Which slots of a guard are filled, with what, and which guard a call means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest

from ine_jax.config import GuidanceConfig
from ine_jax.errors import InputError
from ine_jax.guidance import (
    Casg,
    Cfg,
    DynamicNegative,
    Gated,
    Guidance,
    Interval,
    Negative,
    NoGuidance,
    SafeDenoiser,
    Safree,
    Sld,
    negative_guidance,
)
from ine_jax.guidance.base import as_arrays
from ine_jax.guidance.concept import Concept
from ine_jax.guidance.slots import COLUMNS, fill, layers, projection, resolve
from tests.support.concepts import DIM, ONE, TOKENS, TWO, encode, one
from tests.support.typechecking import unchecked

IMAGES = np.zeros((2, 4, 4, 2), np.float32)
PLAIN = {
    "none": NoGuidance(),
    "cfg": Cfg(3.0),
    "safree": Safree(Cfg(3.0)),
    "images": SafeDenoiser(Cfg(3.0), IMAGES),
    "interval": Interval(Cfg(3.0), Cfg(3.0), 0.0, 0.5),
}
NEEDING = {
    "Negative": Negative(3.0, 4.0),
    "Gated": Gated(3.0, 4.0),
    "Sld": Sld(3.0),
    "DynamicNegative": DynamicNegative(3.0),
    "Casg": Casg(Sld(3.0)),
}
AROUND: dict[str, Any] = {
    "alone": lambda guard: guard,
    "safree": Safree,
    "images": lambda guard: SafeDenoiser(guard, IMAGES),
    "interval": lambda guard: Interval(guard, Cfg(3.0), 0.2, 0.8),
    "both": lambda guard: Interval(Safree(guard), Cfg(3.0), 0.2, 0.8),
}
WRONG = [float("nan"), float("inf"), "3", [3.0, 4.0], np.asarray([3.0, np.nan])]
MADE: dict[str, Any] = {
    **{kind.__name__: kind for kind in (Cfg, Negative, Gated, Sld, DynamicNegative)},
    "negative scale": lambda number: Negative(3.0, number),
    "tied": lambda number: negative_guidance(3.0, number),
    "safree": lambda number: Safree(Cfg(3.0), alpha=number),
    "images": lambda number: SafeDenoiser(Cfg(3.0), IMAGES, number),
}
BOTH = Concept(("knife", "a gun"), (ONE, TWO), blend=0.5)


@pytest.mark.parametrize("wrong", WRONG, ids=str)
@pytest.mark.parametrize("name", MADE)
def test_a_scale_that_is_no_number_is_rejected_where_it_is_given(name: str, wrong: object) -> None:
    with unchecked(), pytest.raises(InputError, match=r"a finite number, or an array with one per prompt"):
        MADE[name](wrong)


@pytest.mark.parametrize("wrong", [float("nan"), "3", 1e39], ids=str)
def test_the_numbers_of_a_users_guard_are_checked_before_a_run(wrong: Any) -> None:
    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class Own:
        scale: Any

    own: Any = Own(wrong)
    with unchecked(), np.errstate(over="ignore"), pytest.raises(InputError, match=r"Own scale: ('3'|nan|.*inf)"):
        as_arrays(own)


def test_layers_go_inwards() -> None:
    guard = Interval(SafeDenoiser(Safree(Sld(3.0)), IMAGES), Cfg(3.0), 0.0, 0.5)
    assert [type(layer) for layer in layers(guard)] == [Interval, SafeDenoiser, Safree, Sld]


@pytest.mark.parametrize("guard", PLAIN.values(), ids=PLAIN)
def test_without_a_concept_the_empty_prompt_takes_its_place(guard: Guidance) -> None:
    slots = fill(guard, None, encode)
    np.testing.assert_array_equal(slots.uncond[0], one(""))
    np.testing.assert_array_equal(slots.negative, slots.uncond)
    assert slots.bank is None
    if slots.columns is not None:
        assert not slots.columns.any()


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("name", NEEDING)
def test_a_guard_without_the_concept_that_it_needs_is_refused(name: str, around: Any) -> None:
    with pytest.raises(InputError, match=f"guidance {name} without a negative"):
        fill(around(NEEDING[name]), None, encode)


@pytest.mark.parametrize("guard", [*PLAIN.values(), *NEEDING.values()], ids=[*PLAIN, *NEEDING])
def test_every_guard_gets_the_sequence(guard: Guidance) -> None:
    slots = fill(guard, BOTH, encode)
    assert slots.uncond.shape == slots.negative.shape == (1, TOKENS, DIM)
    np.testing.assert_array_equal(slots.uncond[0], one(""))
    np.testing.assert_array_equal(slots.negative, BOTH.sequence(encode))


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_a_guard_that_chooses_gets_a_bank(around: Any) -> None:
    slots = fill(around(NEEDING["Casg"]), BOTH, encode)
    assert slots.bank is not None
    assert slots.bank.shape == (1, 4, TOKENS, DIM)
    np.testing.assert_array_equal(slots.bank[0], BOTH.bank(encode))
    assert fill(around(NEEDING["Sld"]), BOTH, encode).bank is None


@pytest.mark.parametrize("count", [1, COLUMNS, COLUMNS + 1])
def test_a_guard_that_projects_gets_columns_and_rows_of_zeros(count: int) -> None:
    concept = Concept(words=tuple(f"word {i}" for i in range(count)))
    columns = fill(Interval(Safree(Sld(3.0)), Cfg(3.0), 0.0, 0.5), concept, encode).columns
    assert columns is not None
    assert columns.shape == (-(-count // COLUMNS) * COLUMNS, DIM)
    np.testing.assert_array_equal(columns[:count], concept.columns(encode))
    assert not columns[count:].any()
    assert fill(Sld(3.0), concept, encode).columns is None


def test_words_are_encoded_no_more_often_than_they_are_read() -> None:
    asked: list[Sequence[str]] = []

    def counting(prompts: Sequence[str], embeddings: Any) -> Any:
        asked.append(prompts)
        return encode(prompts, embeddings)

    fill(Negative(3.0, 4.0), Concept(words=("knife", "gun")), counting)
    assert asked == [[""], ["knife, gun"]]


def test_the_layer_that_projects_does_so_whatever_it_wraps() -> None:
    around = [AROUND[name] for name in ("alone", "images", "interval")]
    needing: Any = NEEDING.values()
    found = [projection(wrap(Safree(inner, alpha=0.2))) for wrap in around for inner in needing]
    assert set(found) == {Safree(NoGuidance(), alpha=0.2)}
    for guard in (Cfg(3.0), Sld(3.0), Interval(Casg(Sld(3.0)), Cfg(3.0), 0.0, 0.5)):
        assert projection(guard) is None
    modes = {projection(Safree(Cfg(3.0), reattention=mode, negative_in_cfg=True)) for mode in ("off", "low", "all")}
    assert modes == {Safree(NoGuidance())}  # one program, whatever the network does with the prompt


def test_the_guard_that_a_call_means() -> None:
    knife = Concept(words=("knife",))
    assert resolve(None, None, None) == Cfg(7.5) == Cfg(GuidanceConfig().scale)  # that of the command line
    assert resolve(Sld(3.0), None, None) == Sld(3.0)
    assert resolve(Cfg(4.0), knife, None) == Cfg(4.0)
    assert resolve(Cfg(4.0), knife, 3.0) == Cfg(4.0)  # s = w - 1 takes two rows
    assert resolve(Cfg(4.0), knife, 5.0) == Negative(4.0, 5.0)
    assert resolve(None, knife, 2.0) == Negative(7.5, 2.0)
    for guidance, negative, reason in (
        (None, None, "without a negative"),
        (Negative(3.0, 4.0), knife, "negative_scale beside Negative"),
        (Sld(3.0), knife, "negative_scale beside Sld"),
    ):
        with pytest.raises(InputError, match=reason):
            resolve(guidance, negative, 2.0)
