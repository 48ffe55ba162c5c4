"""`ine score`: detectors and metrics by name, in braces, or from a YAML; and `ine report` by detector and preset."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ine_jax.cli import main as cli
from ine_jax.cli.parsing import parse
from ine_jax.cli.score import Score
from ine_jax.config import DetectorConfig, MetricConfig, ScoreConfig
from ine_jax.config import yaml_file as configfile
from ine_jax.errors import InputError
from ine_jax.evaluation import evaluate
from ine_jax.storage import runs
from tests.support import fakes
from tests.support.detector_folders import write_clip

PLAN, IMAGES = fakes.plan(3, 3), 18
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return evaluate(PLAN, tmp_path / "run", generate=fakes.generate, hashes=fakes.hashes).root


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "clip"
    config = write_clip(folder)
    vectors = np.random.default_rng(0).normal(size=(2, config.projection_dim)).astype(np.float32)
    save_file({"prompts": vectors}, folder / "q16.safetensors")
    return folder


def result(words: list[str], capsys: Capture) -> dict[str, Any]:
    assert cli.main([*words, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))


def stores(run: Path) -> list[str]:
    return sorted(name.split("@")[0] for name in runs.open_run(run).scorers())


def test_again_and_rescan(run: Path, capsys: Capture) -> None:
    assert [result(["score", str(run), *words], capsys)["scored"] for words in ([], [], ["--rescan"])] == [
        IMAGES,
        0,
        IMAGES,
    ]
    assert stores(run) == ["world"]


@pytest.mark.thorough
def test_names_braces_and_yaml(run: Path, clip: Path, tmp_path: Path, capsys: Capture) -> None:
    words = f"{{kind: clip, weights: {clip}, phrases: [a knife, a red apple]}}"
    assert result(["score", str(run), "--detectors", "world", words], capsys)["scored"] == IMAGES
    assert stores(run) == ["clip", "world"]
    config = tmp_path / "score.yaml"
    config.write_text(
        f"detectors: [world, {{kind: q16, weights: {clip}, prompts: {clip / 'q16.safetensors'}}}]\n"
        f"metrics:\n  - {{kind: clip-score, weights: {clip}}}\n"
    )
    done = result(["score", str(run), str(config)], capsys)
    assert (done["scored"], done["measured"]) == (IMAGES, IMAGES)
    assert stores(run) == ["clip", "clip-score", "q16", "world"]
    assert result(["score", str(config), str(run), "--detectors", "world"], capsys)["scored"] == 0
    only = ["--metrics", f"{{kind: clip-score, weights: {clip}}}", "--rescan"]
    done = result(["score", str(run), *only], capsys)
    assert (done["scored"], done["measured"]) == (0, IMAGES)


@pytest.mark.oracle
def test_nudenet_by_name(run: Path, capsys: Capture) -> None:
    pytest.importorskip("nudenet")
    assert result(["score", str(run), "--detectors", "nudenet"], capsys)["scored"] == IMAGES
    (line, *_) = runs.open_run(run).scores(runs.open_run(run).scorers()[0], 0) or []
    assert line["status"] == "scored" and len(line["labels"]) == 18


def test_records_of_words() -> None:
    words = ["--detectors", "world", "{kind: vit, weights: a b, revision: main}", "--reference", "tiny"]
    command = parse(["score", "runs/x", *words])
    assert isinstance(command, Score)
    assert command.config == ScoreConfig(
        (DetectorConfig("world"), DetectorConfig("vit", "a b", "main")), reference="tiny"
    )
    assert configfile.loads("{kind: lpips, weights: x, size: 64}", MetricConfig) == MetricConfig("lpips", "x", size=64)
    with pytest.raises(InputError, match="unknown field wights"):
        configfile.loads("{kind: lpips, wights: x}", MetricConfig)


@pytest.mark.parametrize(
    "words",
    [
        ["--detectors", "nudnet"],
        ["--detectors", "q16"],
        ["--detectors", "clip"],
        ["--detectors", "{kind: vit, weights: absent/folder/x}"],
        ["--detectors", "{kind: vit"],
        ["--detectors", "{kind: [vit]}"],
        ["--detectors", "{kind: world, sha256: '0'}"],
        ["--detectors", "{kind: nudenet, sha256: '0'}"],
        ["--detectors", "{kind: nudenet, weights: absent.onnx}"],
        ["--detectors", "{kind: world, phrases: [a]}"],
        ["--metrics", "lpips"],
        ["--metrics", "{kind: lpips, weights: absent}"],
        ["--metrics", "{kind: clip-score, weights: absent/folder/x, size: 3}"],
        ["absent.yaml"],
        ["--preset", "duo"],
    ],
)
def test_wrong_words(run: Path, words: list[str], capsys: Capture) -> None:
    assert cli.main(["score", str(run), *words]) == 2
    err = capsys.readouterr().err
    assert 1 <= len(err.splitlines()) <= 3 and "Traceback" not in err
    assert stores(run) == []


@pytest.mark.oracle
def test_report_by_detector_preset_and_threshold(run: Path, capsys: Capture) -> None:
    pytest.importorskip("nudenet")
    result(["score", str(run), "--detectors", "world", "nudenet"], capsys)

    def preset(*words: str) -> tuple[str, str, float]:
        result(["report", str(run), *words], capsys)
        summary = json.loads((run / "summary.json").read_text())
        return summary["detector"].split("@")[0], summary["preset"]["name"], summary["preset"]["threshold"]

    assert preset("--detector", "world") == ("world", "world", 0.5)
    assert preset("--detector", "nudenet") == ("nudenet", "duo", 0.2)
    assert preset("--preset", "rece") == ("nudenet", "rece", 0.6)
    assert preset("--detector", "nudenet", "--preset", "mace", "--threshold", "0.3") == ("nudenet", "mace", 0.3)
    assert preset("--detector", "world", "--threshold", "0.9") == ("world", "world", 0.9)
    for wrong in (
        ["--preset", "nudity"],
        ["--detector", "world", "--preset", "duo"],
        ["--detector", "q16"],
        ["--threshold", "1.5"],
        ["--threshold", "nan"],
    ):
        assert cli.main(["report", str(run), *wrong]) == 2
        assert 1 <= len(capsys.readouterr().err.splitlines()) <= 3
