"""A guard as a custom pipeline of diffusers: one Python file that holds the code, the settings and the embedding.

The code is `templates/diffusers_pipeline.py.txt`. diffusers copies it out of its folder before it runs, so the settings
and the vectors are literals inside it. All copies go to one folder, where Python takes a file of the same name, size
and second for the one that it compiled before. So the name holds a hash of the content.
"""

import ast
import base64
import dataclasses
import hashlib
import pprint
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ine_jax.config import GuidanceConfig, NegativeConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError, StorageError
from ine_jax.guidance.from_config import concept
from ine_jax.guidance.sld import SLD_PRESETS
from ine_jax.storage import untrusted
from ine_jax.storage.atomic import atomic_folder, write_atomic

METHODS = ("negative", "sld")
_TEMPLATES = Path(__file__).parent / "templates"
_PLACE = "GUARD: dict[str, Any] = {}\n"
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class ExportedGuard:
    """A written guard.

    Attributes:
        path: the file, for `custom_pipeline` of diffusers.
        method: "negative" or "sld".
        negative: what it avoids, in words.
        use: a line of Python that loads it.
    """

    path: Path
    method: str
    negative: str
    use: str


def export_guard(
    negative: NegativeConfig, guidance: GuidanceConfig, target: Path, *, dry_run: bool = False
) -> ExportedGuard:
    """Write a guard as a file that `DiffusionPipeline.from_pretrained` loads as `custom_pipeline`.

    Args:
        negative: the concept to avoid: words, embeddings or a blend.
        guidance: method negative or sld, with their scales and the interval.
        target: a new folder for the file.
        dry_run: write nothing.

    Raises:
        InputError: no negative, another method, an embedding that cannot be read, or `target` exists.
        StorageError: the file does not read back as it was written.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise InputError(f"{target} exists", "a new folder", "name another, or remove it")
    settings = guard_settings(negative, guidance)
    literal = pprint.pformat(settings, width=110, sort_dicts=False)
    code = _template("diffusers_pipeline.py.txt").replace(_PLACE, _PLACE.replace("{}", literal))
    name = f"ine_guard_{hashlib.sha256(code.encode()).hexdigest()[:16]}.py"
    path = target / name
    use = f"DiffusionPipeline.from_pretrained(MODEL, custom_pipeline={str(path)!r}, trust_remote_code=True)"
    done = ExportedGuard(path, str(settings["method"]), _described(negative), f"diffusers: {use}")
    if not dry_run:
        with atomic_folder(target) as temporary:
            write_atomic(temporary / name, code, shared=True)
            if stored_settings(temporary / name) != settings:
                raise StorageError(f"{path} does not read back as written", "", "check the disk; write it again")
    return done


def guard_settings(negative: NegativeConfig, guidance: GuidanceConfig) -> dict[str, object]:
    """Return the literal of the file: the method's numbers, and the negative with its vectors in base64.

    Raises:
        InputError: as in `export_guard`.
    """
    used = guidance.resolved()
    if used.method not in METHODS:
        raise InputError(f"guidance method {used.method}", " or ".join(METHODS), "change guidance.method")
    found = concept(negative)
    if found is None:
        raise InputError("a guard without a negative", "words, an embedding, or both", "give negative.embedding")
    numbers = {**SLD_PRESETS[used.sld.preset], **used.sld.overrides(), "warmup_unit": used.sld.warmup_unit}
    return {
        "method": used.method,
        "scale": used.scale,
        "negative_scale": used.negative_scale,
        "interval": list(used.interval),
        **(numbers if used.method == "sld" else {}),
        "words": list(found.words),
        "template": found.template,
        "blend": found.blend,
        "embeddings": [_vectors(each) for each in found.embeddings],
    }


def stored_settings(path: Path) -> object:
    """Return the literal of an exported file, without running it."""
    for node in ast.parse(untrusted.read(path, _MAX_BYTES)).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "GUARD" and node.value is not None:
            return ast.literal_eval(node.value)
    raise InputError(f"{path} holds no guard", "a file of ine export-guard", "check the path")


def _vectors(embedding: Embedding) -> dict[str, object]:
    vectors = np.ascontiguousarray(embedding.vectors, "<f4")
    data = base64.b64encode(vectors.tobytes()).decode()
    about = {"concept": embedding.concept, "space": embedding.space, "base_model": embedding.base_model}
    return {**about, "shape": list(vectors.shape), "float32": data}


def _described(negative: NegativeConfig) -> str:
    given = {name: value for name, value in dataclasses.asdict(negative).items() if value and name != "name"}
    return ", ".join(f"{name} {value}" for name, value in given.items() if (name, value) != ("template", "{}"))


def _template(name: str) -> str:
    return untrusted.read(_TEMPLATES / name, _MAX_BYTES).decode()
