"""Batches packed across blocks and cells: how much is padding, what is stored when, and that no image changes."""

import dataclasses
import itertools
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ine_jax.config import GuidanceConfig, NegativeConfig
from ine_jax.config.guards import SafreeConfig, SldConfig
from ine_jax.errors import Interrupted
from ine_jax.evaluation import Cell, Item, Plan, evaluate, score
from ine_jax.evaluation.images import ImageGenerator
from ine_jax.evaluation.packing import Made, Wanted
from ine_jax.evaluation.scoring import Behind
from ine_jax.pipeline.packed import PackedSampler
from ine_jax.pipeline.packing import Group
from ine_jax.storage import runs
from tests.evaluation.test_evaluate import tree
from tests.support import fakes
from tests.support.batches import made
from tests.support.tiny_pipeline import tiny_folder  # noqa: F401  a fixture

WORDS = NegativeConfig(words="a knife")


class Batches:
    """Fake images in batches of 8, one program per model and number of branches; counts batches and padding."""

    def __init__(self, size: int = 8, hook: Callable[[], None] = lambda: None) -> None:
        self.size, self.hook, self.counts, self.flying, self.most = size, hook, list[int](), 0, 0
        self.places = dict[tuple[int, int], int]()

    def group(self, wanted: Wanted, plan: Plan) -> Group:
        own = wanted.item.guidance
        return Group((wanted.cell.model, own), wanted.unit.k if own else None)

    def start(self, wanted: Sequence[Wanted], plan: Plan) -> Callable[[], Sequence[Made]]:
        assert len({self.group(each, plan) for each in wanted}) == 1
        places = [each.number % self.size for each in wanted]
        assert len(set(places)) == len(places)
        self.places |= {(each.unit.k, each.place): place for each, place in zip(wanted, places, strict=True)}
        self.counts.append(len(wanted))
        self.flying += 1
        self.most = max(self.most, self.flying)
        self.hook()

        def fetch() -> Sequence[Made]:
            self.flying -= 1
            return [Made(fakes.generate(each.cell, [each.item], plan)[0]) for each in wanted]

        return fetch

    @property
    def padding(self) -> float:
        return 1 - sum(self.counts) / (self.size * len(self.counts))


def test_blocks_of_25_waste_two_percent_at_most(tmp_path: Path) -> None:
    batches = Batches()
    run = evaluate(fakes.plan(n=75, block=25), tmp_path / "packed", generate=batches, hashes=fakes.hashes)
    assert sum(batches.counts) == 450
    assert batches.padding <= 0.02  # by blocks: 25 of 32 rows, 22 %
    assert batches.most == 2  # the one that computes and the next
    evaluate(fakes.plan(n=75, block=25), tmp_path / "whole", generate=fakes.generate, hashes=fakes.hashes)
    assert tree(tmp_path / "packed") == tree(tmp_path / "whole")
    assert [entry["images"] for entry in run.timings()] == [25] * 18


def test_rows_of_their_own_wait_for_nobody_and_hold_few_blocks(tmp_path: Path) -> None:
    plan = fakes.plan(n=60, block=5)
    rare = tuple(
        dataclasses.replace(item, guidance=4.0 if i % 7 == 0 else None) for i, item in enumerate(plan.lists["attack"])
    )
    plan = dataclasses.replace(plan, lists={**plan.lists, "attack": rare})
    evaluate(plan, tmp_path / "packed", generate=Batches(), hashes=fakes.hashes)
    evaluate(plan, tmp_path / "whole", generate=fakes.generate, hashes=fakes.hashes)
    assert tree(tmp_path / "packed") == tree(tmp_path / "whole")


def test_a_request_to_stop_finishes_begun_blocks(tmp_path: Path) -> None:
    calls = itertools.count()

    def stop() -> None:
        if next(calls) == 1:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        evaluate(fakes.plan(), tmp_path / "parts", generate=Batches(hook=stop), hashes=fakes.hashes)
    assert 0 < len(runs.open_run(tmp_path / "parts").blocks()) < 8
    evaluate(fakes.plan(), tmp_path / "parts", generate=Batches(), hashes=fakes.hashes)
    evaluate(fakes.plan(), tmp_path / "whole", generate=fakes.generate, hashes=fakes.hashes)
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_a_continued_run_puts_every_image_where_it_was(tmp_path: Path) -> None:
    plan, whole, rest = fakes.plan(n=20, block=5), Batches(), Batches()
    run = evaluate(plan, tmp_path, generate=whole, hashes=fakes.hashes)
    (tmp_path / "blocks.json").unlink()
    for k in (1, 4, 10):
        shutil.rmtree(run.block(k))
    evaluate(plan, tmp_path, generate=rest, hashes=fakes.hashes)
    assert rest.places == {at: place for at, place in whole.places.items() if at[0] in (1, 4, 10)}


def test_an_error_of_a_thread_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "no space", "blocks")

    monkeypatch.setattr(runs.Run, "write_block", full)
    with pytest.raises(OSError, match="no space"):
        evaluate(fakes.plan(), tmp_path, generate=Batches(), hashes=fakes.hashes)


def test_scores_behind_the_generation_are_those_of_afterwards(tmp_path: Path) -> None:
    behind, threads = Behind([fakes.Corner()]), set[str]()

    class Seen(fakes.Corner):
        def detect(self, images: Any) -> Any:
            threads.add(threading.current_thread().name)
            return super().detect(images)

    behind = Behind([Seen()])
    run = evaluate(fakes.plan(), tmp_path / "behind", generate=Batches(), hashes=fakes.hashes, behind=behind)
    assert behind.blocks == set(run.blocks()) and threads == {"corner@1_0"}
    assert score(run, [fakes.Corner()], behind=behind) == 0
    fakes.finish(tmp_path / "behind")
    fakes.full(tmp_path / "after")
    assert tree(tmp_path / "behind") == tree(tmp_path / "after")


GUARDS = {
    "cfg": (GuidanceConfig(2.0), NegativeConfig()),
    "two rows": (GuidanceConfig(3.0), WORDS),
    "other words": (GuidanceConfig(2.0), NegativeConfig(words="a bomb")),
    "sld": (GuidanceConfig(2.0, method="sld", sld=SldConfig("max")), WORDS),
    "sld at another scale": (GuidanceConfig(5.0, method="sld", sld=SldConfig("max")), WORDS),
    "safree": (GuidanceConfig(2.0, method="safree"), WORDS),
}


@pytest.mark.thorough
def test_rows_of_several_cells_share_programs_and_keep_their_images(tiny_folder: Path, tmp_path: Path) -> None:
    items = tuple(Item(str(i), text, i) for i, text in enumerate(("a cat", "a dog", "red apple")))
    cells = tuple(Cell(str(tiny_folder), (("attack", 3),), *guard, guard=name) for name, guard in GUARDS.items())
    plan = Plan(cells, {"attack": items}, steps=2, batch=2, block=3)
    generator = ImageGenerator()
    run = evaluate(plan, tmp_path, generate=generator, hashes=lambda _: {})
    groups = {generator.group(Wanted(unit, 0, cells[unit.cell], items[0], 0), plan) for unit in plan.units()}
    assert len(groups) == 3  # one loop for cfg with and without a negative, one for sld, one for safree
    for k, cell in enumerate(cells):
        alone = np.stack([each.image for each in made(ImageGenerator(), cell, items, plan)])
        # the decoder of this toy rounds by the place in a batch of two: a few pixels by one level of 255
        difference = np.abs(np.stack(run.images(k)).astype(int) - alone)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.001


@pytest.mark.thorough
def test_where_the_place_matters_a_block_has_its_own_batches(tiny_folder: Path) -> None:
    guard = GuidanceConfig(2.0, method="safree", safree=SafreeConfig(reattention="all"))
    items = (Item("0", "a cat", 0), Item("1", "a dog", 1))
    plan = Plan((Cell(str(tiny_folder), (("attack", 2),), guard, WORDS),), {"attack": items}, steps=2, batch=2, block=1)
    generator = ImageGenerator()
    first, second = (generator.group(Wanted(unit, 0, plan.cells[0], items[unit.k], 0), plan) for unit in plan.units())
    assert (first.k, second.k) == (0, 1)
    off = dataclasses.replace(plan.cells[0], guidance=GuidanceConfig(2.0, method="safree"))
    assert generator.group(Wanted(plan.units()[0], 0, off, items[0], 0), plan).k is None


@pytest.mark.thorough
def test_a_batch_that_does_not_fit_is_halved_once(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    items = tuple(Item(str(i), "a cat", i) for i in range(6))
    cell = Cell(str(tiny_folder), (("attack", 6),), GuidanceConfig(2.0), WORDS)
    plan = Plan((cell,), {"attack": items}, steps=2, batch=4)
    whole, dispatch = made(ImageGenerator(), cell, items, plan), PackedSampler._dispatch

    def limited(self: PackedSampler, rows: Any, places: Any, size: int) -> Any:
        if size > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return dispatch(self, rows, places, size)

    monkeypatch.setattr(PackedSampler, "_dispatch", limited)
    generator = ImageGenerator()
    halved = made(generator, cell, items, plan)
    assert generator.size == 2
    assert capsys.readouterr().err.splitlines() == ["out of device memory at 4 images per batch: going on with 2"]
    difference = [int(np.abs(a.image.astype(int) - b.image).max()) for a, b in zip(whole, halved, strict=True)]
    assert max(difference) <= 1
    monkeypatch.setattr(PackedSampler, "_dispatch", lambda *_: limited(generator._sampler, (), (), 4))  # type: ignore[arg-type]
    with pytest.raises(jax.errors.JaxRuntimeError):
        made(generator, cell, items, plan)
