"""Names of the models that ship with the package, whose files are compared with their hashes once per process."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from pathlib import Path

from ine_jax.errors import CorruptRunError, InputError

ROOT = Path(__file__).parent
MANIFEST = "SHA256SUMS"  # beside `tiny/`; written by scripts/train_world/manifest.py
DOCUMENTS = ("tiny/CARD.md", "tiny/LICENSE.md", "tiny/samples.png")  # which the program does not read


def manifest(root: Path) -> str:
    """The text that MANIFEST has to hold: the SHA-256 of every file of the family, as `sha256sum` prints it."""
    files = sorted(path for path in (root / "tiny").rglob("*") if path.is_file() and path.name[0] != ".")
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files)


def faults(root: Path) -> dict[str, str]:
    """Name -> what is wrong, for every file of the family that is missing, changed or not in the manifest."""
    try:
        listed = (root / MANIFEST).read_bytes()
    except OSError as error:
        return {MANIFEST: error.strerror or "cannot be read"}
    found = manifest(root)
    if listed == found.encode():
        return {}
    lines = set(listed.decode("utf-8", "replace").split("\n")) ^ set(found.split("\n"))
    return {line[66:]: f"not as in {MANIFEST}" for line in sorted(lines)}


@functools.cache
def _sound(root: Path) -> Path:
    wrong = [f"{root / name}: {why}" for name, why in faults(root).items() if name not in DOCUMENTS]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise CorruptRunError(f"{wrong[0]}{more}", "the files that ship with the package", "install the package again")
    return root / "tiny"


def folder() -> Path:
    """Folder of the bundled family. CorruptRunError where a file of it was changed."""
    return _sound(ROOT)


def resolve(name: str) -> tuple[Path, Path | None] | None:
    """Folder of a bundled model, and the file of its unlearned weights: "tiny", "tiny-unlearned-0", "tiny-uce", ...;
    None for any other name.

    Raises ``InputError`` for a numbered variant that does not ship.
    """
    match = re.fullmatch(r"tiny(?:-unlearned-(\d{1,3})|-([a-z][a-z0-9-]*))?", name)
    if match is None:
        return None
    number, method = match.groups()
    delta = ROOT / "tiny" / "unlearned" / f"{int(number) if number else method}.safetensors"
    if method and not delta.is_file():
        return None
    if not (ROOT / "tiny" / "model_index.json").is_file():
        given = f"model {name}: its files are not installed"
        raise InputError(given, "an installation with its assets", "install the package again")
    if number and not delta.is_file():
        raise InputError(f"model {name}", ", ".join(names()), "choose one of these")
    return folder(), delta if number or method else None


def names() -> list[str]:
    """The bundled models that are installed: the base, the variants by number, those by method."""
    stems = sorted(path.stem for path in (ROOT / "tiny" / "unlearned").glob("*.safetensors"))
    numbers = sorted(int(stem) for stem in stems if stem.isdigit())
    methods = [f"tiny-{stem}" for stem in stems if not stem.isdigit()]
    return ["tiny", *(f"tiny-unlearned-{number}" for number in numbers), *methods]


def embeddings() -> list[str]:
    """Names of the bundled embeddings."""
    return sorted(path.stem for path in (ROOT / "tiny" / "embeddings").glob("*.safetensors"))


def embedding(name: str) -> Path:
    """File of an embedding: the bundled one where `name` has neither a suffix nor a folder, else the path itself.

    Raises ``InputError`` for a bundled name that does not ship.
    """
    if Path(name).suffix or "/" in name or "\\" in name:
        return Path(name)
    if not (ROOT / "tiny" / "embeddings" / f"{name}.safetensors").is_file():
        known = ", ".join(embeddings()) or "none in this installation"
        raise InputError(f"embedding {name}", f"a .safetensors file, or a bundled one: {known}", "check the name")
    return folder() / "embeddings" / f"{name}.safetensors"


def file_of(given: str | os.PathLike[str]) -> Path:
    """File of a bundled embedding by name, else the path itself."""
    return embedding(str(given)) if isinstance(given, str) and given in embeddings() else Path(given)


def concept_images(given: str = "") -> Path:
    """Folder of images of the concept: the one given, or the bundled one."""
    return Path(given) if given else folder() / "concept"
