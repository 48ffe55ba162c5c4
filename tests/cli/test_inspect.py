"""`ine inspect` on directories: what a demo, a run and a training directory are, and whether they are finished."""

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ine_jax import reporting
from ine_jax.cli import main as cli
from ine_jax.cli.describe import describe
from ine_jax.evaluation import evaluate, score
from ine_jax.evaluation.detectors.world import WorldConfig, WorldDetector
from ine_jax.inversion.preview import plot_losses
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.images import png
from ine_jax.training import loop
from tests.support import fakes


def train(folder: Path) -> None:
    """One step of the training loop."""

    def step(state: Any, _: int) -> tuple[Any, dict[str, Any]]:
        return state, {"loss": np.float32(1.0)}

    loop.run(step, {"x": np.ones(2, np.float32)}, steps=1, directory=folder, save_every=1, config={"model": "tiny"})


def test_a_demo_directory_is_told_from_its_first_file_to_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, inversion = tmp_path / "demo", tmp_path / "demo" / "inversion" / "tiny-seed-0"
    train(inversion)
    assert stat.S_IMODE(inversion.stat().st_mode) == 0o700
    assert describe(inversion)["kind"] == "training directory"
    facts: Any = describe(root)
    assert facts["kind"] == "demo directory"
    assert facts["inversions"] == {"tiny-seed-0": "not finished"}
    assert (facts["cells"], facts["finished"], facts["report"]) == ("none yet", False, False)
    (inversion / "done.json").write_text("{}")

    evaluate(fakes.plan(n=4), root / "evaluation", generate=fakes.generate, hashes=fakes.hashes, shard=(0, 2))
    facts = describe(root)  # half of the six blocks
    assert facts["inversions"] == {"tiny-seed-0": "finished"}
    assert facts["cells"] == [
        "fake, none: not finished, 4 of 8 images",
        "fake, explicit: not finished, 4 of 8 images",
        "fake-unlearned, none, control: not finished, 4 of 8 images",
    ]
    assert not facts["finished"]
    run = evaluate(fakes.plan(n=4), root / "evaluation", generate=fakes.generate, hashes=fakes.hashes)
    assert not describe(root)["finished"]  # nothing is judged
    assert not describe(root / "evaluation")["finished"]
    score(run, [fakes.Corner()])
    assert describe(root / "evaluation")["finished"]
    assert not describe(root)["finished"]
    reporting.build([root])
    facts = describe(root)
    assert facts["finished"] and facts["report"]
    assert all(": finished, 8 of 8 images" in cell for cell in facts["cells"])
    assert cli.main(["inspect", str(root)]) == 0
    assert "demo directory" in capsys.readouterr().out


def test_pictures_and_detectors_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"head": {"bias": np.zeros(1, np.float32)}}
    detector = WorldDetector(WorldConfig(("a",)), params)

    def all_of_them() -> list[str]:
        plot_losses(tmp_path / "loss.png", np.arange(3), np.ones(3), "x")
        write_atomic(tmp_path / "preview.png", png(np.zeros((4, 4, 3), np.uint8)))
        detector.save(tmp_path / "detector")
        return sorted(p.name for p in tmp_path.rglob("*") if p.is_file())

    replaced: list[str] = []
    rename = Path.replace

    def watched(self: Path, target: Path) -> Path:
        replaced.append(Path(target).name)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    names = ["config.json", "loss.png", "model.safetensors", "preview.png"]
    assert all_of_them() == names  # and no temporary file is left
    assert sorted(replaced) == names
    with Image.open(tmp_path / "loss.png") as image:
        image.load()
    before = (tmp_path / "preview.png").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "the disk is full")

    monkeypatch.setattr("ine_jax.storage.atomic.os.fsync", full)
    with pytest.raises(OSError, match="full"):
        write_atomic(tmp_path / "preview.png", png(np.ones((4, 4, 3), np.uint8)))
    assert (tmp_path / "preview.png").read_bytes() == before
