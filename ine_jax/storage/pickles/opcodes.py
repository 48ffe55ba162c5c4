"""What a pickle says, without doing it.

A pickle is a program for a stack machine (the opcodes are documented in the standard library's ``pickletools``). This
machine builds plain containers and writes down every other wish as an inert value: `Global` for a name that the program
wants imported, `Call` for a call that it wants made, `Persistent` for an object that lives outside the stream. Nothing
is imported, nothing is called, and there is no table of functions that could be.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

MAX_OPCODES = 1_000_000  # Stable Diffusion with all that a trainer adds has a tenth of it
MAX_INTEGER_BYTES = 256

_CONSTANTS = {ord("N"): None, 0x88: True, 0x89: False}
_TEXT = {ord("X"): 4, 0x8C: 1, 0x8D: 8}  # bytes of the length that stands before the text
_BYTES = {ord("B"): 4, ord("C"): 1, 0x8E: 8}
_OLD_TEXT = {ord("T"): 4, ord("U"): 1}
_UNSIGNED = {ord("K"): 1, ord("M"): 2}
_LONG = {0x8A: 1, 0x8B: 4}
_TUPLES = {ord(")"): 0, 0x85: 1, 0x86: 2, 0x87: 3}
_GET = {ord("h"): 1, ord("j"): 4}
_PUT = {ord("q"): 1, ord("r"): 4}


class PickleError(ValueError):
    """The stream is damaged, or asks for what no published file needs."""


@dataclass(frozen=True)
class Global:
    """A name that the stream wants imported."""

    module: str
    name: str

    def __str__(self) -> str:
        """Module and name with a dot."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """A call that the stream wants made, with the items and the state that it then adds to the result."""

    what: Any
    args: Any
    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    items: list[Any] = field(default_factory=list)
    state: Any = None


@dataclass(frozen=True, eq=False)
class Persistent:
    """An object that the stream names by an identifier of its container."""

    identifier: Any


@dataclass(eq=False)
class Pairs:
    """A dictionary as the stream built it. Its keys are not hashed here: a hash may be made to take forever."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    state: Any = None


def interpret(data: Any, start: int = 0) -> tuple[Any, int, list[Persistent]]:
    """Return the value that the pickle at `start` of a bytes-like `data` describes, where the pickle ends, and the
    outside objects that it names.

    Lists, tuples, text, bytes, numbers, booleans and None are themselves, sets are lists, dictionaries are `Pairs`.
    Shared parts are shared and a cycle stays a cycle, so a reader must bound its walk.

    Raises:
        PickleError: a damaged stream, an opcode that torch.save and pickle protocols 2 to 4 do not write, or more than
            `MAX_OPCODES` opcodes.
    """
    machine = _Machine(data, start)
    try:
        return machine.run(), machine.at, machine.outside
    except (UnicodeDecodeError, OverflowError, MemoryError, struct.error) as error:
        raise PickleError(f"a damaged value before byte {machine.at}") from error


class _Machine:
    def __init__(self, data: Any, start: int) -> None:
        self.data, self.at = data, start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.outside: list[Persistent] = []

    def run(self) -> Any:
        for _ in range(MAX_OPCODES):
            opcode = self.take(1)[0]
            if opcode == ord("."):
                return self.pop()
            if not (self.literal(opcode) or self.container(opcode) or self.wish(opcode)):
                raise PickleError(f"opcode {opcode:#04x} before byte {self.at}")
        raise PickleError(f"more than {MAX_OPCODES:,} opcodes")

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise PickleError("it ends in the middle")
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        found = bytearray()
        while (byte := self.take(1)) != b"\n":
            found += byte
            if len(found) > MAX_INTEGER_BYTES:
                raise PickleError("a name without an end")
        return found.decode("utf-8")

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise PickleError("it takes a value that is not there")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise PickleError("a mark is missing")
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def literal(self, op: int) -> bool:
        """Push a constant, number or text; True where the opcode is one."""
        if op in _CONSTANTS:
            value: Any = _CONSTANTS[op]
        elif op in _UNSIGNED:
            value = self.number(_UNSIGNED[op])
        elif op == ord("J"):
            value = int.from_bytes(self.take(4), "little", signed=True)
        elif op == ord("G"):
            value = struct.unpack(">d", self.take(8))[0]
        elif op in _LONG:
            size = self.number(_LONG[op])
            if size > MAX_INTEGER_BYTES:
                raise PickleError(f"an integer of {size} bytes")
            value = int.from_bytes(self.take(size), "little", signed=True)
        elif op in _TEXT:
            value = self.take(self.number(_TEXT[op])).decode("utf-8", "surrogatepass")
        elif op in _OLD_TEXT:
            value = self.take(self.number(_OLD_TEXT[op])).decode("latin-1")
        elif op in _BYTES:
            value = self.take(self.number(_BYTES[op]))
        else:
            return False
        self.stack.append(value)
        return True

    def container(self, op: int) -> bool:
        """Make, fill, remember or drop containers and values; True where the opcode is one of those."""
        if op in _TUPLES:
            self.stack.append(tuple(reversed([self.pop() for _ in range(_TUPLES[op])])))
        elif op in _GET:
            index = self.number(_GET[op])
            if index not in self.memo:
                raise PickleError("it recalls a value that was not kept")
            self.stack.append(self.memo[index])
        elif op in _PUT:
            self.memo[self.number(_PUT[op])] = self.top()
        elif op == 0x94:  # MEMOIZE
            self.memo[len(self.memo)] = self.top()
        elif op == ord("("):
            self.marks.append(len(self.stack))
        elif op == ord("}"):
            self.stack.append(Pairs())
        elif op in (ord("]"), 0x8F):  # a list, a set
            self.stack.append([])
        elif op in (ord("t"), ord("l"), 0x91):  # a tuple, a list or a frozen set of what stands since the mark
            found = self.since_mark()
            self.stack.append(tuple(found) if op == ord("t") else found)
        elif op == ord("d"):
            self.stack.append(Pairs(_pairs(self.since_mark())))
        elif op in (ord("a"), ord("e"), 0x90):
            found = [self.pop()] if op == ord("a") else self.since_mark()
            self.extend(found)
        elif op in (ord("s"), ord("u")):
            found = [self.pop(), self.pop()][::-1] if op == ord("s") else self.since_mark()
            self.update(_pairs(found))
        elif op == ord("0"):
            self.pop()
        elif op == ord("1"):
            self.since_mark()
        elif op == ord("2"):
            self.stack.append(self.top())
        else:
            return False
        return True

    def extend(self, found: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list | Call):
            raise PickleError("it appends to what is no list")
        (target.items if isinstance(target, Call) else target).extend(found)

    def update(self, found: list[tuple[Any, Any]]) -> None:
        target = self.top()
        if not isinstance(target, Pairs | Call):
            raise PickleError("it sets an item of what is no dictionary")
        target.pairs.extend(found)

    def wish(self, op: int) -> bool:
        """Write down an import, a call, a state or an outside object; True where the opcode is one of those."""
        if op == 0x80:
            if self.number(1) > 5:
                raise PickleError("an unknown protocol")
        elif op == 0x95:  # FRAME: only a hint for buffering
            self.take(8)
        elif op == ord("c"):
            self.stack.append(Global(self.line(), self.line()))
        elif op == 0x93:
            name, module = self.pop(), self.pop()
            if not isinstance(name, str) or not isinstance(module, str):
                raise PickleError("a name that is no text")
            self.stack.append(Global(module, name))
        elif op in (ord("R"), 0x81):
            args, what = self.pop(), self.pop()
            self.stack.append(Call(what, args))
        elif op == 0x92:
            named, args, what = self.pop(), self.pop(), self.pop()
            self.stack.append(Call(what, (args, named)))
        elif op == ord("Q"):
            self.outside.append(Persistent(self.pop()))
            self.stack.append(self.outside[-1])
        elif op == ord("b"):
            state, target = self.pop(), self.top()
            if not isinstance(target, Call | Pairs):
                raise PickleError("it gives a state to what has none")
            target.state = state
        else:
            return False
        return True


def _pairs(found: list[Any]) -> list[tuple[Any, Any]]:
    if len(found) % 2:
        raise PickleError("a key without a value")
    return list(zip(found[::2], found[1::2], strict=True))
