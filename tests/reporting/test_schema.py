"""summary.json and its published schema: what is written is valid, what is wrong is found."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ine_jax import reporting
from ine_jax.evaluation import evaluate, score
from tests.support import fakes
from tests.support.samples import summary as sample

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = json.loads((Path(reporting.__file__).parent / "summary.schema.json").read_text())


def faults(value: Any) -> list[str]:
    return [
        f"{list(error.path)}: {error.message}" for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(value)
    ]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_written_summary_is_valid(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run = evaluate(fakes.plan(n=4), tmp_path / name, generate=fakes.generate, hashes=fakes.hashes, command=["ine"])
        score(run, [fakes.Corner()])
    for roots in (["a"], ["a", "b"]):
        reporting.build([tmp_path / name for name in roots], tmp_path / "out")
        assert not faults(json.loads((tmp_path / "out" / "summary.json").read_text()))


def stored(text: str = "") -> dict[str, Any]:
    """The sample without the clock times that only the page has."""
    whole = copy.deepcopy(sample(text))
    for cell in [*whole["cells"], *whole["controls"]]:
        del cell["seconds_per_image"]
    return whole


def test_everything_at_once_is_valid() -> None:
    assert not faults(stored())
    assert not faults(stored("<script>"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("detector",), None),
        (("surprise",), 1),
        (("images", "processed"), -1),
        (("cells", 0, "negative"), "other"),
        (("cells", 0, "i2p", "dsr"), 1.5),
        (("cells", 0, "i2p", "rate"), 0.5),
        (("cells", 0, "i2p", "k"), "1"),
        (("cells", 0, "i2p", "categories", "violence", "n"), None),
        (("cells", 0, "coco", "metrics", "lpips-64@1", "mean"), "0.1"),
        (("cells", 0, "a list"), {}),
        (("paired", 0, "p"), 2),
        (("sensitivity", 0, "rate", 0), "x"),
        (("lists", "i2p", "measure"), "other"),
    ],
)
def test_what_is_wrong_is_found(path: tuple[Any, ...], value: Any) -> None:
    whole = stored()
    place: Any = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert faults(whole)
