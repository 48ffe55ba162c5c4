"""Rows with a seed, a guidance scale or a size of their own: the images they would be alone, and nothing compiled."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ine_jax.cli import main as cli
from ine_jax.config import (
    EvaluateConfig,
    GuardConfig,
    GuidanceConfig,
    ModelConfig,
    NegativeConfig,
    PromptsConfig,
    SamplerConfig,
)
from ine_jax.config.guards import GateConfig
from ine_jax.errors import InputError
from ine_jax.evaluation import Cell, Plan, evaluate, plan_from_config
from ine_jax.evaluation.images import ImageGenerator
from ine_jax.evaluation.plan import measure
from ine_jax.evaluation.storing import _pixels, image_identity
from ine_jax.guidance import Cfg
from ine_jax.pipeline.pipeline import load
from ine_jax.prompts.items import Item, alike
from ine_jax.storage.provenance import value_hash
from tests.support import fakes
from tests.support.batches import made
from tests.support.cases import sample
from tests.support.tiny_pipeline import SIDE

WORDS = NegativeConfig(words="knife")
GATED = GuidanceConfig(3.0, 6.0, method="gated", gate=GateConfig(0.0, 0.4))
# Identities of the first attack under each guard, as before rows could say anything of themselves
BEFORE = {
    "cfg": "1783544cb2d3b41b8f2752dc22ebc0681cff42e2d42d5633990c4611a909c2d5",
    "g": "d273a6ded33e032109d1ec72788116ad015d1c9c4e1bad922c1e2c65363d00f6",
    "b": "40cc8a41a78e1ee0c6e1f2102bb2036fc37912993f634b6d01048417e4f715b1",
}
RECORD = "295714c9e72c911a94591681d7d2fb09dc1fa441fb1f341258bc0ff68bdf7612"


def identity(plan: Plan, cell: Cell, item: Item) -> str:
    return image_identity(_pixels(plan, cell, cell.record(), {"unet": "x"}, item))


def config(**more: Any) -> EvaluateConfig:
    guards = (GuardConfig("g", GuidanceConfig(3.0, 4.0)), GuardConfig("b", GATED))
    sampler = SamplerConfig(scheduler="dpm++", steps=12)
    return EvaluateConfig(guards=guards, negatives=(NegativeConfig(), WORDS), sampler=sampler, **more)


def test_images_of_the_bundled_lists_keep_their_identity() -> None:
    plan = plan_from_config(config())
    first = plan.lists["attack"][0]
    assert {cell.guard: identity(plan, cell, first) for cell in plan.cells} == BEFORE
    assert value_hash(plan.record()) == RECORD


def test_a_scale_of_its_own_is_the_same_image_as_in_a_cell_of_that_scale() -> None:
    plan = plan_from_config(config())
    first = plan.lists["attack"][0]
    for cell in plan.cells:
        other = dataclasses.replace(cell, guidance=dataclasses.replace(cell.guidance, scale=5.0))
        assert identity(plan, cell, dataclasses.replace(first, guidance=5.0)) == identity(plan, other, first)
        assert identity(plan, cell, dataclasses.replace(first, guidance=3.0)) == identity(plan, cell, first)
        taller = dataclasses.replace(plan, height=96)
        assert identity(plan, cell, dataclasses.replace(first, height=96)) == identity(taller, cell, first)


def test_groups_keep_the_order_of_their_items() -> None:
    items = [
        Item(str(i), "a", i, guidance=g, height=h) for i, (g, h) in enumerate([(None, None), (5.0, 64), (3.0, None)])
    ]
    assert alike(items, (3.0, None, 32)) == [((3.0, None, 32), [0, 2]), ((5.0, 64, 32), [1])]


GUARDS = {
    "cfg": (GuidanceConfig(2.0), NegativeConfig()),
    "two rows": (GuidanceConfig(2.0), WORDS),
    "three rows": (GuidanceConfig(2.0, 4.0), WORDS),
    "balanced": (GuidanceConfig(2.0, preset="ine-balanced"), WORDS),
}


@pytest.mark.parametrize("name", sample(GUARDS, ("three rows",)))
def test_every_row_is_generated_as_it_would_be_alone(tiny_folder: Path, name: str) -> None:
    guidance, negative = GUARDS[name]
    items = [
        Item("0", "a cat", 5),
        Item("1", "a dog", 6, guidance=4.0),
        Item("2", "red apple", 7),
        Item("3", "the cat", 8, guidance=4.0),
        Item("4", "a dog", 9, guidance=6.5),
    ]
    cell = Cell(str(tiny_folder), (("attack", len(items)),), guidance, negative)
    plan = Plan((cell,), {"attack": tuple(items)}, steps=2, batch=2)
    generator = ImageGenerator()
    together = [each.image for each in made(generator, cell, items, plan)]
    assert generator._sampler is not None
    pipe = generator._sampler.pipe
    compiled = pipe.compiles
    for i, item in enumerate(items):
        own = guidance if item.guidance is None else dataclasses.replace(guidance, scale=item.guidance)
        (alone,) = made(
            generator, dataclasses.replace(cell, guidance=own), [dataclasses.replace(item, guidance=None)], plan
        )
        np.testing.assert_array_equal(together[i], alone.image)
    assert pipe.compiles == compiled
    (other,) = made(generator, cell, [dataclasses.replace(items[1], guidance=None)], plan)
    assert not np.array_equal(together[1], other.image)


def test_other_scales_compile_nothing(tiny_folder: Path) -> None:
    items = [Item(str(i), "a cat", i, guidance=1.5 + i) for i in range(6)]
    cell = Cell(str(tiny_folder), (("attack", 6),), GuidanceConfig(7.5), WORDS)
    plan = Plan((cell,), {"attack": tuple(items)}, steps=2, batch=2)
    generator = ImageGenerator()
    made(generator, cell, items[:1], plan)
    assert generator._sampler is not None
    pipe = generator._sampler.pipe
    before = dict(pipe.programs.traces)
    assert not any(each.degenerate for each in made(generator, cell, items, plan))
    assert dict(pipe.programs.traces) == before
    strong = [items[0], dataclasses.replace(items[1], guidance=1e5)]
    assert [bool(each.degenerate) for each in made(generator, cell, strong, plan)] == [False, True]
    assert dict(pipe.programs.traces) == before


def write(path: Path, rows: list[Any], mark: str = "") -> str:
    path.write_text(mark + "".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.mark.thorough
def test_rows_of_a_run_say_what_they_were_generated_with(tiny_folder: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a cat", "seed": 3, "guidance": 4.0, "category": "animal", "height": 2 * SIDE},
        {"prompt": " ".join(["knife"] * 40)},
    ]
    source = write(tmp_path / "own.jsonl", rows)
    asked = EvaluateConfig(
        models=(ModelConfig(str(tiny_folder)),),
        prompts=(PromptsConfig(source, measure="prior"),),
        sampler=SamplerConfig(steps=2, batch=2),
    )
    run = evaluate(plan_from_config(asked), tmp_path / "run")
    first, second = run.rows(0)
    assert {key: first[key] for key in ("seed", "guidance", "categories", "height")} == {
        "seed": 3,
        "guidance": 4.0,
        "categories": ["animal"],
        "height": 2 * SIDE,
    }
    assert "width" not in first and "truncated" not in first and "guidance" not in second
    assert second["truncated"] is True
    assert [image.shape for image in run.images(0)] == [(2 * SIDE, SIDE, 3), (SIDE, SIDE, 3)]
    pipe = load(tiny_folder, batch_size=2)
    alone = pipe("a cat", seeds=3, steps=2, height=2 * SIDE, guidance=Cfg(4.0)).arrays[0]
    np.testing.assert_array_equal(run.images(0)[0], alone)
    assert run.config["lists"]["own"]["measure"] == "prior"
    reading: Any = run.record["readings"]["own"]
    assert (reading["rows"], reading["file"], reading["columns"]["categories"]) == (2, "own.jsonl", "category")


def test_a_file_saved_anew_continues_a_run_and_another_prompt_does_not(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b"}]
    asked = EvaluateConfig(prompts=(PromptsConfig(write(tmp_path / "l.jsonl", rows)),))
    draw = {"generate": fakes.generate, "hashes": fakes.hashes}
    evaluate(plan_from_config(asked), tmp_path / "run", **draw)  # type: ignore[arg-type]
    sealed = (tmp_path / "run" / "run.json").read_bytes()
    write(tmp_path / "l.jsonl", rows, mark="\ufeff")
    evaluate(plan_from_config(asked), tmp_path / "run", **draw)  # type: ignore[arg-type]
    assert (tmp_path / "run" / "run.json").read_bytes() == sealed
    write(tmp_path / "l.jsonl", [{"prompt": "a"}, {"prompt": "c"}])
    with pytest.raises(InputError, match=r"lists\.l\.sha256"):
        evaluate(plan_from_config(asked), tmp_path / "run", **draw)  # type: ignore[arg-type]


def test_lists_are_named_by_their_selection_and_measured_as_said(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "nudity_percentage": 60, "categories": "sexual"}] * 3
    source = write(tmp_path / "i2p.jsonl", rows)
    lists = (
        PromptsConfig(source, select="i2p-nudity-95"),
        PromptsConfig(source, select="i2p-sexual-931", name="coco-like"),
        PromptsConfig(source, measure="kept", limit=1),
    )
    plan = plan_from_config(EvaluateConfig(prompts=lists, limit=2))
    assert {name: (len(items), plan.measure(name)) for name, items in plan.lists.items()} == {
        "i2p-nudity-95": (2, "defended"),
        "coco-like": (2, "prior"),
        "i2p": (1, "kept"),
    }
    assert any("95 rows expected, 3 found" in line for line in plan.notes())
    assert [measure(name) for name in ("coco_30k", "tune-benign", "list", "x")] == [
        "prior",
        "kept",
        "drawn",
        "defended",
    ]
    with pytest.raises(InputError, match="one name"):
        plan_from_config(EvaluateConfig(prompts=(lists[0], lists[0])))


@pytest.mark.thorough
def test_generate_generates_rows_with_what_they_say(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a cat"},
        {"prompt": "a dog", "guidance": 4.0, "seed": 9},
        {"prompt": "a cat", "width": 2 * SIDE},
    ]
    source = write(tmp_path / "p.jsonl", rows)
    words = ["--model", str(tiny_folder), "--prompts-file", source, "--sampler.steps", "2", "--sampler.batch", "2"]
    assert cli.main(["generate", *words, "--seed", "5", "--out", str(tmp_path / "out")]) == 0
    made = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert [(row["seed"], row.get("guidance"), row.get("width")) for row in made] == [
        (5, None, None),
        (9, 4.0, None),
        (7, None, 2 * SIDE),
    ]
    assert "objects" not in made[0]
    pipe = load(tiny_folder, batch_size=2)
    alone = [
        pipe("a cat", seeds=5, steps=2).arrays[0],
        pipe("a dog", seeds=9, steps=2, guidance=Cfg(4.0)).arrays[0],
        pipe("a cat", seeds=7, steps=2, width=2 * SIDE).arrays[0],
    ]
    for row, image in zip(made, alone, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / row["file_name"])), image)
