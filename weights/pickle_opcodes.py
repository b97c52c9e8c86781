"""One look over a pickle's opcodes before any of them runs.

A pickle is a program for a stack machine. Here the machine is played without making anything but notes of what would be
made, and a program that no plain checkpoint needs is refused: one that names what is not admitted, calls a result or
sets attributes on a function, believes a size the file does not have, nests deeper than any state dict, or makes much
out of little (an index into a memo of gigabytes, a tuple of tuples of the same tuple as a key).
"""

from __future__ import annotations

import pickletools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

from mask2former.errors import CheckpointError
from mask2former.schema import short

MOST_OPCODES = 200_000  # a published Swin-L of 215 million weights has 20,000
DEEPEST = 50  # the original files have 5
LARGEST = 10_000_000  # things below one thing, each counted as often as it is met
LONGEST_LINE = 1000  # bytes of a module's and of a function's name

CONSTANTS = {
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8",
}  # fmt: skip
EMPTY = {"EMPTY_DICT": "dict", "EMPTY_LIST": "list", "EMPTY_TUPLE": "tuple"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
GET, PUT = ("BINGET", "LONG_BINGET"), ("BINPUT", "LONG_BINPUT")
ORDERED_DICT = "collections.OrderedDict"


class UnsafePickleError(CheckpointError):
    """The pickle names something that is neither a tensor or an array nor a plain container."""


@dataclass(slots=True)
class Note:
    """What one thing on the stack would be."""

    kind: str  # constant, global, tuple, list, dict, call, persistent; "mark" for a place on the stack
    value: Any = None  # of a constant itself, but of bytes their length; of a global and a call its name
    parts: list[Note] | tuple[()] = ()  # of a dict key, value, key, value, …; of a call its arguments
    depth: int = 0
    size: int = 1


@dataclass(slots=True)
class Overview:
    """What a pickle would make."""

    result: Note
    calls: list[Note]  # every call, in order
    persistent: list[Note]  # every reference to something outside the pickle: torch's storages


def look_over(
    file: BinaryIO, size: int, admitted: Collection[str], what: str, persistent: bool = False, more: bool = False
) -> Overview:
    """Play a pickle that begins where `file` stands, and leave the file after it.

    size: of the whole file. admitted: dotted names it may call. what: what those are, for the message. persistent:
    whether it may refer to things outside. more: whether something may follow. Raises UnsafePickleError for a name that
    is not admitted, CheckpointError for every other reason.
    """
    machine = _Machine(admitted, what, persistent)
    bounded = _Bounded(file, size)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(bounded), 1):
            if number > MOST_OPCODES:
                raise CheckpointError(f"refused: a pickle of more than {MOST_OPCODES} opcodes is no plain checkpoint")
            if opcode.name == "FRAME":
                bounded.has(argument)
            machine.step(opcode.name, argument, number)
    except CheckpointError:
        raise
    except (ValueError, IndexError, KeyError, EOFError, MemoryError, OverflowError) as error:
        raise CheckpointError(
            f"broken or truncated pickle ({type(error).__name__}: {str(error)[:200]}); get it again"
        ) from None
    if len(machine.stack) != 1 or (not more and file.read(1)):
        raise CheckpointError("broken or truncated pickle (it leaves something over); get it again")
    return Overview(machine.stack[0], machine.calls, machine.persistent)


class _Machine:
    def __init__(self, admitted: Collection[str], what: str, may_refer: bool):
        self.admitted, self.what, self.may_refer = admitted, what, may_refer
        self.stack: list[Note] = []
        self.memo: dict[int, Note] = {}
        self.calls: list[Note] = []
        self.persistent: list[Note] = []

    def step(self, name: str, argument: Any, number: int) -> None:
        stack = self.stack
        if name in CONSTANTS:
            if name == "LONG1" and not -(2**63) <= argument < 2**64:
                raise CheckpointError(f"refused: the pickle has an integer of more than 64 bits ({short(argument)})")
            value = len(argument) if isinstance(argument, bytes | bytearray) else argument
            value = {"NEWTRUE": True, "NEWFALSE": False}.get(name, value)
            stack.append(Note("constant", value))
        elif name in GET:
            stack.append(self.memo[argument])
        elif name in PUT or name == "MEMOIZE":
            index = len(self.memo) if name == "MEMOIZE" else argument
            if index > number:
                raise CheckpointError(f"refused: the pickle memorises a thing as its {index}th, after {number} opcodes")
            self.memo[index] = self._top()
        elif name == "MARK":
            stack.append(Note("mark"))
        elif name in EMPTY:
            stack.append(Note(EMPTY[name]))
        elif name in TUPLES or name == "TUPLE":
            parts = self._since_mark() if name == "TUPLE" else [self._pop() for _ in range(TUPLES[name])][::-1]
            stack.append(self._grown(Note("tuple"), parts))
        elif name in ("APPEND", "APPENDS"):
            parts = [self._pop()] if name == "APPEND" else self._since_mark()
            self._grown(self._top("list"), parts)
        elif name in ("SETITEM", "SETITEMS"):
            parts = [self._pop(), self._pop()][::-1] if name == "SETITEM" else self._since_mark()
            _check_keys(parts[::2])
            target = self._top()
            if len(parts) % 2 or not (target.kind == "dict" or target.kind == "call" and target.value == ORDERED_DICT):
                raise ValueError("items set on what is no dict")
            self._grown(target, parts)
        elif name == "GLOBAL":
            self._name(*argument.split(" ", 1))
        elif name == "STACK_GLOBAL":
            function, module = self._pop("constant").value, self._pop("constant").value
            self._name(str(module), str(function))
        elif name == "REDUCE":
            arguments, function = self._pop("tuple"), self._pop()
            if function.kind != "global":
                raise UnsafePickleError("refused: the pickle calls what it has made itself")
            if function.value == ORDERED_DICT and arguments.parts:  # how Python 2 wrote them
                for pair in arguments.parts[0].parts:
                    _check_keys(pair.parts[:1] or [pair])
            self.calls.append(self._grown(Note("call", function.value), arguments.parts))
            stack.append(self.calls[-1])
        elif name == "BUILD":
            state, target = self._pop(), self._top()
            names = [part.value for part in state.parts[::2]] if state.kind == "dict" else []
            metadata = target.value == ORDERED_DICT and state.kind == "dict" and set(names) <= {"_metadata"}
            array = str(target.value).startswith("numpy.") and state.kind == "tuple"  # torch would let a tensor be set
            if target.kind != "call" or not (metadata or array):
                raise UnsafePickleError(
                    f"refused: the pickle sets attributes ({', '.join(map(short, names[:5])) or state.kind}) of a "
                    f"{target.value if target.kind in ('call', 'global') else target.kind}"
                )
            self._grown(target, [state] if state.kind == "dict" else state.parts)
        elif name == "BINPERSID" and self.may_refer:
            stack.append(self._grown(Note("persistent"), self._pop("tuple").parts))
            self.persistent.append(stack[-1])
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise CheckpointError(f"refused: the pickle has an opcode {name}, which no plain checkpoint needs")

    def _name(self, module: str, function: str) -> None:
        name = f"{module.replace('numpy._core', 'numpy.core')}.{function}"  # as numpy 2 and numpy 1 call that package
        if name not in self.admitted:
            raise UnsafePickleError(
                f"refused: the pickle names {name[:200]}, and loading it could run code; only {self.what}, numbers, "
                "strings, lists, tuples and dicts are read"
            )
        self.stack.append(Note("global", name))

    def _top(self, kind: str = "") -> Note:
        found = self.stack[-1]
        if found.kind == "mark" or kind and found.kind != kind:
            raise ValueError(f"a {found.kind} where a {kind or 'thing'} is expected")
        return found

    def _pop(self, kind: str = "") -> Note:
        self._top(kind)
        return self.stack.pop()

    def _since_mark(self) -> list[Note]:
        place = len(self.stack) - 1
        while self.stack[place].kind != "mark":
            place -= 1
            if place < 0:
                raise ValueError("no mark")
        parts = self.stack[place + 1 :]
        del self.stack[place:]
        return parts

    def _grown(self, note: Note, parts: Iterable[Note]) -> Note:
        note.parts = note.parts or []
        for part in parts:
            note.parts.append(part)
            note.depth = max(note.depth, part.depth + 1)
            note.size += part.size
        if note.depth > DEEPEST or note.size > LARGEST:
            raise CheckpointError(
                f"refused: the pickle nests {note.depth} deep and has {note.size} things in one; a plain checkpoint "
                f"has at most {DEEPEST} and {LARGEST}"
            )
        return note


def _check_keys(keys: Iterable[Note]) -> None:
    for key in keys:
        if key.kind != "constant":
            raise CheckpointError(f"refused: the pickle has a {key.kind} as a key of a dict, where names are expected")


class _Bounded:
    """A file for pickletools, of which nobody reads more than there is: the lengths in a pickle are claims."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size, self.tell = file, size, file.tell

    def has(self, count: int) -> None:
        left = self.size - self.file.tell()
        if count > left:
            raise EOFError(f"{count} bytes are said to follow, {left} do")

    def read(self, count: int) -> bytes:
        self.has(count)
        return self.file.read(count)

    def readline(self) -> bytes:
        line = self.file.readline(LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise EOFError(f"a name without end within {LONGEST_LINE} bytes")
        return line
