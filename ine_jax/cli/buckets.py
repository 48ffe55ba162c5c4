"""Addresses in a bucket among the words of a command: inputs become local copies, results go to working copies.

A command works with local paths throughout. What it prints, and the errors it raises, name the addresses again.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ine_jax.cli.command import Command, Outcome
from ine_jax.config import GenerateConfig, ModelConfig
from ine_jax.errors import IneError
from ine_jax.storage.bucket.address import Address, is_address, parse

# Fields that name files or folders; all others are texts, whatever they begin with.
_MODELS = ("model", "base", "unlearned", "source", "weights")
INPUTS = (*_MODELS, "images", "preserve_images", "prompts", "prompts_file", "latents", "embedding", "clip_g", "file")
DIRECTORIES = ("out", "directory", "directories", "target")
EITHER = ("path",)  # read only: a directory with results, or any file or folder
FILES = (".safetensors", ".bin", ".pt", ".npy", ".npz", ".json")  # a result with such a name is one file
_TIMES = re.compile(r"(.+?)(:[-+]?[\d.]+(?:e[-+]?\d+)?)?", re.DOTALL | re.IGNORECASE)  # `file:0.8` scales a LoRA


class Places:
    """The local paths of the addresses of one command."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        """Working copies are open until the stack is closed."""
        self._stack = stack
        self._opened: dict[Address, Path] = {}
        self._shown: dict[str, str] = {}

    def input(self, given: str) -> str:
        """The local copy of an object or folder."""
        from ine_jax.storage.bucket import inputs

        match = _TIMES.fullmatch(given)
        place, times = (match[1], match[2] or "") if match else (given, "")
        address = parse(place)
        return f"{self._note(inputs.local(address), address)}{times}"

    def directory(self, given: str) -> str:
        """The working copy of a directory, or of one file."""
        from ine_jax.storage.bucket import mirror

        address = parse(given)
        if address not in self._opened:
            single = Path(address.name).suffix in FILES
            copy = mirror.working_file(address) if single else mirror.working(address)
            self._opened[address] = self._stack.enter_context(copy)
        return self._note(self._opened[address], address)

    def either(self, given: str) -> str:
        """A directory with results, or any file or folder."""
        from ine_jax.storage.bucket import mirror

        return self.directory(given) if mirror.is_directory(parse(given)) else self.input(given)

    def back(self, text: str) -> str:
        """A text with the addresses in place of the local paths."""
        for path in sorted(self._shown, key=len, reverse=True):
            text = text.replace(path, self._shown[path])
        return text

    def shown(self, outcome: Outcome) -> Outcome:
        """An outcome with the addresses in place of the local paths."""
        found = _mapped(outcome.result, self.back)
        return Outcome(tuple(map(self.back, outcome.lines)), found if isinstance(found, dict) else {})

    def _note(self, path: Path, address: Address) -> str:
        self._shown[str(path)] = str(address)
        return str(path)


@contextlib.contextmanager
def resolved(command: Command) -> Iterator[tuple[Command, Places]]:
    """The command with local paths.

    Raises:
        InputError: an address that cannot be read; also what the command raises, with addresses in its text.
        StorageError: the object store fails.
    """
    with contextlib.ExitStack() as stack:
        places = Places(stack)
        try:
            yield _walk(command, places), places
        except IneError as error:
            error.given, error.allowed, error.todo = map(places.back, (error.given, error.allowed, error.todo))
            raise
        except OSError as error:
            if error.filename is not None:
                error.filename = places.back(str(error.filename))
            raise


def _walk(record: Any, places: Places) -> Any:
    """A record with local paths in the fields that name files or folders; itself where there is none."""
    changes: dict[str, object] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _walk(value, places)
        elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
            changes[field.name] = tuple(_walk(item, places) for item in value)
        elif (read := _reader(record, field.name, places)) is not None:
            changes[field.name] = _mapped(value, functools.partial(_local, read))
    changes = {name: value for name, value in changes.items() if value != getattr(record, name)}
    if isinstance(record, ModelConfig) and "model" in changes:
        changes.setdefault("name", record.label)  # what tables and records call it, on every machine
    return dataclasses.replace(record, **changes) if changes else record


def _local(read: Callable[[str], str], text: str) -> str:
    return read(text) if is_address(text) else text


def _reader(record: object, name: str, places: Places) -> Callable[[str], str] | None:
    """How a field's addresses are read."""
    if name in DIRECTORIES:
        return places.directory
    if name in EITHER:
        return places.either
    prompts = isinstance(record, GenerateConfig) and name == "prompts"
    return places.input if name in INPUTS and not prompts else None


def _mapped(value: object, change: Callable[[str], str]) -> object:
    """A value with all its texts and paths changed."""
    match value:
        case dict():
            return {key: _mapped(item, change) for key, item in value.items()}
        case list() | tuple():
            return type(value)(_mapped(item, change) for item in value)
        case Path():
            return type(value)(change(str(value)))
        case str():
            return change(value)
    return value
