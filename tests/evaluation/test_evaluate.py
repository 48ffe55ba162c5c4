"""Generate, score, count: resuming, sharding, rejecting, and what is never counted as safe."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.errors import CorruptRunError, InputError, Interrupted, ItemErrors
from ine_jax.evaluation import Cell, Item, Plan, evaluate, read_items, score, summarise
from ine_jax.evaluation.detectors.base import Scored
from ine_jax.evaluation.summary import add_times
from ine_jax.storage import runs
from tests.support import fakes
from tests.support.locks import elsewhere_locked
from tests.support.paths import ROOT

IGNORED = ("timing.jsonl",)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def tree(root: Path) -> dict[str, bytes]:
    """Every byte of a run directory but clocks and locks."""
    files = [p for p in root.rglob("*") if p.is_file() and not p.name.endswith(".lock") and p.name not in IGNORED]
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def test_counts(tmp_path: Path) -> None:
    fakes.full(tmp_path)
    summary: Any = summarise(runs.open_run(tmp_path))
    none, explicit = summary["cells"]
    assert (none["attack"]["k"], none["attack"]["n"], none["attack"]["dsr"]) == (6, 12, 0.5)
    assert (explicit["attack"]["k"], explicit["benign"]["k"], explicit["benign"]["rate"]) == (9, 12, 1.0)
    assert summary["complete"] and summary["images"] == {"total": 72, "processed": 72, "unscored": 0, "degenerate": 0}
    attack = next(p for p in summary["paired"] if p["list"] == "attack")
    assert (attack["a"], attack["b"], attack["only_a"], attack["only_b"], attack["p"]) == (
        "none",
        "explicit",
        0,
        3,
        0.25,
    )
    assert summary["controls"][0]["model"] == "fake-unlearned"


def test_what_a_block_holds_follows_from_run_json(tmp_path: Path) -> None:
    base = fakes.plan(n=7)
    turned = tuple(dataclasses.replace(cell, lists=cell.lists[::-1]) for cell in base.cells)
    run = evaluate(dataclasses.replace(base, cells=turned), tmp_path, generate=fakes.generate, hashes=fakes.hashes)
    config, k = runs.open_run(tmp_path).config, 0
    for cell, spec in enumerate(config["cells"]):
        for name, n in spec["lists"].items():
            for start in range(0, n, config["block"]):
                rows = run.rows(k)
                assert (rows[0]["cell"], rows[0]["list"], rows[0]["id"]) == (cell, name, f"{name}-{start:03d}")
                k += 1
    assert k == config["blocks"] == len(run.blocks())


def test_second_call_generates_nothing(tmp_path: Path) -> None:
    first = fakes.full(tmp_path)

    def never(*_: Any) -> np.ndarray:
        raise AssertionError("a finished run was generated again")

    run = evaluate(fakes.plan(), tmp_path, generate=never, hashes=fakes.hashes)
    assert score(run, [fakes.Corner()]) == 0
    assert fakes.finish(tmp_path) == first


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_give_the_bytes_of_one_run(tmp_path: Path, order: tuple[int, ...]) -> None:
    whole = fakes.full(tmp_path / "whole")
    for i in order:
        evaluate(fakes.plan(), tmp_path / "parts", generate=fakes.generate, hashes=fakes.hashes, shard=(i, 3))
    assert fakes.finish(tmp_path / "parts") == whole
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_killed_three_times_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = fakes.full(tmp_path / "whole")
    blocks, chance, kills = len(fakes.plan().units()), random.Random(0), 0  # noqa: S311
    command = [sys.executable, str(ROOT / "tests" / "support" / "fakes.py"), str(tmp_path / "killed")]
    while kills < 3:
        process = subprocess.Popen(command, env=ENVIRONMENT)
        seen = len(list((tmp_path / "killed").glob("blocks/[0-9]*")))
        deadline = time.monotonic() + 60
        # wait for real progress, so that each kill lands somewhere else in the middle of the work
        while len(list((tmp_path / "killed").glob("blocks/[0-9]*"))) < seen + 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.06)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        kills += 1
    assert 0 < len(runs.open_run(tmp_path / "killed").blocks()) < blocks
    assert subprocess.run(command, check=False, env=ENVIRONMENT).returncode == 0
    assert (tmp_path / "killed" / "summary.json").read_bytes() == whole
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def test_sigterm_finishes_the_block_and_says_so(tmp_path: Path) -> None:
    def stopping(cell: Cell, wanted: Sequence[Item], plan: Plan) -> np.ndarray:
        signal.raise_signal(signal.SIGTERM)
        return fakes.generate(cell, wanted, plan)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        evaluate(fakes.plan(), tmp_path, generate=stopping, hashes=fakes.hashes)
    assert runs.open_run(tmp_path).blocks() == [0]
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_config_is_refused_field_by_field(tmp_path: Path) -> None:
    fakes.full(tmp_path)
    before = tree(tmp_path)
    for changed, field in [
        (dataclasses.replace(fakes.plan(), steps=3), "config.sampler.steps: 2 -> 3"),
        (dataclasses.replace(fakes.plan(), block=4), "config.block: 5 -> 4"),
    ]:
        with pytest.raises(InputError, match=field):
            evaluate(changed, tmp_path, generate=fakes.generate, hashes=fakes.hashes)
    with pytest.raises(InputError, match=r"hashes\.models\.fake\.unet"):
        evaluate(fakes.plan(), tmp_path, generate=fakes.generate, hashes=lambda _: {"unet": "other"})
    assert tree(tmp_path) == before


def test_two_processes_on_one_directory_are_refused(tmp_path: Path) -> None:
    with elsewhere_locked(tmp_path), pytest.raises(InputError, match="another process"):
        evaluate(fakes.plan(), tmp_path, generate=fakes.generate, hashes=fakes.hashes)


class Failing(fakes.Corner):
    version = "failing"

    def _score(self, images: np.ndarray) -> list[Any]:
        if len(images) > 1 or images[0, 0, 0, 0] == 10:
            raise RuntimeError("no verdict")
        return super()._score(images)


class NotANumber(fakes.Corner):
    version = "nan"

    def _score(self, images: np.ndarray) -> list[Any]:
        return [Scored({"knife": float("nan"), "cat": 1.0}) for _ in images]


@pytest.mark.parametrize("value", [0, 255, 77])
def test_constant_images_are_never_safe(tmp_path: Path, value: int) -> None:
    def blank(cell: Cell, wanted: Sequence[Item], plan: Plan) -> np.ndarray:
        return np.full_like(fakes.generate(cell, wanted, plan), value)

    run = evaluate(fakes.plan(), tmp_path, generate=blank, hashes=fakes.hashes)
    with pytest.raises(ItemErrors, match="72 of 72"):
        score(run, [fakes.Corner()])
    found: Any = summarise(run)
    cell = found["cells"][0]["attack"]
    assert (cell["k"], cell["n"], cell["dsr"], cell["unscored"]) == (0, 0, None, 12)
    assert (cell["low"], cell["high"]) == (0.0, 1.0)


def test_nan_images_are_unscored() -> None:
    images = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    images[0, 2, 3, 0] = np.nan
    images[1] = np.inf
    reasons = [getattr(verdict, "reason", None) for verdict in fakes.Corner().detect(images)]
    assert reasons == ["not finite", "not finite", "float32 is not uint8"]


def test_failing_detectors_are_unscored(tmp_path: Path) -> None:
    run = evaluate(fakes.plan(), tmp_path, generate=fakes.generate, hashes=fakes.hashes)
    with pytest.raises(ItemErrors):
        score(run, [Failing()])
    with pytest.raises(ItemErrors, match="72 of 72"):
        score(run, [NotANumber()])
    found: Any = summarise(run, "corner@failing")
    cell = found["cells"][0]["attack"]
    # the six images without a knife crashed the detector: not one of them is counted as defended
    assert (cell["k"], cell["n"], cell["unscored"]) == (0, 6, 6)
    assert summarise(run, "corner@nan")["images"]["unscored"] == 72
    with pytest.raises(InputError, match="has 2"):
        summarise(run, "corner")


def test_a_damaged_run_is_not_used(tmp_path: Path) -> None:
    fakes.full(tmp_path)
    run = runs.open_run(tmp_path)
    (run.block(0) / "000000.png").unlink()
    with pytest.raises(CorruptRunError):
        score(run, [fakes.Corner()], rescan=True)
    text = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(text.replace('"block": 5', '"block": 6'))
    with pytest.raises(CorruptRunError):
        runs.open_run(tmp_path)


def test_times_are_kept_apart(tmp_path: Path) -> None:
    fakes.full(tmp_path)
    run = runs.open_run(tmp_path)
    assert b"seconds" not in (tmp_path / "summary.json").read_bytes()
    timed: Any = add_times(summarise(run), run)
    assert all(cell["seconds_per_image"] >= 0 for cell in timed["cells"] + timed["controls"])


def test_identity_hashes_only_what_changes_pixels(tmp_path: Path) -> None:
    fakes.full(tmp_path / "a")
    other = dataclasses.replace(fakes.plan(), batch=7, block=4)
    evaluate(other, tmp_path / "b", generate=fakes.generate, hashes=fakes.hashes)
    names = [
        sorted((row["cell"], row["id"], row["identity"]) for k in run.blocks() for row in run.rows(k))
        for run in (runs.open_run(tmp_path / "a"), runs.open_run(tmp_path / "b"))
    ]
    assert names[0] == names[1]
    assert len({identity for *_, identity in names[0]}) == 72


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"seed": 1}',
        '{"prompt": 3}',
        '{"prompt": "a", "seed": "five"}',
        '{"prompt": "a", "seed": -1}',
        '{"prompt": "a", "objects": {"cat": 1}}',
        '{"prompt": "a", "seed": true}',
    ],
)
def test_bad_prompt_lines_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(InputError, match="line 2"):
        read_items(path)


def test_items_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('\ufeff{"prompt": "a cat", "id": "x", "seed": 5, "objects": ["cat"]}\n\n{"prompt": ""}\n')
    assert read_items(path) == (Item("x", "a cat", 5, ("cat",)), Item("1", "", 1, ()))
    with pytest.raises(InputError, match="no prompt set"):
        read_items("no-such-list")


def test_plans_that_cannot_be_generated(tmp_path: Path) -> None:
    plan = fakes.plan()
    twice = dataclasses.replace(plan, lists={**plan.lists, "attack": plan.lists["attack"][:1] * 12})
    long = dataclasses.replace(plan, cells=(Cell("fake", (("attack", 13),)),))
    for bad in (twice, long, dataclasses.replace(plan, cells=())):
        with pytest.raises(InputError):
            evaluate(bad, tmp_path / "run", generate=fakes.generate, hashes=fakes.hashes)
    assert not (tmp_path / "run").exists()
