"""The bundled files are the ones that the manifest lists, and a changed one is found before it is used."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import ine_jax
from ine_jax import assets, evaluation
from ine_jax.cli import demo_settings
from ine_jax.cli import main as cli
from ine_jax.config import DetectorConfig
from ine_jax.errors import CorruptRunError
from ine_jax.evaluation import from_config
from ine_jax.models.checkpoints.model_files import model_id
from tests.support.flips import flip


def test_the_manifest_is_current() -> None:
    """If not: python -m scripts.train_world.manifest"""
    assert (assets.ROOT / assets.MANIFEST).read_text() == assets.manifest(assets.ROOT)
    assert assets.folder() == assets.ROOT / "tiny"


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(assets.ROOT / "tiny", tmp_path / "tiny")
    shutil.copy(assets.ROOT / assets.MANIFEST, tmp_path)
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    return tmp_path


def test_a_flip_in_every_file_is_found(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("tiny", str(copied), str(copied / "tiny" / "embeddings" / "weapon-tiny.safetensors")):
        assert cli.main(["verify", name]) == 0
    files = [path for path in (copied / "tiny").rglob("*") if path.is_file()]
    for path in files:
        flip(path)
    assert set(assets.faults(copied)) == {str(path.relative_to(copied)) for path in files}
    assert cli.main(["verify", str(copied / "tiny")]) == 5
    assert "install the package again" in capsys.readouterr().err


USERS: dict[str, tuple[str, Callable[[], object]]] = {
    "text encoder": ("text_encoder/model.safetensors", lambda: ine_jax.load("tiny")),
    "unlearned": ("unlearned/0.safetensors", lambda: model_id("tiny-unlearned-0")),
    "detector": ("detector/model.safetensors", lambda: from_config.detector(DetectorConfig())),
    "prompts": ("prompts/attack.jsonl", lambda: evaluation.read_items("attack", 2)),
    "embedding": (
        "embeddings/weapon-tiny.safetensors",
        lambda: ine_jax.Embedding.load(assets.embedding("weapon-tiny")),
    ),
    "world": ("world.json", demo_settings.read_world),
    "concept": ("concept/003.png", assets.concept_images),
    "manifest": ("../SHA256SUMS", assets.folder),
}


@pytest.mark.parametrize("user", USERS)
def test_whatever_uses_a_changed_file_rejects_it(copied: Path, user: str) -> None:
    name, use = USERS[user]
    flip(copied / "tiny" / name)
    with pytest.raises(CorruptRunError, match="install the package again"):
        use()


def test_documents_may_change(copied: Path) -> None:
    """The program does not read them, and `ine verify tiny` reports them."""
    flip(copied / "tiny" / "CARD.md")
    assert assets.folder() == copied / "tiny"
    assert list(assets.faults(copied)) == ["tiny/CARD.md"]
