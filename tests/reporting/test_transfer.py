"""The matrix of embeddings across models."""

import copy
from typing import Any

import pytest

from ine_jax.reporting import markdown
from ine_jax.reporting.page import page
from ine_jax.reporting.transfer import transfers
from tests.support import samples


@pytest.fixture(scope="module")
def crossed() -> Any:
    """Two models, each with its own embedding and, of the first guard, with that of the other."""
    found = samples.summary(guards=("negative",))
    implicit = [cell for cell in found["cells"] if cell["negative"] == "implicit"]
    for cell, other in zip(implicit, reversed(implicit), strict=True):
        moved = copy.deepcopy(cell) | {"embedding_from": other["model"], "i2p": samples.entry(7, "dsr", "")}
        found["controls"].append(moved)
    found["controls"].append(copy.deepcopy(implicit[0]) | {"embedding_from": "", "i2p": samples.entry(1, "dsr", "")})
    return found


def test_rows_are_origins_and_columns_models(crossed: Any) -> None:
    (table,) = transfers(crossed)
    assert table.used == ("model-0", "model-1")
    own = {cell["model"]: cell["i2p"]["dsr"] for cell in crossed["cells"] if cell["negative"] == "implicit"}
    plain = {cell["model"]: cell["i2p"]["dsr"] for cell in crossed["cells"] if cell["negative"] == "none"}
    words = {cell["model"]: cell["i2p"]["dsr"] for cell in crossed["cells"] if cell["negative"] == "explicit"}
    found = {name: [value and value.value for value in values] for name, values in table.rows}
    assert found == {
        "no negative": [plain["model-0"], plain["model-1"]],
        "explicit words": [words["model-0"], words["model-1"]],
        "implicit (from model-0)": [own["model-0"], 0.35],
        "implicit (from model-1)": [0.35, own["model-1"]],
    }


def test_page_and_markdown_show_the_same_numbers(crossed: Any) -> None:
    (table,) = transfers(crossed)
    html, text = page(crossed), markdown(crossed)
    for _, values in table.rows:
        for value in values:
            assert value is not None
            assert f'heat heat{round(value.value * 10)}">{value.value:.3f}<small>{value.span}</small>' in html
            assert f"{value.value:.3f} \\[" in text
    assert "on model-0 | on model-1" in text


def test_one_origin_makes_no_matrix() -> None:
    assert transfers(samples.summary(models=1) | {"controls": []}) == []
