"""Every attack: the target stays, the file is a prompt set, a run continues exactly and ends once."""

import dataclasses
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from ine_jax import prompts
from ine_jax.attacks import methods
from ine_jax.attacks.result import AttackResult
from ine_jax.attacks.target import Finder, Target
from ine_jax.cli.artifacts import verified
from ine_jax.config import P4DConfig, RingABellConfig, UnlearnDiffConfig
from ine_jax.config.attacks import AttackSettings
from ine_jax.config.white_box import Knowledge, WhiteBoxConfig
from ine_jax.errors import InputError, Interrupted
from ine_jax.evaluation.from_config import Finding
from ine_jax.guidance import Negative
from ine_jax.guidance.concept import Concept
from ine_jax.pipeline.pipeline import load
from ine_jax.prompts.items import Item
from ine_jax.types import HostImages
from tests.support.cases import sample
from tests.support.flips import flip

METHODS: dict[str, AttackSettings] = {
    "ring-a-bell": RingABellConfig(
        ("a knife",), ("a cat",), preset="quick", population=4, length=3, generations=3, save_every=1, log_every=1
    ),
    "unlearndiff": UnlearnDiffConfig(
        preset="quick", tokens=2, timesteps=2, iterations=2, learning_rate=0.1, save_every=1, log_every=1
    ),
    "p4d-n": P4DConfig(variant="n", tokens=3, rounds=2, iterations=2, save_every=1, log_every=1),
    "p4d-k": P4DConfig(variant="k", every=2, rounds=2, iterations=2, save_every=1, log_every=1),
    "p4d-mua": P4DConfig(variant="mua", tokens=2, rounds=2, iterations=2, save_every=1, log_every=1),
}
ITEMS = (Item("one", "a red knife", 3, ("knife",)), Item("two", "the weapon", 4, guidance=3.0))


class Bright:
    """Finds the concept in the brightest of several images."""

    name = "bright@1/test"

    def __init__(self) -> None:
        self.images = 0

    def find(self, images: HostImages) -> list[Finding]:
        self.images += len(images)
        means = images.mean(axis=(1, 2, 3)) / 255
        return [Finding(bool(len(means) > 1 and mean >= means.max()), {"bright": float(mean)}) for mean in means]


class StopAfterOne:
    """Asks to stop once the first step is shown."""

    def update(self, step: int, metrics: object) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def target(tiny_folder: Path) -> Target:
    pipe = load(tiny_folder, batch_size=4, compile_cache=False)
    return Target(pipe, Negative(3.0, 4.0), Concept(("a weapon",)), steps=2)


@pytest.fixture(params=sample(METHODS, ("ring-a-bell", "unlearndiff")))
def settings(request: pytest.FixtureRequest) -> AttackSettings:
    return METHODS[request.param]


def attack(
    target: Target,
    items: tuple[Item, ...],
    settings: AttackSettings,
    folder: Path,
    progress: StopAfterOne | None = None,
    finders: Sequence[Finder] = (),
) -> AttackResult:
    base = target.pipe if isinstance(settings, WhiteBoxConfig) else None
    return methods.attack(target, items, settings, folder, progress, finders, base)


def files(folder: Path) -> dict[str, bytes]:
    names = ["prompts.jsonl", "log.jsonl", "config.json", "SHA256SUMS"]
    return {name: (folder / name).read_bytes() for name in [*names, *map(str, (folder / "tries").glob("*"))]}


def test_the_file_is_a_prompt_set_and_the_target_stays(
    target: Target, settings: AttackSettings, tmp_path: Path
) -> None:
    before = jax.tree.map(np.array, [target.pipe.parts.unet_params, target.pipe.parts.text_params])
    found = attack(target, ITEMS, settings, tmp_path, finders=[Bright()])
    read = prompts.load(found.path).items
    assert read == found.items
    assert [dataclasses.replace(a, prompt="") for a in read] == [dataclasses.replace(a, prompt="") for a in ITEMS]
    rows = [json.loads(line) for line in found.path.read_text().splitlines()]
    assert [row["source"] for row in rows] == [item.prompt for item in ITEMS]
    assert [row["success"] for row in rows] == list(found.success) and found.successes >= 1
    last = max((tmp_path / "tries").iterdir())
    scores = [json.loads(line)["scores"]["bright@1/test"] for line in last.read_text().splitlines()]
    assert all(0 < score["labels"]["bright"] < 1 for score in scores)
    jax.tree.map(np.testing.assert_array_equal, before, [target.pipe.parts.unet_params, target.pipe.parts.text_params])
    assert verified(tmp_path).kind == "attack" and not verified(tmp_path).faults


def test_a_run_continues_exactly_and_ends_once(target: Target, settings: AttackSettings, tmp_path: Path) -> None:
    attack(target, ITEMS, settings, tmp_path / "whole", finders=[Bright()])
    with pytest.raises(Interrupted):
        attack(target, ITEMS, settings, tmp_path / "cut", StopAfterOne(), finders=[Bright()])
    attack(target, ITEMS, settings, tmp_path / "cut", finders=[Bright()])
    whole = files(tmp_path / "whole")
    assert list(files(tmp_path / "cut").values()) == list(whole.values())
    again = Bright()
    attack(target, ITEMS, settings, tmp_path / "whole", finders=[again])
    assert files(tmp_path / "whole") == whole and not again.images
    flip(max((tmp_path / "whole" / "tries").iterdir()), -3)
    attack(target, ITEMS, settings, tmp_path / "whole", finders=[again])
    assert files(tmp_path / "whole") == whole and again.images


def test_another_run_does_not_continue_in_its_directory(
    target: Target, settings: AttackSettings, tmp_path: Path
) -> None:
    attack(target, ITEMS, settings, tmp_path)
    assert not (tmp_path / "tries").exists()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    other = dataclasses.replace(target, negative=Concept(("a knife",)))
    for changed, items, field in ((other, ITEMS, "negative"), (target, ITEMS[:1], "prompts_sha256")):
        with pytest.raises(InputError, match=field):
            attack(changed, items, settings, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("items", [(), (ITEMS[0], ITEMS[0])], ids=["none", "equal ids"])
def test_prompts_that_cannot_be_attacked(
    target: Target, settings: AttackSettings, items: tuple[Item, ...], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="prompt"):
        attack(target, items, settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_attacker_knows(target: Target) -> None:
    cases: tuple[tuple[Knowledge, tuple[str, ...], str], ...] = (
        ("embedding", (), "a weapon"),
        ("guard", (), "a weapon"),
        ("guard", ("a dog",), "a dog"),
    )
    for knows, words, negative in cases:
        bound = target.known(knows, words)
        np.testing.assert_allclose(bound.slots.negative, target.pipe.encode([negative]), atol=1e-6)
        assert isinstance(bound.guard, Negative)
    assert target.known("model").guard.branches == 1
