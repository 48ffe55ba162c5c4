"""`ine publish`: what other tools read in the written folder, and that nothing leaves the machine unasked."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ine_jax.cli import main as cli
from ine_jax.errors import InputError
from ine_jax.evaluation import evaluate
from ine_jax.reporting.publication import publish
from ine_jax.storage.runs import Run
from tests.support import fakes

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published") / "run"
    fakes.full(root)
    return root


@pytest.fixture(scope="module")
def published(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("written") / "dataset"
    words = ["publish", str(run), "--to", str(target), "--repo", "someone/evaluation", "--licence", "cc-by-4.0"]
    assert cli.main(words) == 0
    return target


def test_datasets_reads_every_row_with_its_preview(
    published: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    rows = datasets.load_dataset(str(published), split="train", cache_dir=str(tmp_path))
    stored = Run(run, json.loads((run / "run.json").read_text()))
    expected = [row for k in stored.blocks() for row in stored.rows(k)]
    assert [(row["id"], row["prompt"], row["seed"]) for row in rows] == [
        (row["id"], row["prompt"], row["seed"]) for row in expected
    ]
    assert rows[0]["image"].size == (8, 8)
    first = {row["id"]: row["outcome"] for row in rows if row["negative"] == "no negative" and row["role"] == "main"}
    assert [first[f"attack-{i:03d}"] for i in range(2)] == ["failure", "success"]  # even seeds show the knife
    assert set(json.loads(rows[0]["scores"])) == {"knife", "cat"}


def test_previews_are_blurred_and_the_run_is_as_it_was(published: Path, run: Path) -> None:
    with Image.open(published / "previews" / "000" / "000000.webp") as image:
        small = np.asarray(image.convert("RGB"), np.float32)
    stored = Run(run, json.loads((run / "run.json").read_text()))
    sharp = stored.images(0)[0].astype(np.float32)
    assert np.abs(np.diff(small, axis=1)).mean() < 0.5 * np.abs(np.diff(sharp, axis=1)).mean()
    pngs = {path.read_bytes() for path in run.rglob("*.png")}
    assert not [path for path in published.rglob("*") if path.is_file() and path.read_bytes() in pngs]


def test_the_card_and_the_results_of_model_pages_are_read_by_the_hub_s_library(published: Path) -> None:
    from huggingface_hub import DatasetCard, parse_eval_result_entries

    found = DatasetCard.load(published / "README.md")
    assert found.data.license == "cc-by-4.0" and "not-for-all-audiences" in found.data.tags
    assert "| fake |" in found.text and "The defense success rate lies between" in found.text
    files = sorted((published / "eval_results").rglob("*.yaml"))
    assert len(files) == 2 and {path.parent.name for path in files} == {".eval_results"}  # one per negative
    entries = [entry for path in files for entry in parse_eval_result_entries(yaml.safe_load(path.read_text()))]
    assert sorted(entry.value for entry in entries if entry.task_id == "attack") == [0.5, 0.75]
    assert {entry.dataset_id for entry in entries} == {"someone/evaluation"}
    assert all("of 12 images, corner@1" in entry.notes for entry in entries)


def test_records_of_every_eval_ever_hold_the_rates(published: Path) -> None:
    (path,) = (published / "every_eval_ever").rglob("*.json")
    record = json.loads(path.read_text())
    assert record["schema_version"] == "0.3.0" and record["model_info"]["id"] == "someone/fake"
    scores = {each["evaluation_name"]: each["score_details"] for each in record["evaluation_results"]}
    (details,) = (value for name, value in scores.items() if name.startswith("attack") and "explicit" in name)
    assert details["score"] == 0.75 and details["details"]["k"] == "9" and details["details"]["n"] == "12"
    interval = details["uncertainty"]["confidence_interval"]
    assert interval["lower"] < 0.75 < interval["upper"]


@pytest.mark.oracle
@pytest.mark.skipif(
    shutil.which("every_eval_ever") is None, reason="every-eval-ever 0.3.0 (Python 3.12) is not installed"
)
def test_the_validator_of_every_eval_ever_accepts_the_records(published: Path) -> None:
    words = ["every_eval_ever", "validate", "--format", "json", "data/*/*/*/*.json"]
    done = subprocess.run(words, cwd=published / "every_eval_ever", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert '"valid": true' in done.stdout and "warning" not in done.stdout.replace('"warnings": []', "")


def test_only_to_hub_uploads_and_what_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    calls: list[tuple[str, Any]] = []

    class Api:
        def create_repo(self, repo: str, **settings: Any) -> None:
            calls.append(("create", (repo, settings["repo_type"], settings["private"])))

        def upload_folder(self, **settings: Any) -> None:
            names = sorted(path.name for path in Path(settings["folder_path"]).iterdir())
            calls.append(("upload", (settings["repo_id"], settings["repo_type"], names)))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert cli.main(["publish", str(run), "--to", str(tmp_path / "local")]) == 0
    assert not calls and not (tmp_path / "local" / "eval_results").exists()
    assert cli.main(["publish", str(run), "--to", "hub"]) == 2
    assert cli.main(["publish", str(run), "--to", "hub", "--repo", "no name"]) == 2
    assert cli.main(["publish", str(run), "--to", "hub", "--repo", "a/b", "--dry-run"]) == 0
    assert not calls
    assert cli.main(["publish", str(run), "--to", "hub", "--repo", "a/b"]) == 0
    names = ["README.md", "eval_results", "every_eval_ever", "previews", "summary.json"]
    assert calls == [("create", ("a/b", "dataset", True)), ("upload", ("a/b", "dataset", names))]
    assert "https://huggingface.co/datasets/a/b" in capsys.readouterr().out
    with pytest.raises(InputError, match="exists"):
        publish(run, tmp_path / "local")
    begun = tmp_path / "begun"
    evaluate(fakes.plan(), begun, generate=fakes.generate, hashes=fakes.hashes, shard=(0, 2))
    with pytest.raises(InputError):
        publish(begun, tmp_path / "new")
    assert not (tmp_path / "new").exists()
