"""`ine`: parse the words, call one function, print what it returns.

Nothing heavy is imported before a command needs it. Every failure leaves with a documented exit code and at most three
lines: 0 done, 2 user or input error, 3 numerical failure, 4 too many item errors, 5 corrupted run directory,
75 interrupted (the same command continues), 1 a bug (traceback in a file).
"""

import difflib
import errno
import json
import logging
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ine_jax import __version__
from ine_jax.errors import IneError, InputError, Interrupted, clean, printable

COMMANDS = {
    "demo": "the whole method on the bundled family: invert, evaluate, report",
    "invert": "find a concept again in an unlearned model, from images of it or by RECE",
    "generate": "prompts to images under a guard",
    "evaluate": "models x guards x negatives x prompts into a run directory",
    "score": "judge a run directory by further detectors and metrics, without generating",
    "report": "redraw tables and report.html from run directories",
    "verify": "compare every stored byte of a run directory with its hash",
    "unlearn": "fine-tune a model to forget (ESD)",
    "inspect": "say what a file or folder is",
    "convert": "an embedding to the format of another tool",
    "convert-model": "a model, with checkpoints on top, to a folder for diffusers",
    "bench": "sampling throughput beside baselines, or the cost of guards",
    "benchmarks": "where published prompt sets are had; check a copy of one",
}
EXIT_CODES = "exit codes: 0 done, 2 input, 3 numerical, 4 items, 5 corrupted run, 75 interrupted, 1 bug"
# What the machine refuses (a full disk, a missing permission) is for the user to mend, not a bug.
_MACHINE = {errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_MACHINE |= {errno.EEXIST, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENAMETOOLONG, errno.ENOTEMPTY}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; nothing but a request for help raises (`SystemExit`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with _termination_interrupts():
            return _command(words)
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _complain(Interrupted("interrupted", "", "run the same command again to continue"), words)
    except IneError as error:
        return _complain(error, words)
    except OSError as error:
        if error.errno not in _MACHINE:
            return _crash(error, words)
        given = f"{error.filename or 'the system'}: {error.strerror}"
        return _complain(InputError(given, "", "mend this and run the same command again"), words)
    except MemoryError:
        return _complain(_out_of_memory("the host"), words)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return _complain(_out_of_memory("the device"), words)
        return _crash(error, words)


def _command(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        _say(*_overview())
        return 0
    if words[0] in ("-V", "--version"):
        _say(f"ine {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `ine {near[0]}`?" if near else "see ine --help"
        raise InputError(f"ine: unknown command {name!r}", ", ".join(COMMANDS), hint)
    from ine_jax.cli import arguments

    record = arguments.parse(arguments.RECORDS[name], rest, f"ine {name}")
    _quiet()
    outcome = _outcome(name, record, ["ine", *words])
    _say(*outcome.lines)
    if record.json:
        _result({"ok": True, "command": name, "dry_run": record.dry_run, **outcome.result})
    return 0


def _outcome(name: str, record: Any, command: Sequence[str]) -> Any:
    """Call the one function that the command stands for."""
    from ine_jax.cli import arguments, commands, shards
    from ine_jax.cli import dry_run as dryrun

    asked = record.shard if isinstance(record, arguments.Evaluate) else "0/1"
    shard, origin = shards.chosen(asked, os.environ)
    if origin and shard[1] > 1:
        _say(f"shard {shard[0]}/{shard[1]} ({origin})")
    told = arguments.Convert | arguments.ConvertModel | arguments.Benchmarks  # these see to it themselves
    if record.dry_run and not isinstance(record, told):
        return dryrun.plan(name, getattr(record, "config", None), shard)
    match record:
        case arguments.Evaluate():
            return commands.evaluate(record.config, shard, shards.without(command))
        case arguments.Bench():
            return commands.bench(record.config, record.what)
        case arguments.Demo():
            return commands.demo(record.config, command)
        case arguments.Score():
            return commands.score(record.directory, record.config)
        case arguments.Report():
            return commands.report(record)
        case arguments.Verify():
            return commands.verify(record.directory)
        case arguments.Inspect():
            return commands.inspect(record.path, record.base)
        case arguments.Benchmarks():
            return commands.benchmarks(record)
        case arguments.Convert():
            return commands.convert(record)
        case arguments.ConvertModel():
            return commands.convert_model(record)
        case _:
            return getattr(commands, name)(record.config)


def _overview() -> Iterator[str]:
    yield "usage: ine COMMAND [CONFIG.yaml] [--flag value ...]"
    yield ""
    for name, text in COMMANDS.items():
        yield f"  {name:<15}{text}"
    yield ""
    yield "Dotted flags override the YAML: ine invert configs/invert/tiny.yaml --inversion.steps 100"
    yield "Every command has --help, --dry-run (print the plan, write nothing) and --json (one result line last)."
    yield EXIT_CODES


def _say(*lines: str) -> None:
    """Print lines without the control characters that text from outside may hold."""
    for line in lines:
        print(printable(line))


def _result(values: Mapping[str, Any]) -> None:
    print(json.dumps(values, default=str, ensure_ascii=True), flush=True)


def _complain(error: IneError, words: Sequence[str]) -> int:
    sys.stdout.flush()
    print(str(error), file=sys.stderr)
    if "--json" in words:
        _result({"ok": False, "exit_code": error.exit_code, "error": str(error).splitlines()})
    return error.exit_code


def _crash(error: Exception, words: Sequence[str]) -> int:
    """Keep the traceback of a bug in a private file and say where it is, in one line."""
    text = "".join(traceback.format_exception(error))
    handle, path = tempfile.mkstemp(prefix="ine-crash-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"ine {__version__}\npython {sys.version}\ncommand: {list(words)!r}\n\n{text}")
    print(clean(f"bug: {type(error).__name__}; the traceback is in {path}"), file=sys.stderr)
    if "--json" in words:
        _result({"ok": False, "exit_code": 1, "error": [type(error).__name__], "traceback": path})
    return 1


def _out_of_memory(where: str) -> InputError:
    return InputError(f"{where} has too little memory for this run", "", "use a smaller batch, or a smaller image")


def _quiet() -> None:
    """Keep the libraries' own warnings off the terminal: what the user must know is said by this program."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    warnings.filterwarnings("ignore")
    for name in ("absl", "orbax", "jax", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C outside the loops that handle it themselves."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: signals are somebody else's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
