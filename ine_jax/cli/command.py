"""What the commands of `ine` share: their two flags, what they print, and how they describe a plan.

A command is a frozen record: its fields are the flags, its docstring is the help, `plan` answers `--dry-run` and `run`
does the work. Modules that load JAX are imported inside these methods, so that help and plans start fast.
"""

import abc
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro
import yaml

from ine_jax.errors import InputError

_LOADED = ("model", "base", "models", "source", "path", "directory", "directories")
Flat = tyro.conf.arg(name="")  # the fields of the config become flags without a prefix


@dataclass(frozen=True)
class Outcome:
    """The lines that a command prints, and the values of its `--json` line."""

    lines: tuple[str, ...]
    result: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Command(abc.ABC):
    """The flags of every command."""

    dry_run: bool = False
    """Print the plan and write nothing."""
    json: bool = False
    """Print one machine-readable result as the last line."""

    @classmethod
    def command_name(cls) -> str:
        """The word after `ine`: the name of the class in lower case, `ConvertModel` as `convert-model`."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()

    def opening(self) -> str:
        """One line that names what is loaded first: models, files and directories."""
        config = getattr(self, "config", self)
        found = [getattr(record, name, None) for record in (config, self) for name in _LOADED]
        several = [each for one in found if one for each in (one if isinstance(one, tuple) else (one,))]
        names = dict.fromkeys(str(getattr(each, "label", each)) for each in several)
        return f"ine {self.command_name()}: loading {', '.join(names) or 'its files'}"

    @abc.abstractmethod
    def run(self, line: Sequence[str]) -> Outcome:
        """Do the work, or raise an `IneError`. `line` is the whole command line, for commands that record it."""

    def plan(self) -> Outcome:
        """Describe what `run` would do, without writing anything or loading a model."""
        return self.planned()

    def planned(self, **work: object) -> Outcome:
        """The plan as text and values: the settings, further facts in `work`, and the directory that is written."""
        values = dataclasses.asdict(self)
        flags = {key: value for key, value in values.items() if key not in ("dry_run", "json", "shard")}
        settings = _plain(values.get("config", flags))
        lines = [f"plan of ine {self.command_name()} (nothing is written)"]
        lines += yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=110).splitlines()
        lines += [f"{key}: {value}" for key, value in work.items()]
        out = getattr(getattr(self, "config", self), "out", None)
        if out:
            lines.append(f"writes: {out} ({'exists: continues' if Path(out).exists() else 'new'})")
        return Outcome(tuple(lines), {"config": settings, **work, "out": out})


def _plain(value: object) -> object:
    """`value` in the types of YAML: tuples become lists, paths become text."""
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case Path():
            return str(value)
    return value


def sources(places: Iterable[str], checkpoints: Iterable[str] = ()) -> dict[str, object]:
    """Check models and checkpoints that are here, and list under "from the hub" what would be downloaded."""
    from ine_jax import assets

    remote = []
    for name in places:
        if assets.resolve(name) is None and not Path(name).exists():
            if name.startswith((".", "/")) or name.count("/") > 1 or ("/" in name and Path(name).parent.is_dir()):
                allowed = "a bundled name, a path, or a hub id (owner/name)"
                raise InputError(f"{name}: no such folder or file", allowed, "check the path")
            remote.append(name)
    for given in checkpoints:
        from ine_jax.models.checkpoints import hub

        if hub.elsewhere(given):
            remote.append(given)
        else:
            hub.open_checkpoints([given])
    return {"from the hub": list(dict.fromkeys(remote))} if remote else {}
