"""`ine configs`: the config files that ship with the package."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ine_jax.cli.command import Command, Outcome
from ine_jax.config import shipped, yaml_file
from ine_jax.errors import InputError
from ine_jax.storage import untrusted


@dataclass(frozen=True)
class Configs(Command):
    """List the config files that ship with the package, or copy them; no file is overwritten."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files or folders of the list, such as invert/tiny.yaml or sd; none: all."""
    to: Path | None = None
    """Folder to copy them into, such as configs; empty: they are listed."""

    def plan(self) -> Outcome:
        """Check what would be copied."""
        return self._outcome(write=False)

    def run(self, line: Sequence[str]) -> Outcome:
        """List or copy the files."""
        return self._outcome(write=True)

    def _outcome(self, write: bool) -> Outcome:
        contents = {
            name: untrusted.read(path, yaml_file.MAX_BYTES) for name, path in shipped.chosen(self.names).items()
        }
        if self.to is None:
            width = max(map(len, contents))
            lines = [f"{name:<{width}}  {_about(data)}" for name, data in contents.items()]
            hint = "copy them: ine configs --to configs"
            return Outcome((*lines, hint), {"configs": list(contents)})
        targets = {self.to / name: data for name, data in contents.items()}
        new = {path: data for path, data in targets.items() if not path.exists()}
        changed = [path for path in targets.keys() - new.keys() if _differs(path, targets[path])]
        if changed:
            raise InputError(
                f"{min(changed)} exists and is another file", "new files", "choose another folder with --to"
            )
        if write:
            from ine_jax.storage.atomic import write_atomic

            for path, data in new.items():
                write_atomic(path, data, shared=True, new=True)
        state, left = "copied" if write else "to copy (dry run)", len(targets) - len(new)
        done = f"{self.to}: {len(new)} files {state}, {left} already there"
        return Outcome((done,), {"out": str(self.to), "configs": [str(path) for path in new]})


def _read(path: Path) -> bytes:
    return untrusted.read(path, yaml_file.MAX_BYTES)


def _differs(path: Path, data: bytes) -> bool:
    return not path.is_file() or _read(path) != data


def _about(data: bytes) -> str:
    """The first comment line of a file."""
    lines = data.decode("utf-8", "replace").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("# ")), "")
