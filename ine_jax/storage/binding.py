"""Is this the same run? A directory keeps all settings that change its result, and accepts no others."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ine_jax.errors import InputError
from ine_jax.storage import untrusted
from ine_jax.storage.atomic import write_json

FIELDS_SHOWN = 3


def bind(
    directory: Path,
    settings: Mapping[str, object],
    name: str = "config.json",
    *,
    fresh: bool = False,
    write: bool = True,
) -> None:
    """Store the settings (values for JSON) of a new run in `directory`, or check that they are those of the run there.

    Args:
        name: the file in `directory` that keeps them.
        fresh: replace what is stored, because the earlier run has not finished anything yet.
        write: whether this process may store them; in a multi-host run only process 0 does.
    """
    path = directory / name
    if not fresh and path.is_file():
        require_bound(directory, settings, name)
    elif write:
        write_json(path, settings)


def require_bound(directory: Path, settings: Mapping[str, object], name: str = "config.json") -> None:
    """Raise InputError where `directory` is that of a run with other settings."""
    path = directory / name
    if not path.is_file():
        return
    data = untrusted.read(path, untrusted.MAX_JSON)
    try:
        stored = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged", "the settings of a run, as JSON", "choose another directory") from error
    require_same(directory, stored, settings)


def require_free(directory: Path, *own: str) -> None:
    """Raise InputError unless `directory` is new, empty, or has one of the files or folders of a run, `own`."""
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file", "a folder", "choose another one")
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    if not set(own) & set(names) and any(not name.startswith(".") for name in names):
        raise InputError(f"folder {directory} holds other files", "a new or empty folder", "choose another one")


def usable_folder(out: str, settings: Mapping[str, object], name: str, *, numbered: bool) -> Path:
    """Return `out` where it is free or bound to these settings; with `numbered` else the first such of `out-2`, ...

    Raises InputError where `out` is neither, and not `numbered`.
    """
    number, folder = 1, Path(out)
    while True:
        try:
            require_free(folder, name)
            require_bound(folder, settings, name)
            return folder
        except InputError:
            if not numbered:
                raise
            number += 1
            folder = Path(f"{out}-{number}")


def require_same(directory: Path, stored: object, settings: Mapping[str, object]) -> None:
    """Raise InputError, naming the fields, where `settings` are not those that the run was started with."""
    require_no_difference(directory, difference(stored, json.loads(json.dumps(settings))))


def require_no_difference(directory: Path, fields: Sequence[str]) -> None:
    """Raise InputError, naming the fields, unless there are none."""
    if fields:
        more = f"; and {len(fields) - FIELDS_SHOWN} more" if len(fields) > FIELDS_SHOWN else ""
        raise InputError(
            f"{directory} was started with other settings: {'; '.join(fields[:FIELDS_SHOWN])}{more}",
            "the settings it was started with",
            "restore them, or choose another directory",
        )


def difference(old: object, new: object, field: str = "") -> list[str]:
    """List the fields in which two JSON values differ, as "sampler.steps: 12 -> 20". A missing field equals null."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in difference(old.get(key), new.get(key), f"{field}.{key}" if field else str(key))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, (a, b) in pairs for line in difference(a, b, f"{field}[{i}]")]
    return [] if old == new else [f"{field}: {_short(old)} -> {_short(new)}"]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 48 else f"{text[:45]}..."
