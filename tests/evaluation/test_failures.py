"""Faults injected under every detector: what was not scored is unscored, in the files, the summary and the report."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from ine_jax.cli import main as cli
from ine_jax.config import DetectorConfig
from ine_jax.config import yaml_file as configfile
from ine_jax.evaluation import Cell, Plan, from_config
from ine_jax.evaluation.detectors import Detector, Scored, Unscored
from ine_jax.evaluation.detectors.presets import concept, default_preset
from ine_jax.evaluation.detectors.world import WorldConfig, WorldDetector, WorldNet
from ine_jax.evaluation.packing import Made, Wanted
from ine_jax.pipeline.packing import Group
from ine_jax.storage import runs
from tests.support.cases import sample
from tests.support.detector_folders import random_images, write_clip, write_vit

KINDS = ("world", pytest.param("nudenet", marks=pytest.mark.oracle), "q16", "clip", "vit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every detector that has weights, tiny and random."""
    root = tmp_path_factory.mktemp("detectors")
    config = write_clip(root / "clip")
    write_vit(root / "vit")
    vectors = np.random.default_rng(0).normal(size=(2, config.projection_dim)).astype(np.float32)
    save_file({"prompts": vectors}, root / "q16.safetensors")
    net = WorldNet(3, (8, 8))
    params = net.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    WorldDetector(WorldConfig(("knife", "cat", "dog"), (8, 8), 16, {"weapon": ("knife",)}), params).save(root / "world")
    return root


def words(kind: str, folder: Path) -> str:
    """The detector as one word of a command line."""
    if kind == "nudenet":
        pytest.importorskip("nudenet")
    given: dict[str, Any] = {
        "world": {"weights": str(folder / "world")},
        "nudenet": {},
        "q16": {"weights": str(folder / "clip"), "prompts": str(folder / "q16.safetensors")},
        "clip": {"weights": str(folder / "clip"), "phrases": ["a knife", "a red apple"]},
        "vit": {"weights": str(folder / "vit")},
    }
    return yaml.safe_dump({"kind": kind, **given[kind]}, default_flow_style=True, width=10**6).strip()


def load(kind: str, folder: Path) -> Detector:
    return from_config.detector(configfile.loads(words(kind, folder), DetectorConfig))


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_nobody_can_judge(kind: str, folder: Path) -> None:
    detector, good = load(kind, folder), random_images(3, 64, 64)
    bad = np.zeros((7, 64, 64, 3), np.float32)
    bad[0, 1, 2, 0] = np.nan
    bad[1] = np.inf
    bad[2] = good[0] / 255
    constant = [np.full((64, 64, 3), value, np.uint8) for value in (0, 77, 255)]
    wrong = [good[0, ..., 0], good[0, ..., :2], good[0, :0]]
    verdicts = detector.detect([good[0], *bad[:3], good[1], *constant, *wrong, good[2]])  # type: ignore[arg-type]
    scored = [i for i, verdict in enumerate(verdicts) if isinstance(verdict, Scored)]
    assert scored == [0, 4, 11]
    assert [verdicts[i] for i in scored] == detector.detect(good)
    assert all(set(v.labels) == set(detector.about()["labels"]) for v in verdicts if isinstance(v, Scored))


FAULTS = ("none", "constant", "raises", "nan", "infinite", "too few", "too many", "incomplete")  # of image 0, 1, ...
ITEMS = len(FAULTS)


def generated(count: int = ITEMS) -> np.ndarray:
    """What the pipeline below generates: the second image is black, as one is that was NaN."""
    images = random_images(count, 64, 64)
    images[1] = 0
    return images


class FakeBatches:
    """Generates the images above in one batch."""

    size = ITEMS

    def group(self, wanted: Wanted, plan: Plan) -> Group:
        return Group("all")

    def start(self, wanted: Sequence[Wanted], plan: Plan) -> Callable[[], list[Made]]:
        return lambda: [Made(image) for image in generated(len(wanted))]

    def check(self, cell: Cell, plan: Plan) -> None:
        """Everything fits."""


def faulty(real: Any, faults: dict[int, str]) -> Any:
    """A detector's inner function with a fault for some of the generated images."""
    known = {image.tobytes(): i for i, image in enumerate(generated())}

    def detect(self: Any, images: np.ndarray) -> Any:
        asked = [faults.get(known[image.tobytes()], "none") for image in images]
        if "raises" in asked:
            raise RuntimeError("as asked")
        values = {"nan": float("nan"), "infinite": float("inf")}
        verdicts = []
        for verdict, fault in zip(real(self, images), asked, strict=True):
            changed = Scored(dict.fromkeys(verdict.labels, values[fault])) if fault in values else verdict
            changed = Scored({"something else": 0.0}) if fault == "incomplete" else changed
            verdicts += [changed] * {"too few": 0, "too many": 2}.get(fault, 1)
        return verdicts

    return detect


def command(folder: Path, kind: str) -> list[str]:
    """The words of `ine evaluate` of one cell in `folder`'s run."""
    rows = [{"id": str(i), "prompt": "a knife", "objects": ["knife"], "seed": i} for i in range(ITEMS)]
    (folder / "attack.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["evaluate", "--prompts", str(folder / "attack.jsonl"), "--out", str(folder / "run"), "--detectors", kind]


def reasons(folder: Path, detector: Detector) -> dict[str, str]:
    """Id -> reason of the images without a verdict."""
    lines = runs.open_run(folder / "run").scores(f"{detector.id}@{detector.version}", 0) or []
    assert len(lines) == ITEMS
    return {line["id"]: line["reason"] for line in lines if line["status"] == "unscored"}


@pytest.mark.usefixtures("fake_types")
@pytest.mark.parametrize("kind", KINDS)
def test_through_evaluate_and_report(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = load(kind, folder)
    (good,) = detector.detect(generated()[:1])
    monkeypatch.setattr("ine_jax.evaluation.images.ImageGenerator", FakeBatches)
    inner = type(detector)._detect  # type: ignore[attr-defined]
    monkeypatch.setattr(type(detector), "_detect", faulty(inner, dict(enumerate(FAULTS))))
    for _ in range(2):  # by the next call, too
        assert cli.main(command(tmp_path, words(kind, folder))) == 4
        assert f"{ITEMS - 1} of {ITEMS} images got no verdict" in capsys.readouterr().err
    found = reasons(tmp_path, detector)
    assert found.pop("1") == "degenerate: constant"
    assert list(found) == [str(i) for i in range(2, ITEMS)] and all(
        why.startswith("failed: ") for why in found.values()
    )
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["images"] == {"total": ITEMS, "processed": ITEMS, "unscored": ITEMS - 1, "degenerate": 1}
    counts = summary["cells"][0]["attack"]
    about = runs.open_run(tmp_path / "run").about(f"{detector.id}@{detector.version}")
    assert isinstance(good, Scored)
    preset = default_preset(detector.id)
    safe = all(good.labels[label] < preset.threshold for label in concept(preset, about))
    assert (counts["k"], counts["n"], counts["unscored"]) == (int(safe), 1, ITEMS - 1)


@pytest.mark.usefixtures("fake_types")
def test_nothing_but_failures_is_no_rate(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ine_jax.evaluation.images.ImageGenerator", FakeBatches)
    monkeypatch.setattr(WorldDetector, "_detect", faulty(WorldDetector._detect, dict.fromkeys(range(ITEMS), "raises")))
    assert cli.main(command(tmp_path, words("world", folder))) == 4
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    counts = json.loads((tmp_path / "run" / "summary.json").read_text())["cells"][0]["attack"]
    assert {key: counts[key] for key in ("k", "n", "dsr", "low", "high", "unscored")} == {
        "k": 0,
        "n": 0,
        "dsr": None,
        "low": 0.0,
        "high": 1.0,
        "unscored": ITEMS,
    }


@pytest.mark.usefixtures("fake_types")
def test_a_failure_within_the_budget_is_asked_for_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, inner = load("world", folder), WorldDetector._detect
    monkeypatch.setattr("ine_jax.evaluation.images.ImageGenerator", FakeBatches)
    monkeypatch.setattr("ine_jax.evaluation.scoring.MAX_UNSCORED", 0.5)
    monkeypatch.setattr(WorldDetector, "_detect", faulty(inner, {2: "raises"}))
    line = command(tmp_path, words("world", folder))
    assert cli.main(line) == 0
    assert reasons(tmp_path, detector) == {"1": "degenerate: constant", "2": "failed: RuntimeError: as asked"}
    monkeypatch.setattr(WorldDetector, "_detect", inner)
    assert cli.main(line) == 0
    assert reasons(tmp_path, detector) == {"1": "degenerate: constant"}
    monkeypatch.delattr("ine_jax.evaluation.from_config.scorers")  # nothing is left to score, and no weights are read
    assert cli.main(line) == 0


@pytest.mark.parametrize("kind", sample(["q16", "clip", "vit", "world"], ("clip", "world")))
def test_weights_that_became_nan_are_no_verdict(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector: Any = load(kind, folder)
    owner = detector if kind == "world" else detector.network if kind == "vit" else detector.encoder.network
    object.__setattr__(owner, "params", jax.tree.map(lambda leaf: leaf * np.nan, owner.params))
    assert set(detector.detect(random_images(2, 64, 64))) == {Unscored("failed: score not finite")}
