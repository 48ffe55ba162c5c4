"""From what a user gives, a path or a hub id, to files on this machine."""

import re
from collections.abc import Sequence
from pathlib import Path

from ine_jax.errors import InputError
from ine_jax.models import tensors
from ine_jax.models.checkpoints import STEMS

_REVISION = re.compile(r"[0-9A-Za-z][\w.\-/]{0,127}")
_ID = re.compile(r"[0-9A-Za-z][\w.\-]{0,95}/[\w.\-]{1,96}")
_WITHIN = re.compile(rf"({_ID.pattern})((?:/[\w.\-]{{1,128}}){{0,8}})(?:@({_REVISION.pattern}))?")
_WEIGHTS = ("safetensors", "bin", "pt", "ckpt", "msgpack")
_SIDE_FILES = ["model_index.json", "scheduler/*.json", "tokenizer/*.json", "tokenizer/*.txt"]


def pipeline_folder(path_or_id: str | Path, revision: str | None, variant: str | None) -> Path:
    """A local folder if there is one of that name, else the hub's copy; only the files that are read are fetched.

    Components without safetensors come as ``.bin``, or else as ``.msgpack``. Raises :class:`InputError` for a path that
    is no folder, and where the hub does not give it.
    """
    folder = Path(path_or_id)
    if folder.is_dir():
        return folder
    name = str(path_or_id)
    if folder.is_file():
        raise InputError(f"{name} is a file", "a diffusers pipeline folder", f"load(BASE, unlearned={name!r})")
    if not isinstance(path_or_id, str) or not _ID.fullmatch(name):
        raise InputError(f"no folder {name}", "a diffusers pipeline folder or a hub id (owner/name)", "check the path")
    tag = f".{variant}" if variant else ""
    patterns = list(_SIDE_FILES)
    for component, stem in STEMS.items():
        held = ("config.json", f"{stem}{tag}.safetensors", f"{stem}.safetensors.index{tag}.json")
        patterns += [f"{component}/{file}" for file in (*held, f"{stem}-*-of-*{tag}.safetensors")]
    found = _download(name, revision, patterns)
    for suffix in ("bin", "msgpack"):
        lacking = [part for part, stem in STEMS.items() if not tensors.has_weights(found / part, stem)]
        if lacking and not variant:
            found = _download(name, revision, [*_SIDE_FILES, *(f"{part}/*.{suffix}*" for part in lacking)])
    return found


def checkpoint_path(path_or_id: str | Path) -> Path:
    """A local file or folder if there is one, else the hub's: ``owner/name[/file or folder][@revision]``.

    Raises :class:`InputError` where neither is there.
    """
    path = Path(path_or_id)
    if path.exists():
        return path
    match = _WITHIN.fullmatch(str(path_or_id)) if isinstance(path_or_id, str) else None
    if match is None or ".." in str(path_or_id):
        allowed = "a file, a folder, or owner/name[/file or folder][@revision] of the hub"
        raise InputError(f"{path}: no such file or folder", allowed, "check the path")
    name, within, revision = match[1], match[2].strip("/"), match[3]
    single = within.rsplit(".", 1)[-1] in _WEIGHTS
    start = f"{within}/" if within else ""
    wanted = [within] if single else [f"{start}*.json", *(f"{start}*.{suffix}" for suffix in _WEIGHTS)]
    found = _download(name, revision, wanted) / within
    if not found.exists():
        raise InputError(f"{name} holds no {within}", "a file or folder of that repository", "check the name")
    return found


def _download(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    if revision is not None and not _REVISION.fullmatch(revision):
        raise InputError(f"revision {revision!r}", "a commit, branch or tag", "give a commit hash to be reproducible")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # offline, unknown id, gated, disk full: the library raises many kinds
        raise InputError(
            f"{name} is no local folder, and the hub did not give it: {str(error).strip() or type(error).__name__}",
            "a local diffusers folder, or a hub id where a network exists",
            "copy the folder here and give its path",
        ) from error
