"""Which cells of a summary are tested against each other, and what a test calls its sides."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ine_jax.config import GuidanceConfig, NegativeConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.evaluation import Cell, Plan, evaluate, score, summarise
from ine_jax.evaluation.counting import holm
from ine_jax.reporting import markdown, sentences
from scripts.train_world.manifest import write_manifest
from tests.support import fakes

ITEMS = 8
SLD = GuidanceConfig(3.0, method="sld")
IMAGES = GuidanceConfig(3.0, method="safe-denoiser")
PLAIN, GUIDED, WORDS = fakes.PLAIN, fakes.GUIDED, fakes.WORDS


@pytest.fixture
def learned(tmp_path: Path) -> tuple[str, str]:
    """Files of two embeddings."""
    made = [Embedding(np.full((1, 8), value, np.float32), "token", f"e{value}", "tiny") for value in (1, 2)]
    first, second = (str(e.save(tmp_path / f"{i}.safetensors")) for i, e in enumerate(made))
    return first, second


def summary(root: Path, *cells: tuple[GuidanceConfig, NegativeConfig, str], **more: Any) -> Any:
    """The summary of one attack list over cells of one model: (guidance, negative, name of the guard)."""
    lists = {"attack": fakes.items("attack", ITEMS, ("knife",))}
    counts = (("attack", ITEMS),)
    made = tuple(Cell("fake", counts, guidance, negative, guard, **more) for guidance, negative, guard in cells)
    run = evaluate(Plan(made, lists, steps=2), root, generate=fakes.generate, hashes=fakes.hashes)
    score(run, [fakes.Corner()])
    return summarise(run)


def sides(found: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    return [(t["guard"], t["a"], t["a_name"], t["b"], t["b_name"]) for t in found["paired"]]


def test_negatives_meet_under_one_guard_and_no_negative_meets_every_guard_of_its_scale(
    tmp_path: Path, learned: tuple[str, str]
) -> None:
    implicit = NegativeConfig(embedding=learned[0])
    found = summary(
        tmp_path / "run",
        (PLAIN, NegativeConfig(), "cfg"),
        (GuidanceConfig(5.0), NegativeConfig(), "cfg"),
        *(
            (guidance, negative, name)
            for guidance, name in ((GUIDED, "s=2"), (SLD, "sld"))
            for negative in (WORDS, implicit)
        ),
    )
    assert sides(found) == [
        ("s=2", "none", "", "explicit", ""),
        ("s=2", "none", "", "implicit", ""),
        ("sld", "none", "", "explicit", ""),
        ("sld", "none", "", "implicit", ""),
        ("s=2", "explicit", "", "implicit", ""),
        ("sld", "explicit", "", "implicit", ""),
    ]
    first = found["paired"][0]
    # without a negative every second seed shows the knife, with one every fourth
    assert (first["n"], first["both"], first["only_a"], first["only_b"], first["difference"]) == (8, 4, 0, 2, 0.25)
    assert (first["model"], first["list"], first["p"]) == ("fake", "attack", 0.5)


def test_several_implicit_negatives_are_named_apart(tmp_path: Path, learned: tuple[str, str]) -> None:
    one, two = (NegativeConfig(name, embedding=path) for name, path in zip(("one", "two"), learned, strict=True))
    guns = NegativeConfig("guns", words=("pistol", "revolver"))
    found = summary(tmp_path / "run", *((GUIDED, negative, "cfg") for negative in (guns, one, two)))
    assert sides(found) == [("cfg", "explicit", "guns", "implicit", name) for name in ("one", "two")]
    assert [cell["negative_name"] for cell in found["cells"]] == ["guns", "one", "two"]
    reported = sentences(found)
    assert "implicit (one) instead of explicit words (guns)" in reported[0]
    assert "implicit (two) instead of explicit words (guns)" in reported[1]
    assert all("fake, cfg (negative scale 2), attack prompts" in line for line in reported)


def test_a_blend_stands_between_words_and_embeddings(tmp_path: Path, learned: tuple[str, str]) -> None:
    blend = NegativeConfig(words="knife", embedding=learned[0], blend=0.0)
    negatives = (NegativeConfig(embedding=learned[0]), blend, WORDS, NegativeConfig())
    cells = [(GUIDED if n.kind != "none" else PLAIN, n, "cfg") for n in negatives]
    found = summary(tmp_path / "run", *cells)
    pairs = {(a, b) for _, a, _, b, _ in sides(found)}
    assert pairs == {
        ("none", "explicit"),
        ("none", "blend"),
        ("none", "implicit"),
        ("explicit", "blend"),
        ("explicit", "implicit"),
        ("blend", "implicit"),
    }
    blended = next(cell for cell in found["cells"] if cell["negative"] == "blend")
    assert (blended["words"], blended["blend"], len(blended["embeddings"])) == (["knife"], 0.0, 1)
    assert "words + implicit" in markdown(found)


def test_tests_that_differ_in_the_negative_scale_look_different(tmp_path: Path) -> None:
    stronger = dataclasses.replace(GUIDED, negative_scale=5.0)
    cells = ((PLAIN, NegativeConfig(), "cfg"), (GUIDED, WORDS, "cfg"), (stronger, WORDS, "cfg"))
    found = summary(tmp_path / "run", *cells)
    assert [(test["scale"], test["negative_scale"]) for test in found["paired"]] == [(3.0, 2.0), (3.0, 5.0)]
    rows = [line for line in markdown(found).splitlines() if "no negative | explicit words" in line]
    assert [row.split(" | ")[2:4] for row in rows] == [["3", "2"], ["3", "5"]]


def test_a_guard_of_images_is_no_plain_guidance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "tiny" / "concept"
    images.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(images / "a.png")
    write_manifest(tmp_path)
    monkeypatch.setattr("ine_jax.assets.ROOT", tmp_path)
    cells = ((IMAGES, NegativeConfig(), "images"), (IMAGES, WORDS, "images"), (GUIDED, WORDS, "cfg"))
    assert sides(summary(tmp_path / "run", *cells)) == [("images", "none", "", "explicit", "")]


def test_cells_say_their_method_and_scales(tmp_path: Path) -> None:
    found = summary(tmp_path / "run", (PLAIN, NegativeConfig(), "cfg"), (GUIDED, WORDS, "cfg"), (SLD, WORDS, "safe"))
    reported = [(cell["guard"], cell["method"], cell["scale"], cell["negative_scale"]) for cell in found["cells"]]
    assert reported == [("cfg", "negative", 3.0, None), ("cfg", "negative", 3.0, 2.0), ("safe", "sld", 3.0, None)]
    assert [cell.get("words") for cell in found["cells"]] == [None, ["a knife"], ["a knife"]]
    assert all(key not in cell for cell in found["cells"] for key in ("blend", "embeddings", "embedding_from"))


def test_the_origin_of_an_embedding_is_told_where_it_is_known(tmp_path: Path, learned: tuple[str, str]) -> None:
    cells = ((GUIDED, NegativeConfig(embedding=learned[0]), "cfg"),)
    found = summary(tmp_path / "run", *cells, embedding_from="tiny-unlearned-0", embedding_seed=0)
    (cell,) = found["cells"]
    assert (cell["embedding_from"], cell["embedding_seed"]) == ("tiny-unlearned-0", 0)
    assert list(found["hashes"]["embeddings"]) == ["tiny-unlearned-0, seed 0"]


def test_p_values_are_adjusted_for_all_tests_of_a_summary(tmp_path: Path, learned: tuple[str, str]) -> None:
    implicit = NegativeConfig(embedding=learned[0])
    cells = ((PLAIN, NegativeConfig(), "cfg"), *((GUIDED, negative, "cfg") for negative in (WORDS, implicit)))
    tests = summary(tmp_path / "run", *cells)["paired"]
    assert [test["p_holm"] for test in tests] == holm([test["p"] for test in tests])
    assert len(tests) == 3


def test_holm_controls_what_a_closed_test_rejects() -> None:
    """A hypothesis is rejected at level p_holm exactly if every set that holds it has a p-value below level / size."""
    chance = np.random.default_rng(0)
    for p in (*chance.uniform(size=(20, 5)).tolist(), [0.01, 0.01, 0.9], [], [0.2]):
        sets = [chosen for k in range(len(p)) for chosen in itertools.combinations(range(len(p)), k + 1)]
        closed = [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(len(p))]
        np.testing.assert_allclose(holm(p), closed, rtol=1e-5)
