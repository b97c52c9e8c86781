"""JSON from outside, read against a typed declaration: the border at which a file's content is checked, once.

A declaration is a `msgspec.Struct`, or any type that msgspec reads. What does not fit is named by its path in the file,
with the value found and the type expected; inside, values are trusted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
SHOWN = 60  # characters of a value in a message


def read_json(path: Path, kind: type[T], error: Callable[[str], Exception]) -> T:
    """The content of a JSON file as a value of type `kind`.

    error: makes the exception to raise from a sentence without the file's name: what is wrong, and where. Raises
    FileNotFoundError where there is no file. A byte order mark is admitted.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
    return decode_json(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), kind, error)


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
    text = repr(found)
    return f"{place}: {problem}, found {text if len(text) <= SHOWN else text[: SHOWN - 1] + '…'}"


def value_at(content: Any, place: str) -> object:
    """What stands at a path such as `$.images[3].id`. LookupError where msgspec leaves a key open (`[...]`)."""
    for name, number in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", place):
        content = content[name] if name else content[int(number) if number != "..." else number]
    return content
