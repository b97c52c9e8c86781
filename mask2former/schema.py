"""JSON from outside, read against a typed declaration: the border at which a file's content is checked, once.

A declaration is a `msgspec.Struct`, or any type that msgspec reads. What does not fit is named by its path in the file,
with the value found and the type expected; inside, values are trusted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
SHOWN = 60  # characters of a value in a message
LARGEST_SETTINGS = 32 << 20  # bytes


def read_json(path: Path, kind: type[T], error: Callable[[str], Exception]) -> T:
    """The content of a JSON file as a value of type `kind`.

    error: makes the exception to raise from a sentence without the file's name: what is wrong, and where. Raises
    FileNotFoundError where there is no file. A byte order mark is admitted.
    """
    return decode_json(_content(path), kind, error)


def read_settings(path: Path, kind: type[T], error: Callable[[str], Exception]) -> T:
    """The same for a small file that people write: refused where it is huge, or an object says a name twice."""
    if path.is_file() and path.stat().st_size > LARGEST_SETTINGS:
        raise error(f"{path.stat().st_size} bytes, and at most {LARGEST_SETTINGS} are read; is it the right file?")
    text = _content(path)
    values = decode_json(text, kind, error)
    try:
        json.loads(text, object_pairs_hook=_once)  # of two values msgspec would take the last
    except (ValueError, RecursionError) as reason:
        raise error(str(reason)) from None
    return values


def _content(path: Path) -> bytes:
    if not path.is_file():  # neither a pipe, which would block, nor a device
        raise FileNotFoundError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
    return path.read_bytes().removeprefix(b"\xef\xbb\xbf")


def _once(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise ValueError(f"{short(twice)} is said more than once in one object; keep one of them")


def decode_json(text: bytes | str, kind: type[T], error: Callable[[str], Exception]) -> T:
    """The same for JSON at hand."""
    try:
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.ValidationError as reason:
            raise error(misfit(str(reason), msgspec.json.decode(text))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as reason:
        raise error(f"no valid JSON ({reason})") from None
    except RecursionError:
        raise error("JSON nested too deeply") from None


def convert(values: object, kind: type[T], error: Callable[[str], Exception]) -> T:
    """Plain containers at hand as a value of type `kind`."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as reason:
        raise error(misfit(str(reason), values)) from None


def misfit(reason: str, content: object) -> str:
    """msgspec's sentence ("Expected `int`, got `str` - at `$.images[3].id`") with the value that was found."""
    problem, _, place = reason.partition(" - at `")
    place = place.removesuffix("`")
    if not place or "[...]" in place and "key" in place:
        return problem
    try:
        found = value_at(content, place)
    except (LookupError, TypeError):
        return f"{place}: {problem}"
    return f"{place}: {problem}, found {short(found)}"


def short(value: object) -> str:
    """A value in a message: its beginning, where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists nested thousands deep
        return f"one of type {type(value).__name__} that cannot be shown ({error})"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def value_at(content: Any, place: str) -> object:
    """What stands at a path such as `$.images[3].id`. LookupError where msgspec leaves a key open (`[...]`)."""
    for name, number in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", place):
        content = content[name] if name else content[int(number) if number != "..." else number]
    return content
