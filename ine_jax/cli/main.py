"""`ine`: parse the words, run one command, print its outcome.

Every failure ends with a documented exit code and at most three lines: 0 done, 2 wrong input, 3 numerical failure,
4 too many failed items, 5 damaged files, 74 a full or failing disk, 75 interrupted (after both the same command
continues), 1 a bug (its traceback is written to a file).
"""

import contextlib
import errno
import json
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ine_jax import __version__
from ine_jax.errors import IneError, InputError, Interrupted, StorageError, clean, printable
from ine_jax.progress import STOPPED, announce
from ine_jax.storage.atomic import DISK

if TYPE_CHECKING:
    from ine_jax.cli.command import Command

# A missing permission is for the user to solve; it is not a bug.
_MACHINE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
_MACHINE |= {errno.EMFILE, errno.ENAMETOOLONG, errno.ENOTEMPTY}


def main(argv: Sequence[str] | None = None, speaks: bool = False) -> int:
    """Run one command line and return its exit code; only a request for help raises (`SystemExit`).

    `speaks` is whether a command that takes more than a moment prints what it is loading.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _command(words, speaks)
        _flush()
        return code
    except BrokenPipeError:
        # The reader of the output is gone, so nothing can be reported.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail(Interrupted(*STOPPED), words)
    except IneError as error:
        return _fail(error, words)
    except OSError as error:
        if error.errno in DISK:
            return _fail(_disk(error), words)
        if error.errno not in _MACHINE:
            return _crash(error, words)
        given = f"{error.filename or 'the system'}: {error.strerror}"
        return _fail(InputError(given, "", "solve this and run the same command again"), words)
    except MemoryError:
        return _fail(_out_of_memory("the host"), words)
    except Exception as error:
        if type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and "RESOURCE_EXHAUSTED" in str(error):
            return _fail(_out_of_memory("the device"), words)
        return _crash(error, words)


def _command(words: list[str], speaks: bool) -> int:
    if words and words[0] in ("-V", "--version"):
        _print(f"ine {__version__}")
        return 0
    from ine_jax.cli import buckets
    from ine_jax.cli.parsing import parse

    command = parse(["--help"] if not words or words[0] == "help" else words)
    _silence_libraries()
    with _opening(command) if speaks else contextlib.nullcontext(), buckets.resolved(command) as (local, places):
        outcome = places.shown(local.plan() if local.dry_run else local.run(["ine", *words]))
    _print(*outcome.lines)
    if command.json:
        _print_json({"ok": True, "command": command.command_name(), "dry_run": command.dry_run, **outcome.result})
    return 0


@contextlib.contextmanager
def _opening(command: "Command") -> Iterator[None]:
    """Print what the command is loading, unless it ends first."""
    cancel = announce(command.opening())
    try:
        yield
    finally:
        cancel()


def _print(*lines: str) -> None:
    """Print lines without the control characters that text from outside may hold."""
    for line in lines:
        print(printable(line))


def _print_json(values: Mapping[str, object]) -> None:
    print(json.dumps(values, default=str, ensure_ascii=True), flush=True)


def _flush() -> None:
    """Write out what was printed; a full disk behind standard output is reported, and not again at exit."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in DISK:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        error.filename = "standard output"
        raise


def _disk(error: OSError) -> StorageError:
    given = f"{error.filename or 'the system'}: {error.strerror}"
    return StorageError(given, "", "make room or repair the disk, then run the same command again to continue")


def _fail(error: IneError, words: Sequence[str]) -> int:
    with contextlib.suppress(OSError):
        _flush()
    print(str(error), file=sys.stderr)
    if "--json" in words:
        _print_json({"ok": False, "exit_code": error.exit_code, "error": str(error).splitlines()})
    return error.exit_code


def _crash(error: Exception, words: Sequence[str]) -> int:
    """Write the traceback of a bug to a private file and print its path in one line."""
    text = "".join(traceback.format_exception(error))
    try:
        handle, path = tempfile.mkstemp(prefix="ine-crash-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"ine {__version__}\npython {sys.version}\ncommand: {list(words)!r}\n\n{text}")
    except OSError as full:
        path = f"no file: {full.strerror}"
    print(clean(f"bug: {type(error).__name__}; the traceback is in {path}"), file=sys.stderr)
    if "--json" in words:
        _print_json({"ok": False, "exit_code": 1, "error": [type(error).__name__], "traceback": path})
    return 1


def _out_of_memory(where: str) -> InputError:
    return InputError(f"{where} has too little memory for this run", "", "use a smaller batch, or a smaller image")


def _uncaught(found: "sys.UnraisableHookArgs") -> None:
    """Drop what native writers that end after a failed checkpoint print: the failure has been reported."""
    if str(found.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(found)


def _silence_libraries() -> None:
    """Keep the libraries' own warnings off the terminal: this program prints what the user must know."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    warnings.filterwarnings("ignore")
    for name in ("jax", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("absl", "orbax", "asyncio"):  # orbax logs the traceback of what it then raises
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = _uncaught
