"""From the words of a command line to one command: tyro reads the flags, a YAML file gives their defaults.

tyro reports a rejected word through its hook for parse errors, which carries the flag, the value and the choices. The
hook is private to tyro, so its version is pinned to 1.0.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Union

import tyro
from tyro import _errors
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from ine_jax.cli.attack import Attack
from ine_jax.cli.bench import Bench
from ine_jax.cli.benchmarks import Benchmarks
from ine_jax.cli.command import Command
from ine_jax.cli.configs import Configs
from ine_jax.cli.convert import Convert
from ine_jax.cli.convert_model import ConvertModel
from ine_jax.cli.demo import Demo
from ine_jax.cli.evaluate import Evaluate
from ine_jax.cli.export_guard import ExportGuard
from ine_jax.cli.generate import Generate
from ine_jax.cli.inspect import Inspect
from ine_jax.cli.invert import Invert
from ine_jax.cli.publish import Publish
from ine_jax.cli.report import Report
from ine_jax.cli.score import Score
from ine_jax.cli.tensorboard import Tensorboard
from ine_jax.cli.unlearn import Unlearn
from ine_jax.cli.verify import Verify
from ine_jax.config import DetectorConfig, MetricConfig, ModelConfig, PromptsConfig, yaml_file
from ine_jax.errors import InputError, clean, is_plain
from ine_jax.storage.bucket.address import is_address
from ine_jax.storage.bucket.address import parse as parse_address

COMMANDS: tuple[type[Command], ...] = (
    Demo,
    Invert,
    Generate,
    Evaluate,
    Score,
    Report,
    Publish,
    Tensorboard,
    Verify,
    Unlearn,
    Attack,
    Inspect,
    Convert,
    ConvertModel,
    ExportGuard,
    Bench,
    Benchmarks,
    Configs,
)
ABOUT = """Implicit negative embeddings for unlearned diffusion models.

A command with a config takes a YAML file first; flags override it: ine invert configs/invert/tiny.yaml
--inversion.steps 100.

Paths of inputs and results may be gs:// or s3:// addresses (extras gcs and s3).

Every command has --help, --dry-run (print the plan, write nothing) and --json (print one line for machines last).

Exit codes: 0 done, 2 wrong input, 3 numerical failure, 4 failed items, 5 damaged files, 74 a full or failing disk or
store, 75 interrupted (after both the same command continues), 1 a bug."""
_YAML = (".yaml", ".yml")
_SHORTHANDS = (ModelConfig, PromptsConfig, DetectorConfig, MetricConfig)
_KINDS: dict[object, str] = {int: "a whole number", float: "a number", bool: "true or false"}
_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _shorthand(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[object] | None:
    """Read a word as a record with only its first field given, or a word in braces as YAML of its fields."""
    record: Any = kind.type
    if record not in _SHORTHANDS:
        return None
    first = dataclasses.fields(record)[0].name

    def read(words: list[str]) -> object:
        (word,) = words
        return yaml_file.loads(word, record) if word.startswith("{") else record(word)

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=first.upper(),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, record),
        str_from_instance=lambda value: [str(getattr(value, first))],
    )


def parse(words: Sequence[str]) -> Command:
    """Return the command that `words` name, with its flags; a YAML file among them gives the flags' defaults.

    Raises SystemExit with code 0 after the help was printed.
    """
    for word in words:
        if not is_plain(word):
            given = f"ine: the word {clean(ascii(word), 80)}"
            raise InputError(given, "words in UTF-8 without NUL", "correct it; a file may have to be renamed")
    names = {kind.command_name(): kind for kind in COMMANDS}
    first, rest = words[0], list(words[1:])
    if first not in names:
        if first not in ("-h", "--help"):
            near = difflib.get_close_matches(first, [*names, "--help", "--version"], n=1)
            todo = f"did you mean `ine {near[0]}`?" if near else "see ine --help"
            kind = "option" if first.startswith("-") else "command"
            raise InputError(f"ine: unknown {kind} {first}", ", ".join(names), todo)
        return _read(words, None)
    command, prog = names[first](), f"ine {first}"
    if config := typing.get_type_hints(names[first]).get("config"):
        rest, path = _take_config(rest, by_suffix=_has_positionals(names[first]))
        if path is not None:
            command = names[first](config=yaml_file.load(_here(path), config))  # type: ignore[call-arg]
    try:
        return _read([first, *rest], command)
    except InputError as error:
        given = error.given if error.given.startswith(prog) else f"{prog}: {error.given}"
        raise InputError(given, error.allowed, error.todo) from error


def _here(path: str) -> str:
    """The local copy of a config file that is in a bucket."""
    if not is_address(path):
        return path
    from ine_jax.storage.bucket import inputs

    return str(inputs.local(parse_address(path)))


def _read(words: Sequence[str], default: Command | None) -> Command:
    """Let tyro parse the words; the command of `default` starts from its values."""
    marked = [
        Annotated[kind, tyro.conf.subcommand(kind.command_name(), default=default, description=_help(kind))]
        if isinstance(default, kind)
        else Annotated[kind, tyro.conf.subcommand(kind.command_name())]
        for kind in COMMANDS
    ]

    def reject(event: _errors.ParseErrorEvent) -> None:
        raise _rejection(event, default)

    union: Any = Union[tuple(marked)]  # noqa: UP007  built from a list
    with _errors.on_parse_error(reject):
        command: Command = tyro.cli(
            union,
            prog="ine",
            description=ABOUT,
            args=words,
            config=(tyro.conf.FlagCreatePairsOff,),
            registry=_REGISTRY,
        )
    return command


def _help(kind: type[Command]) -> str:
    """The docstring of a command and, where it has a config, how to give a file."""
    file = f"\n\nFlags override a config file: ine {kind.command_name()} CONFIG.yaml --flag value"
    return (kind.__doc__ or "") + (file if "config" in kind.__dataclass_fields__ else "")


def _take_config(words: list[str], by_suffix: bool) -> tuple[list[str], str | None]:
    """Split the config file off: the word with a YAML suffix, or else the first word unless `by_suffix`."""
    named = [i for i, word in enumerate(words) if word.endswith(_YAML) and not word.startswith("-")]
    if not named and not by_suffix and words and not words[0].startswith("-"):
        named = [0]
    if len(named) > 1:
        given = f"{len(named)} config files: {', '.join(words[i] for i in named)}"
        raise InputError(given, "one YAML file, then flags that override it", "run once for each")
    return [word for i, word in enumerate(words) if i not in named], words[named[0]] if named else None


def _rejection(event: _errors.ParseErrorEvent, command: Command | None) -> InputError:
    """One error for what tyro rejects: the flag and value, what is allowed, and the nearest flag or the help."""
    prog = f"ine {command.command_name()}" if command else "ine"
    see = f"see {prog} --help"
    match event:
        case _errors.UnrecognizedArgs(tokens=[word, *_]):
            flag = word.partition("=")[0].replace("_", "-")
            near = difflib.get_close_matches(flag, _flags(command), n=1) if command else []
            kind = "option" if word.startswith("-") else "argument"
            return InputError(f"{prog}: unknown {kind} {word}", "", f"did you mean {near[0]}? ({see})" if near else see)
        case _errors.MissingArgs():
            missing = [each.arg.display_name() for each in event.missing_arguments]
            return InputError(f"{prog}: {', '.join(missing)} missing", "", see)
        case _errors.InvalidChoice():
            return InputError(
                f"{prog}: {event.argument.display_name()}: {event.value!r}", ", ".join(filter(None, event.choices)), see
            )
        case _errors.BadValue():
            return InputError(f"{prog}: {event.argument.display_name()} without its value", "", see)
        case _errors.InstantiationFailure(argument=argument) if argument is not None:
            allowed = _KINDS.get(argument.field.type_stripped, "")
            return InputError(f"{prog}: {argument.display_name()}: {event.message}", allowed, see)
    return InputError(f"{prog}: the arguments do not form a command", "", see)


def _has_positionals(kind: type[Command]) -> bool:
    hints = typing.get_type_hints(kind, include_extras=True).values()
    return any(tyro.conf.Positional in getattr(hint, "__metadata__", ()) for hint in hints)


def _flags(record: object, prefix: str = "--") -> Iterator[str]:
    """Every flag of a command, for suggestions: nested records join with dots, records in a list by their index."""
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        name = f"{prefix}{field.name.replace('_', '-')}"
        parts = [(name, value)] if dataclasses.is_dataclass(value) else []
        if isinstance(value, tuple):
            parts = [(f"{name}.{i}", item) for i, item in enumerate(value) if dataclasses.is_dataclass(item)]
        parts = [(name, item) for name, item in parts if not isinstance(item, _SHORTHANDS)]
        if not parts:
            yield name
        for inner, item in parts:
            yield from _flags(item, "--" if field.name == "config" else f"{inner}.")
