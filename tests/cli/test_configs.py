"""`ine configs`, and what the project says of itself to package tools."""

import tomllib
from pathlib import Path

import pytest
import yaml

import ine_jax
from ine_jax.cli import main as cli
from ine_jax.config import shipped
from tests.support.paths import ROOT

Capture = pytest.CaptureFixture[str]


def test_all_are_listed_and_copied_with_their_bytes(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["configs"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(shipped.files()) + 1 and all(
        len(each.split()) > 1 for each in listed if "jsonl" not in each
    )
    out = tmp_path / "configs"
    assert cli.main(["configs", "--to", str(out), "--dry-run"]) == 0 and not out.exists()
    assert cli.main(["configs", "--to", str(out)]) == 0
    made = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert made == {
        p.relative_to(ROOT / "configs"): p.read_bytes() for p in (ROOT / "configs").rglob("*") if p.is_file()
    }
    capsys.readouterr()
    assert cli.main(["configs", "--to", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 0 files copied, {len(made)} already there\n"


def test_some_are_copied_and_no_file_is_overwritten(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["configs", "invert/tiny.yaml", "launch", "--to", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["invert", "launch"]
    (tmp_path / "invert" / "tiny.yaml").write_text("model: mine\n")
    assert cli.main(["configs", "invert", "--to", str(tmp_path)]) == 2
    assert "invert/tiny.yaml exists and is another file" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "invert").iterdir()] == ["tiny.yaml"]
    assert cli.main(["configs", "inverted", "--to", str(tmp_path)]) == 2
    assert "attack, evaluate, invert, launch, sd, unlearn" in capsys.readouterr().err


def test_the_project_files_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (ine_jax.__version__, project["license"])
    assert ine_jax.__version__ in (ROOT / "CHANGELOG.md").read_text()
    flows = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    pythons = flows["ci"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert [f"Programming Language :: Python :: {version}" for version in pythons] == [
        each for each in project["classifiers"] if each.rpartition(" ")[2].startswith("3.")
    ]
    assert flows["release"]["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "permissions" in flows["ci"] and "permissions" in flows["all"]
