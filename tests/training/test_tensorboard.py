"""`ine tensorboard`: what TensorBoard's own reader finds in the event files."""

import json
from pathlib import Path

import numpy as np
import pytest

from ine_jax.cli import main as cli
from ine_jax.errors import CorruptRunError, InputError
from ine_jax.storage.images import png
from ine_jax.training.tensorboard import export

LINES: list[dict] = [{"step": 10, "loss": 0.5, "loss_l2": 0.25}, {"step": 20, "loss": None, "loss_l2": 0.125}]
TIMES: list[dict] = [{"step": step, "time": 1000.0 + step, "steps_per_second": 2.0} for step in (10, 20)]


def jsonl(lines: list[dict]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A directory with one log at its root and one in a folder, and images beside the first."""
    root = tmp_path / "weapon"
    (root / "second").mkdir(parents=True)
    for folder in (root, root / "second"):
        (folder / "log.jsonl").write_text(jsonl(LINES))
    (root / "timing.jsonl").write_text(jsonl(TIMES))
    for name in ("preview.png", "loss.png"):
        (root / name).write_bytes(png(np.full((4, 6, 3), 200, np.uint8)))
    return root


@pytest.mark.oracle
def test_tensorboard_reads_scalars_and_images(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert cli.main(["tensorboard", str(run), "--to", str(tmp_path / "events")]) == 0
    assert "5 scalars, 1 images" in capsys.readouterr().out
    found = reading.EventAccumulator(str(tmp_path / "events" / "weapon"))
    found.Reload()
    assert sorted(found.Tags()["scalars"]) == ["loss", "loss_l2", "steps_per_second"]
    assert [(e.step, e.value, e.wall_time) for e in found.Scalars("loss_l2")] == [
        (10, 0.25, 1010.0),
        (20, 0.125, 1020.0),
    ]
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(10, 0.5)]  # a loss that was not finite has no point
    (image,) = found.Images("preview")
    assert (image.step, image.width, image.height) == (20, 6, 4)
    assert image.encoded_image_string == (run / "preview.png").read_bytes()
    assert found.Tags()["images"] == ["preview"]
    second = reading.EventAccumulator(str(tmp_path / "events" / "weapon" / "second"))
    second.Reload()
    assert sorted(second.Tags()["scalars"]) == ["loss", "loss_l2"]
    with pytest.raises(InputError, match="exists"):
        export([run], tmp_path / "events")


def test_wrong_directories_write_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for directories, named in (([tmp_path / "empty"], "no log.jsonl"), ([run, run], "one name")):
        with pytest.raises(InputError, match=named):
            export(directories, tmp_path / "new")
    (run / "preview.png").write_bytes(b"no image")
    with pytest.raises((CorruptRunError, InputError), match=r"preview|tensorboard"):
        export([run], tmp_path / "new")
    assert not (tmp_path / "new").exists()
