"""What cannot run is rejected before anything is written, by a run and by its dry run with the same words."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from ine_jax.cli import main as cli
from ine_jax.embeddings.embedding import Embedding
from tests.faults import sweep
from tests.support.cases import sample
from tests.support.tiny_pipeline import LENGTH, WIDTH

CONTEXT = (LENGTH, WIDTH)
COMMANDS = {
    "evaluate": [*sweep.EVALUATE[:-1], "out"],
    "generate": [*sweep.GENERATE[:-1], "out"],
}


@pytest.fixture
def work(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder beside a copy of the model and two prompts, where the commands run."""
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a cat", "id": "0", "seed": 0}\n')
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def negative(command: str, path: str) -> list[str]:
    if command == "generate":
        return ["--negative.embedding", path]
    return ["--negatives.0.name", "learned", "--negatives.0.embedding", path]


def damaged(model: Path) -> None:
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights = {name: value.copy() for name, value in safetensors.numpy.load_file(path).items()}
    next(iter(weights.values())).flat[0] = np.nan
    safetensors.numpy.save_file(weights, path)


@pytest.mark.parametrize("command", sample(COMMANDS, ("evaluate",)))
@pytest.mark.parametrize("kind", ["weights", "width", "length", "steps", "size", "latents", "file"])
def test_exit_2_leaves_nothing(work: Path, command: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = list(COMMANDS[command]), ""
    match kind:
        case "weights":
            damaged(work.parent / "model")
            expected = "holds NaN or infinity"
        case "width":
            Embedding(np.ones((2, WIDTH + 1), np.float32)).save("bad.safetensors")
            words, expected = [*words, *negative(command, "bad.safetensors")], f"{WIDTH + 1} numbers per vector"
        case "length":
            Embedding(np.ones((LENGTH - 1, WIDTH), np.float32), "context").save("bad.safetensors")
            words, expected = [*words, *negative(command, "bad.safetensors")], "context embedding"
        case "steps":
            words, expected = [*words, "--sampler.steps", "1001"], "1001"
        case "size":
            words, expected = [*words, "--sampler.height", "33"], "33"
        case "latents":
            rows = np.zeros((1 if command == "evaluate" else 4, 4, 3, 3), np.float32)
            np.save("bad.npy", rows)
            words, expected = [*words, "--sampler.latents", "bad.npy"], "latents of shape"
        case "file":
            Path("out").write_text("")
            expected = "out is a file"
    before = sorted(work.rglob("*"))
    complaints = []
    for line in (words, [*words, "--dry-run"]):
        assert cli.main(line) == 2
        complaints.append(capsys.readouterr().err)
        assert sorted(work.rglob("*")) == before
    assert expected in complaints[0]
    assert complaints[0] == complaints[1]


@pytest.mark.thorough
def test_a_mended_model_starts_where_the_damaged_one_was_rejected(work: Path) -> None:
    model = work.parent / "model"
    shutil.copytree(model, work.parent / "sound")
    damaged(model)
    assert cli.main(COMMANDS["evaluate"]) == 2
    shutil.rmtree(model)
    (work.parent / "sound").rename(model)
    assert cli.main(COMMANDS["evaluate"]) == 0
