"""Names of the models that ship with the package."""

from __future__ import annotations

import re
from pathlib import Path

from ine_jax.errors import InputError

ROOT = Path(__file__).parent


def resolve(name: str) -> tuple[Path, Path | None] | None:
    """Folder of a bundled model, and the file of its unlearned weights: ``"tiny"``, ``"tiny-unlearned-0"``, ...; None
    for any other name.

    Raises ``InputError`` for an unlearned variant that does not ship.
    """
    match = re.fullmatch(r"tiny(?:-unlearned-(\d{1,3}))?", name)
    if match is None:
        return None
    folder = ROOT / "tiny"
    if not (folder / "model_index.json").is_file():
        given = f"model {name}: its files are not installed"
        raise InputError(given, "an installation with its assets", "install the package again")
    if match[1] is None:
        return folder, None
    delta = folder / "unlearned" / f"{int(match[1])}.safetensors"
    if not delta.is_file():
        raise InputError(f"model {name}", ", ".join(names()), "choose one of these")
    return folder, delta


def names() -> list[str]:
    """The bundled models that are installed."""
    numbers = sorted(int(p.stem) for p in (ROOT / "tiny" / "unlearned").glob("*.safetensors") if p.stem.isdigit())
    return ["tiny", *(f"tiny-unlearned-{n}" for n in numbers)]


def embedding(name: str) -> Path:
    """File of an embedding: the bundled one where `name` has neither a suffix nor a folder, else the path itself.

    Raises ``InputError`` for a bundled name that does not ship.
    """
    if Path(name).suffix or "/" in name or "\\" in name:
        return Path(name)
    folder = ROOT / "tiny" / "embeddings"
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.safetensors"))) or "none in this installation"
        raise InputError(f"embedding {name}", f"a .safetensors file, or a bundled one: {known}", "check the name")
    return path


def concept_images(folder: str = "") -> Path:
    """Folder of images of the concept: the one given, or the bundled one."""
    return Path(folder) if folder else ROOT / "tiny" / "concept"
