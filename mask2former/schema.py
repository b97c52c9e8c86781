"""JSON from outside, read against a typed declaration: the border at which a file's content is checked, once.

A declaration is a `msgspec.Struct`, or any type that msgspec reads; a part declared as `msgspec.Raw` stays text until
somebody decodes it. What does not fit is named by its path in the file, with the value found and the type expected;
inside, values are trusted. Structs that are read by the hundred thousand say `gc=False`: they hold no cycles.

Why msgspec: a COCO file of 194 MB (310,000 outlines), a process each, two shared cores: msgspec with the outlines left
as text 0.5 s and 1.4 × the file's size in memory, msgspec with everything decoded 1.0–3.0 s and 5.2 ×, json and no
check 4.3 s and 6 ×, pydantic 5.5 s and 11 ×.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

T = TypeVar("T")
SHOWN = 60  # characters of a value in a message
LARGEST_SETTINGS = 32 << 20  # bytes
PART = 2**20  # bytes

Flag = bool | Annotated[int, msgspec.Meta(ge=0, le=1)]  # "0", "false", 2 and null are none of these
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


def read_json(path: Path, kind: type[T], error: Callable[[str], Exception]) -> T:
    """The content of a JSON file as a value of type `kind`.

    error: makes the exception to raise from a sentence without the file's name: what is wrong, and where. Raises
    FileNotFoundError where there is no file. A byte order mark is admitted.
    """
    return decode_json(_content(path, error), kind, error)


def read_settings(path: Path, kind: type[T], error: Callable[[str], Exception]) -> T:
    """The same for a small file that people write: refused where it is huge, or an object says a name twice."""
    if path.is_file() and path.stat().st_size > LARGEST_SETTINGS:
        raise error(f"{path.stat().st_size} bytes, and at most {LARGEST_SETTINGS} are read; is it the right file?")
    text = _content(path, error)
    values = decode_json(text, kind, error)
    try:
        json.loads(text, object_pairs_hook=_once)  # of two values msgspec would take the last
    except (ValueError, RecursionError) as reason:
        raise error(str(reason)) from None
    return values


def _content(path: Path, error: Callable[[str], Exception]) -> bytes:
    try:
        if not path.is_file():  # neither a pipe, which would block, nor a device
            raise FileNotFoundError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
        text = path.read_bytes()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as reason:  # forbidden; a name too long, or with a null character
        raise error(f"cannot be read ({reason})") from None
    if not text.isascii():
        try:  # msgspec does not look into what no declaration asks for; in parts, to hold no second copy
            decoder = codecs.getincrementaldecoder("utf-8")()
            for start in range(0, len(text), PART):
                decoder.decode(text[start : start + PART], start + PART >= len(text))
        except UnicodeDecodeError as reason:
            raise error(f"no UTF-8 text ({reason})") from None
    return text.removeprefix(b"\xef\xbb\xbf")


def _once(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise ValueError(f"{short(twice)} is said more than once in one object; keep one of them")


def decode_json(
    text: bytes | str | msgspec.Raw, kind: type[T], error: Callable[[str], Exception], place: str = "$"
) -> T:
    """The same for JSON at hand. place: where in its file the text stands, as a path such as `$.images[3]`."""
    try:
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.ValidationError as reason:
            raise error(misfit(str(reason), msgspec.Raw(text), place)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as reason:
        raise error(f"{'' if place == '$' else f'{place}: '}no valid JSON ({reason}{excerpt(text, reason)})") from None
    except RecursionError:
        raise error("JSON nested too deeply") from None


def convert(values: object, kind: type[T], error: Callable[[str], Exception]) -> T:
    """Plain containers at hand as a value of type `kind`."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as reason:
        raise error(misfit(str(reason), values)) from None
    except RecursionError:
        raise error("nested too deeply") from None


def misfit(reason: str, content: object, place: str = "$") -> str:
    """msgspec's sentence ("Expected `int`, got `str` - at `$.images[3].id`") with the value that was found."""
    problem, _, inner = reason.partition(" - at `")
    inner = inner.removesuffix("`")
    if inner.startswith("key"):  # of a dict, whose entries msgspec does not name
        return f"{place}: {problem} ({inner})"
    where = place + inner.removeprefix("$")
    try:
        found = value_at(content, inner)
    except (LookupError, TypeError, ValueError, RecursionError):
        return f"{where}: {problem}" if inner or place != "$" else problem
    return f"{where}: {problem}, found {short(found)}"


def short(value: object) -> str:
    """A value in a message: its beginning, where it is long."""
    try:
        text = bytes(value).decode("utf-8", "replace") if isinstance(value, msgspec.Raw) else repr(value)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists nested thousands deep
        return f"one of type {type(value).__name__} that cannot be shown ({error})"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def value_at(content: Any, place: str) -> object:
    """What stands at a path such as `$.images[3].id`; JSON text is decoded no deeper than the path goes.

    LookupError where msgspec leaves a key open (`[...]`).
    """
    for name, number in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", place):
        if isinstance(content, msgspec.Raw):
            content = msgspec.json.decode(content, type=dict[str, msgspec.Raw] if name else list[msgspec.Raw])
        content = content[name] if name else content[int(number) if number != "..." else number]
    return content


def excerpt(text: bytes | str | msgspec.Raw, reason: Exception) -> str:
    """What stands around the byte that a sentence of msgspec's names: Python's NaN and Infinity are no JSON."""
    found = re.search(r"\(byte (\d+)\)", str(reason))
    if not found:
        return ""
    content = text.encode("utf-8", "replace") if isinstance(text, str) else bytes(text)
    start = max(0, int(found[1]) - SHOWN // 2)
    return f": …{content[start : start + SHOWN].decode('utf-8', 'replace')}…"
