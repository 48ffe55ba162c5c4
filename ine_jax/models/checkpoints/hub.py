"""From what a user gives, a path or a hub id, to files on this machine."""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import recognize, tensors
from ine_jax.models.checkpoints.recognize import STEMS, Checkpoint

_REVISION = re.compile(r"[0-9A-Za-z][\w.\-/]{0,127}")
_ID = re.compile(r"[0-9A-Za-z][\w.\-]{0,95}/[\w.\-]{1,96}")
_WITHIN = re.compile(rf"({_ID.pattern})((?:/[\w.\-]{{1,128}}){{0,8}})(?:@({_REVISION.pattern}))?")
_TIMES = re.compile(r"(.+):([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)", re.DOTALL)
_WEIGHTS = ("safetensors", "bin", "pt", "ckpt", "msgpack")
_MODEL_FILES = ["*.json", "*.txt", "model.safetensors", "model-*-of-*.safetensors"]
_SIDE_FILES = ["model_index.json", "scheduler/*.json", "tokenizer/*.json", "tokenizer/*.txt"]


def pipeline_folder(path_or_id: str | Path, revision: str | None, variant: str | None) -> Path:
    """A local folder if there is one of that name, else the hub's copy; only the files that are read are fetched.

    Components without safetensors come as `.bin`, or else as `.msgpack`. Raises `InputError` for a path that
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


def model_folder(path_or_id: str | Path, revision: str | None) -> Path:
    """Folder of one model of transformers: a local one if there is one of that name, else the hub's copy.

    A full commit hash that is in the cache already is taken from there, without asking the hub.
    """
    folder = Path(path_or_id)
    if not folder.is_dir():
        name = str(path_or_id)
        if not isinstance(path_or_id, str) or not _ID.fullmatch(name):
            raise InputError(f"no folder {name}", "a folder of transformers or a hub id (owner/name)", "check the path")
        cached = _cached(name, revision)
        folder = cached if cached and _is_model(cached) else _downloaded(name, revision)
    if not _is_model(folder):
        allowed = "config.json beside model.safetensors or pytorch_model.bin"
        raise InputError(f"{folder} holds no model", allowed, "give the folder that transformers writes")
    return folder


def _cached(name: str, revision: str | None) -> Path | None:
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        return None
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _downloaded(name: str, revision: str | None) -> Path:
    found = _download(name, revision, _MODEL_FILES)
    if not tensors.has_weights(found, "model"):
        found = _download(name, revision, [*_MODEL_FILES, "pytorch_model*.bin*"])
    return found


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and tensors.has_weights(folder, "model")


def checkpoint_path(path_or_id: str | Path) -> Path:
    """A local file or folder if there is one, else the hub's: `owner/name[/file or folder][@revision]`."""
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


def open_checkpoints(given: Sequence[str | Path]) -> tuple[list[Checkpoint], dict[str, Path]]:
    """What stands at each of the places, opened in order, and its files: `unlearned-<number>/<name>` → path.

    A place is what `checkpoint_path` takes; the text `place:0.8` is a LoRA (or a folder of them) added 0.8
    times, and its files are `unlearned-<number>:0.8/<name>`. Raises `InputError` as
    `checkpoints.read` does, and for a multiplier of anything but a LoRA.
    """
    opened: list[Checkpoint] = []
    files: dict[str, Path] = {}
    for number, one in enumerate(given):
        place, times = _multiplied(one)
        path = checkpoint_path(place)
        found = [_scaled(each, times) for each in recognize.recognize_checkpoints(path)]
        top = path if path.is_dir() else path.parent
        prefix = f"unlearned-{number}" if times == 1 else f"unlearned-{number}:{times!r}"
        files |= {f"{prefix}/{file.relative_to(top)}": file for each in found for file in each.files}
        opened += found
    return opened, files


def elsewhere(given: str) -> bool:
    """Whether a place is to be had from the hub: not here, nor below a folder that is here."""
    place = str(_multiplied(given)[0])
    here = Path(place).exists() or Path(place.split("/")[0]).is_dir()
    return not here and ".." not in place and _WITHIN.fullmatch(place) is not None


def _multiplied(given: str | Path) -> tuple[str | Path, float]:
    match = _TIMES.fullmatch(given) if isinstance(given, str) and not Path(given).exists() else None
    return (match[1], float(match[2])) if match else (given, 1.0)


def _scaled(found: Checkpoint, times: float) -> Checkpoint:
    if times == 1:
        return found
    if not found.factors or not math.isfinite(times):
        given = f"{found.path}, {found.kind}, {times:g} times"
        raise InputError(given, "a finite number of times, for a LoRA", "leave the multiplier out")
    factors = {where: dataclasses.replace(one, scale=times * one.scale) for where, one in found.factors.items()}
    return dataclasses.replace(found, factors=factors, times=times)


def _download(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    if revision is not None and not _REVISION.fullmatch(revision):
        raise InputError(f"revision {revision!r}", "a commit, branch or tag", "give a commit hash to be reproducible")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # offline, unknown id, gated, disk full: the library raises many kinds
        given = f"{name} is no local folder, and the hub did not give it: {str(error).strip() or type(error).__name__}"
        allowed = "a local diffusers folder, or a hub id where a network exists"
        raise InputError(given, allowed, "copy the folder here and give its path") from error
