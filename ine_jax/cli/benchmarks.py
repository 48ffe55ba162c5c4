"""`ine benchmarks`: the published prompt sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from ine_jax.cli.command import Command, Outcome
from ine_jax.errors import InputError


@dataclass(frozen=True)
class Benchmarks(Command):
    """List the published prompt sets and where to get them, or check a copy of one; none is bundled or downloaded."""

    action: tyro.conf.Positional[Literal["list", "check"]] = "list"
    """list: all known prompt sets; check: rows, columns, selections and hash of a file."""
    name: tyro.conf.Positional[str] = ""
    """Name of a prompt set, for check."""
    file: tyro.conf.Positional[str] = ""
    """Your copy of it, for check."""
    encoding: str = ""
    """Encoding of the file, such as cp949; empty: the one of its byte order mark, or UTF-8."""

    def plan(self) -> Outcome:
        """Nothing is written in any case."""
        return self.run(())

    def run(self, line: Sequence[str]) -> Outcome:
        """List the sets, or compare the file with the published one."""
        from ine_jax.prompts import checking

        if bool(self.name) + bool(self.file) != (2 if self.action == "check" else 0):
            given = f"ine benchmarks {self.action} {self.name} {self.file}".rstrip()
            raise InputError(given, "list, or check with the name of a set and a file", "see `ine benchmarks list`")
        asked = (self.name, self.file, self.encoding)
        lines, values = checking.check(*asked) if self.action == "check" else checking.listing()
        return Outcome(tuple(lines), values)
