"""A run that grows by models, guards or negatives: what is stored stays, and only what is new is generated."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.config import NegativeConfig
from ine_jax.errors import CorruptRunError, InputError
from ine_jax.evaluation import Cell, Item, Plan, evaluate, score, score_metrics, summarise
from ine_jax.evaluation.verify import verify
from ine_jax.storage import runs, sealed, untrusted
from tests.support import fakes
from tests.support.metrics import Away, generated, lines

BASE = fakes.plan()
ADDED = Cell("fake-unlearned", BASE.cells[0].lists, fakes.GUIDED, NegativeConfig(words="a gun"))
LARGER = dataclasses.replace(BASE, cells=(ADDED, *BASE.cells[::-1]))  # in another order


def stored(root: Path) -> dict[str, bytes]:
    """The bytes of blocks and scores."""
    return {str(p.relative_to(root)): p.read_bytes() for name in ("blocks", "scores") for p in root.glob(f"{name}/*/*")}


def images(root: Path) -> dict[str, bytes]:
    """Identity of an image -> its bytes."""
    run = runs.open_run(root)
    return {row["identity"]: run.read(k, row["file_name"]) for k in run.blocks() for row in run.rows(k)}


def counting() -> tuple[Any, list[Cell]]:
    """The stand-in generator, and the cells that it was asked for."""
    asked: list[Cell] = []

    def generate(cell: Cell, wanted: Sequence[Item], plan: Plan) -> np.ndarray:
        asked.append(cell)
        return fakes.generate(cell, wanted, plan)

    return generate, asked


def test_only_what_is_new_is_generated(tmp_path: Path) -> None:
    fakes.full(tmp_path)
    before, blocks = stored(tmp_path), len(BASE.units())
    generate, asked = counting()
    run = generated(tmp_path, LARGER, generate)
    assert set(asked) == {ADDED}
    assert score(run, [fakes.Corner()]) == 24
    assert stored(tmp_path).items() >= before.items()
    assert run.blocks() == list(range(len(LARGER.units())))
    assert verify(tmp_path).faults == ()
    assert [spec["model"] for spec in run.config["cells"]] == ["fake", "fake", "fake-unlearned", "fake-unlearned"]
    assert [count for _, count in run.stages.items()] == [blocks, len(LARGER.units())]
    found = summarise(run)
    assert found["complete"] and found["images"]["total"] == 96 and len(found["commands"]) == 2
    generated(tmp_path / "whole", LARGER)
    assert images(tmp_path) == images(tmp_path / "whole")
    generate, asked = counting()
    generated(tmp_path, LARGER, generate)
    assert not asked


def test_extending_twice_in_parts_gives_the_bytes_of_one_process(tmp_path: Path) -> None:
    second = dataclasses.replace(LARGER, cells=(*LARGER.cells, Cell("third", ADDED.lists, fakes.PLAIN)))
    for root, total in ((tmp_path / "one", 1), (tmp_path / "parts", 3)):
        for plan in (BASE, LARGER, second):
            for i in range(total):
                generated(root, plan, shard=(i, total))
        assert verify(root).faults == ()
        assert len(runs.open_run(root).stages) == 3
    both = [
        {**stored(root), **{n: (root / n).read_bytes() for n in ("run.json", "blocks.json", "metadata.jsonl")}}
        for root in (tmp_path / "one", tmp_path / "parts")
    ]
    assert both[0] == both[1]


def test_a_run_is_extended_before_it_is_complete(tmp_path: Path) -> None:
    generated(tmp_path, shard=(1, 2))
    generated(tmp_path, LARGER)
    assert verify(tmp_path).faults == ()
    generated(tmp_path / "whole")
    generated(tmp_path / "whole", LARGER)
    assert stored(tmp_path) == stored(tmp_path / "whole")


def test_killed_between_the_record_and_the_images(tmp_path: Path) -> None:
    fakes.full(tmp_path)

    def killed(*_: Any) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generated(tmp_path, LARGER, killed)
    assert verify(tmp_path).faults == ()
    generated(tmp_path, LARGER)
    assert verify(tmp_path).faults == ()
    assert (tmp_path / "metadata.jsonl").read_text().count("\n") == 96


def test_what_is_removed_or_changed_is_named(tmp_path: Path) -> None:
    generated(tmp_path, LARGER)
    before = (tmp_path / "run.json").read_bytes(), stored(tmp_path)
    with pytest.raises(InputError, match="without model fake-unlearned, guard negative, negative explicit"):
        generated(tmp_path, BASE)
    changed = dataclasses.replace(LARGER, steps=3, cells=(*LARGER.cells, Cell("third", ADDED.lists, fakes.PLAIN)))
    with pytest.raises(InputError, match=r"settings: config\.sampler\.steps: 2 -> 3\n"):
        generated(tmp_path, changed)
    with pytest.raises(InputError, match=r"hashes\.models\.fake\.unet"):
        evaluate(
            dataclasses.replace(changed, steps=2), tmp_path, generate=fakes.generate, hashes=lambda _: {"unet": "x"}
        )
    assert ((tmp_path / "run.json").read_bytes(), stored(tmp_path)) == before


def test_blocks_of_another_extension_of_the_same_run_are_found(tmp_path: Path) -> None:
    generated(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    other = dataclasses.replace(ADDED, negative=NegativeConfig(words="a saw"))
    first, second = (
        generated(tmp_path / "a", LARGER),
        generated(tmp_path / "b", dataclasses.replace(BASE, cells=(*BASE.cells, other))),
    )
    last = first.blocks()[-1]
    assert first.rows(0) == second.rows(0)
    shutil.rmtree(first.block(last))
    shutil.copytree(second.block(last), first.block(last))
    assert verify(tmp_path / "a").faults
    (tmp_path / "a" / "blocks.json").unlink()
    with pytest.raises(CorruptRunError, match="belongs elsewhere: run"):
        runs.open_run(tmp_path / "a").rows(last)


def test_metrics_follow_the_reference_of_the_extended_run(tmp_path: Path) -> None:
    guarded = dataclasses.replace(BASE, cells=BASE.cells[1:2])
    run = generated(tmp_path, guarded)
    score_metrics(run, [Away()])
    assert {line["status"] for line in lines(run, "away@1").values()} == {"unscored"}
    run = generated(tmp_path, dataclasses.replace(BASE, cells=BASE.cells[:2]))
    score_metrics(run, [Away()])
    assert {line["status"] for line in lines(run, "away@1").values()} == {"scored"}
    assert len(lines(run, "away@1")) == 48


def test_an_earlier_stage_that_is_no_part_of_the_run_is_damage(tmp_path: Path) -> None:
    generated(tmp_path)
    generated(tmp_path, LARGER)
    record = sealed.unseal(tmp_path / "run.json")
    record["earlier"][0]["config"]["sampler"]["steps"] = 9
    (tmp_path / "run.json").write_text(sealed.seal(record))
    with pytest.raises(CorruptRunError, match="earlier stage"):
        runs.open_run(tmp_path)


def test_a_record_that_could_not_be_read_again_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generated(tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    monkeypatch.setattr(untrusted, "MAX_JSON", len(before) + 100)
    with pytest.raises(InputError, match="of 2 stages"):
        generated(tmp_path, LARGER)
    assert (tmp_path / "run.json").read_bytes() == before
