"""What a pickle says, without doing it.

A pickle is a program for a stack machine. The standard library's `pickletools` decodes its opcodes and runs none. This
machine builds plain containers from them and records every other wish as an inert value: `Global` for a name to
import, `Call` for a call, `Persistent` for an object outside the stream. Nothing is imported and nothing is called.
"""

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

MAX_OPCODES = 1_000_000  # ten times what Stable Diffusion needs with all that a trainer adds
MAX_INTEGER_BYTES = 256
MAX_LINE = 256

Value: TypeAlias = object
"""Anything a stream describes: a constant, a list, a tuple, or one of the four classes below."""

# Opcodes that torch.save and pickle protocols 2 to 4 write. Those whose argument is the value:
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PickleError(ValueError):
    """The stream is damaged, or asks for what no published file needs."""


@dataclass(frozen=True)
class Global:
    """A name to import."""

    module: str
    name: str

    def __str__(self) -> str:
        """Return module and name with a dot."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """A call, with the items and the state that the stream then adds to its result."""

    what: Value
    args: Value
    pairs: list[tuple[Value, Value]] = field(default_factory=list)
    items: list[Value] = field(default_factory=list)
    state: Value = None


@dataclass(frozen=True, eq=False)
class Persistent:
    """An object outside the stream, by its identifier in the container."""

    identifier: Value


@dataclass(eq=False)
class Pairs:
    """A dictionary. Its keys are not hashed: a hash can be made to take forever."""

    pairs: list[tuple[Value, Value]] = field(default_factory=list)
    state: Value = None


def interpret(data: bytes | memoryview, start: int = 0) -> tuple[Value, int, list[Persistent]]:
    """Return the value of the pickle that begins at byte `start`, where it ends, and the outside objects it names.

    Sets become lists and dictionaries become `Pairs`. Shared parts stay shared and a cycle stays a cycle, so callers
    must bound their walk. PickleError also for over `MAX_OPCODES` opcodes, or one that torch.save does not write.
    """
    stream, machine = _Stream(data, start), _Machine()
    try:
        for name, argument in stream.opcodes():
            machine.step(name, argument)
    except PickleError:
        raise
    except (ValueError, OverflowError, MemoryError) as error:
        raise PickleError(f"a damaged value before byte {stream.at}") from error
    return machine.pop(), stream.at, machine.outside


class _Stream:
    """The file that `pickletools` reads from: nothing is copied ahead, and lines are bounded."""

    def __init__(self, data: bytes | memoryview, at: int) -> None:
        self.data, self.at = memoryview(data), at

    def opcodes(self) -> Iterator[tuple[str, Value]]:
        """Yield the name and argument of every opcode before STOP."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self)):  # type: ignore[arg-type]
            if count == MAX_OPCODES:
                raise PickleError(f"more than {MAX_OPCODES:,} opcodes")
            if opcode.name != "STOP":
                yield opcode.name, argument

    def read(self, count: int) -> bytes:
        part = bytes(self.data[self.at : self.at + count])
        self.at += len(part)
        return part

    def readline(self) -> bytes:
        part = bytes(self.data[self.at : self.at + MAX_LINE + 1])
        end = part.find(b"\n") + 1
        if not end:
            raise PickleError("a name without an end")
        self.at += end
        return part[:end]

    def tell(self) -> int:
        return self.at


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, Value] = {}
        self.outside: list[Persistent] = []

    def step(self, name: str, argument: Value) -> None:
        if name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > 8 * MAX_INTEGER_BYTES:
                raise PickleError(f"an integer of {argument.bit_length() // 8 + 1} bytes")
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self.stack.append(tuple(reversed([self.pop() for _ in range(_TUPLES[name])])))
        elif not (self.container(name) or self.memory(name, argument) or self.wish(name, argument)):
            raise PickleError(f"opcode {name}")

    def pop(self) -> Value:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise PickleError("it takes a value from an empty stack")
        return self.stack.pop()

    def top(self) -> Value:
        value = self.pop()
        self.stack.append(value)
        return value

    def since_mark(self) -> list[Value]:
        if not self.marks:
            raise PickleError("a mark is missing")
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def container(self, name: str) -> bool:
        """Make or fill a container; True where the opcode does that."""
        match name:
            case "EMPTY_DICT":
                self.stack.append(Pairs())
            case "EMPTY_LIST" | "EMPTY_SET":
                self.stack.append([])
            case "TUPLE":
                self.stack.append(tuple(self.since_mark()))
            case "LIST" | "FROZENSET":
                self.stack.append(self.since_mark())
            case "DICT":
                self.stack.append(Pairs(_pairs(self.since_mark())))
            case "APPEND":
                self.extend([self.pop()])
            case "APPENDS" | "ADDITEMS":
                self.extend(self.since_mark())
            case "SETITEM":
                self.update([self.pop(), self.pop()][::-1])
            case "SETITEMS":
                self.update(self.since_mark())
            case _:
                return False
        return True

    def extend(self, found: list[Value]) -> None:
        target = self.top()
        if not isinstance(target, list | Call):
            raise PickleError("it appends to a value that is not a list")
        (target.items if isinstance(target, Call) else target).extend(found)

    def update(self, found: list[Value]) -> None:
        target = self.top()
        if not isinstance(target, Pairs | Call):
            raise PickleError("it sets an item of a value that is not a dictionary")
        target.pairs.extend(_pairs(found))

    def memory(self, name: str, argument: Value) -> bool:
        """Mark, keep, recall or drop values; True where the opcode does that."""
        match name, argument:
            case (("BINGET" | "LONG_BINGET"), int(index)):
                if index not in self.memo:
                    raise PickleError("it recalls a value that was not kept")
                self.stack.append(self.memo[index])
            case (("BINPUT" | "LONG_BINPUT"), int(index)):
                self.memo[index] = self.top()
            case "MEMOIZE", _:
                self.memo[len(self.memo)] = self.top()
            case "MARK", _:
                self.marks.append(len(self.stack))
            case "POP", _:
                self.pop()
            case "POP_MARK", _:
                self.since_mark()
            case "DUP", _:
                self.stack.append(self.top())
            case _:
                return False
        return True

    def wish(self, name: str, argument: Value) -> bool:
        """Record an import, a call, a state or an outside object; True where the opcode is one of those."""
        match name, argument:
            case "PROTO", int(version):
                if version > 5:
                    raise PickleError("an unknown protocol")
            case "FRAME", _:  # only a hint for buffering
                pass
            case "GLOBAL", str(both):  # pickletools joins the two lines by a space
                module, _, attribute = both.partition(" ")
                self.stack.append(Global(module, attribute))
            case "STACK_GLOBAL", _:
                named, home = self.pop(), self.pop()
                if not isinstance(named, str) or not isinstance(home, str):
                    raise PickleError("a name that is not text")
                self.stack.append(Global(home, named))
            case (("REDUCE" | "NEWOBJ"), _):
                args, what = self.pop(), self.pop()
                self.stack.append(Call(what, args))
            case "NEWOBJ_EX", _:
                keywords, args, what = self.pop(), self.pop(), self.pop()
                self.stack.append(Call(what, (args, keywords)))
            case "BINPERSID", _:
                self.outside.append(Persistent(self.pop()))
                self.stack.append(self.outside[-1])
            case "BUILD", _:
                state, target = self.pop(), self.top()
                if not isinstance(target, Call | Pairs):
                    raise PickleError("it gives a state to a value that has none")
                target.state = state
            case _:
                return False
        return True


def _pairs(found: list[Value]) -> list[tuple[Value, Value]]:
    if len(found) % 2:
        raise PickleError("a key without a value")
    return list(zip(found[::2], found[1::2], strict=True))
