"""The commands as functions: configs as records or files, and the command's own results."""

from pathlib import Path
from typing import Any

import pytest

import ine_jax
from ine_jax.cli import main as cli
from ine_jax.errors import InputError, InputTypeError
from tests.support import fakes
from tests.support.typechecking import unchecked


@pytest.mark.parametrize("name", ["attack", "invert", "evaluate", "unlearn"])
def test_a_config_is_a_record_or_the_path_of_a_file(name: str, tmp_path: Path) -> None:
    call: Any = getattr(ine_jax, name)
    with unchecked(), pytest.raises(InputTypeError, match=rf"allowed: {name.capitalize()}Config, or the path"):
        call({"model": "tiny"})
    (tmp_path / "c.yaml").write_text("nothing: 1\n")
    with pytest.raises(InputError, match=r"c\.yaml: unknown field nothing"):
        call(tmp_path / "c.yaml")


def test_unreadable_images_are_found_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not an image")
    images, out = str(tmp_path), str(tmp_path / "out")
    with pytest.raises(InputError, match=r"a\.png"):
        ine_jax.invert(ine_jax.InvertConfig(model="none/such", images=images, out=out))
    with pytest.raises(InputError, match=r"a\.png"):
        ine_jax.unlearn(ine_jax.UnlearnConfig(model="none/such", preserve_images=images, out=out))
    assert not (tmp_path / "out").exists()


def test_a_report_is_that_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.full(tmp_path / "run")
    made = ine_jax.report(tmp_path / "run", tmp_path / "here")
    assert made.page == tmp_path / "here" / "report.html" and made.summary["images"]["total"] == 72
    assert repr(made) == f"Reported(page={made.page!r})"
    assert cli.main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "there")]) == 0
    for name in ("summary.json", "report.html"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    with pytest.raises(InputError, match="no run directory"):
        ine_jax.report([])


def test_bundled_embeddings_are_named_as_on_the_command_line(tmp_path: Path) -> None:
    done = ine_jax.convert("weapon-tiny", tmp_path / "weapon.bin", "diffusers-bin")
    learned = ine_jax.Embedding.load("weapon-tiny")
    assert (done.path, done.stored.embedding.token) == (tmp_path / "weapon.bin", learned.token)
    assert len(repr(learned)) < 200 and learned.token in repr(learned)
    assert cli.main(["convert", "weapon-tiny", str(tmp_path / "weapon.npy"), "--to", "npy"]) == 0
