"""Compares everything that this package writes or ships with its recorded hashes, for `ine verify`."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from ine_jax import assets
from ine_jax.cli import receipt
from ine_jax.config.unlearning import UnlearnMethod
from ine_jax.embeddings.containers import HASH, FormatError, parse_safetensors, read_capped
from ine_jax.errors import CorruptRunError, InputError
from ine_jax.evaluation.verify import report_faults, report_files, verify
from ine_jax.storage.sealed import SUMS, WRONG, Verified, has_hash, read_sums, sums_faults
from ine_jax.storage.untrusted import MAX_RECORDS, read
from ine_jax.storage.weight_files import read_json
from ine_jax.training.finished import TIMES

KINDS = "a run, demo, training or report directory, weights or an embedding of this package, or a bundled model"


def sound(path: str | Path) -> Verified:
    """As `verified`, but raise CorruptRunError if there are faults; it names the first ones and counts all."""
    found = verified(path)
    if found.faults:
        names = [fault.removeprefix(f"{path}/").split(": ")[0] for fault in found.faults[:3]]
        more = f" and {len(found.faults) - 3} more" if len(found.faults) > 3 else ""
        raise CorruptRunError(f"{path}: damaged: {', '.join(names)}{more}", f"no faults; read: {found}", _todo(found))
    return found


def _todo(found: Verified) -> str:
    if found.kind == "run directory":
        return "remove these blocks or scores; the same `ine evaluate` and `ine report` write them again"
    return "install the package again" if found.kind == "bundled files" else "take an undamaged copy, or make it again"


def verified(given: str | Path) -> Verified:
    """Read every byte of an artifact again. InputError for any other path, or one without hashes."""
    path = Path(given)
    for root in (path, *path.absolute().parents):
        if (root / assets.MANIFEST).is_file() and (root / "tiny" / "world.json").is_file():
            return _assets(root)
    if str(given) in assets.names():
        return _assets(assets.ROOT)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder", KINDS, "check the path")
    if path.is_file():
        return _file(path)
    if (path / "run.json").is_file():
        return verify(path)
    if (path / "config.json").is_file() and (path / "checkpoints").is_dir():
        return _training(path)
    if (path / "evaluation" / "run.json").is_file() or any(path.glob("inversion/*/config.json")):
        return _demo(path)
    if (path / SUMS).is_file():
        return Verified("report", {"derived files": report_files(path)}, tuple(report_faults(path)))
    raise InputError(f"{path}: holds nothing with hashes", KINDS, "check the path")


def _assets(root: Path) -> Verified:
    wrong = tuple(f"{root / name}: {why}" for name, why in assets.faults(root).items())
    return Verified("bundled files", {"files": len(assets.manifest(root).splitlines())}, wrong)


def _file(path: Path) -> Verified:
    """An embedding by the hash in its header, any other file by the list beside it."""
    beside = read_sums(path.parent).get(path.name) if (path.parent / SUMS).is_file() else None
    if beside is not None:
        return Verified("file", {"files": 1}, () if has_hash(path, beside) else (f"{path}: {WRONG}",))
    # only this suffix: any other file is none of ours, and a damaged one of ours may have any bytes
    hashed, faults = _embedding(path) if path.suffix == ".safetensors" else (False, ())
    if not hashed:
        allowed = f"a file of `ine invert`, or one that {SUMS} beside it lists"
        raise InputError(f"{path}: it has no hash", allowed, "verify its directory, or compare it with its source")
    return Verified("embedding", {"files": 1}, faults)


def _embedding(path: Path) -> tuple[bool, tuple[str, ...]]:
    """Whether a file has a hash in its header, or cannot be read, and what is wrong with it."""
    try:
        return HASH in parse_safetensors(read_capped(path))[1], ()
    except FormatError as error:
        return True, (f"{path}: {error}",)


def _training(path: Path) -> Verified:
    """A finished one by its lists. One at work, or of an earlier version, has none: its embeddings are read."""
    kind = _kind(path)
    if not (path / SUMS).is_file():
        found = [_embedding(file) for file in sorted(path.rglob("*.safetensors"))] if kind == "inversion" else []
        faults = [*(fault for _, each in found for fault in each), *_receipt(path)]
        read = {"embeddings with a hash": sum(hashed for hashed, _ in found)}
        return Verified(f"{kind} without {SUMS}", read, tuple(faults))
    missing = () if (path / TIMES).is_file() else (f"{path / TIMES}: missing",)
    faults = [*sums_faults(path), *sums_faults(path, TIMES), *missing, *_receipt(path)]
    return Verified(kind, {"files": sum(map(_count, (path / SUMS, path / TIMES)))}, tuple(faults))


def _kind(path: Path) -> str:
    try:
        config = read_json(path / "config.json")
    except InputError:
        config = {}
    kinds = {"concepts": "inversion", "attack": "attack", **dict.fromkeys(get_args(UnlearnMethod), "unlearned model")}
    return next((kind for key, kind in kinds.items() if key in config), "training")


def _count(path: Path) -> int:
    return read(path, MAX_RECORDS).count(b"\n") if path.is_file() else 0


def _receipt(path: Path) -> Iterator[str]:
    try:
        receipt.read(path)
    except CorruptRunError as error:
        yield error.given


def _demo(path: Path) -> Verified:
    found = Verified("demo", {}, ())
    for folder in sorted(each.parent for each in path.glob("inversion/*/config.json")):
        found += _training(folder)
    if (path / "evaluation" / "run.json").is_file():
        found += verify(path / "evaluation")
    return found + Verified("report", {"derived files": report_files(path)}, tuple(report_faults(path)))
