"""What the documentation site adds to the pages: the reference of the API, the notebook, the navigation."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import ine_jax
from tests.support.paths import ROOT

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    """The code cells of the notebook."""
    notebook = json.loads((DOCS / "first-steps.ipynb").read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_reference_has_every_public_name() -> None:
    named = re.findall(r"^::: ine_jax\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(set(ine_jax.__all__) - {"__version__"})


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    pages = [page for entry in nav for page in ([entry] if isinstance(entry, str) else next(iter(entry.values())))]
    assert sorted(pages) == sorted(path.name for path in DOCS.iterdir() if path.suffix in (".md", ".ipynb"))


def test_the_notebook_ran_from_top_to_bottom_without_an_error(cells: list[dict[str, Any]]) -> None:
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds == {"execute_result", "stream"}
    for cell in cells:
        ast.parse("".join(cell["source"]))


@pytest.mark.slow
def test_the_notebook_runs(cells: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)  # noqa: S102
    assert (tmp_path / "runs" / "weapon.bin").is_file()
