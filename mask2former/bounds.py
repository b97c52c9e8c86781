"""Settings with their types and bounds beside them, checked once, where they enter.

A field such as `steps: Count = 10_000` says what it may be; a dataclass that calls `check_fields(self)` once it is made
holds nothing else. NaN is within no bounds. A bounded number and a tuple of fixed length must not be alternatives of
one field (`Side | tuple[Side, Side]`): msgspec 0.22 crashes on such a type.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import msgspec
from msgspec import Meta

LARGEST = 2**31 - 1
GREATEST = sys.float_info.max  # no infinity
SHOWN = 60  # characters of a value in a message

Count = Annotated[int, Meta(ge=1, le=LARGEST, description=f"1 or more (a whole number up to {LARGEST})")]
Natural = Annotated[int, Meta(ge=0, le=LARGEST, description=f"0 or more (a whole number up to {LARGEST})")]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1, description="a whole number of at most 63 bits")]
Share = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]
Positive = Annotated[float, Meta(gt=0, le=GREATEST, description="more than 0 (a finite number)")]
Magnitude = Annotated[float, Meta(ge=0, le=GREATEST, description="0 or more (a finite number)")]
Finite = Annotated[float, Meta(ge=-GREATEST, le=GREATEST, description="a finite number")]
Decay = Annotated[float, Meta(gt=0, lt=1, description="a decay between 0 and 1, such as 0.9999")]
Deviation = Annotated[float, Meta(ge=1e-6, le=1e6, description="more than 0 (a finite number, for pixels up to 255)")]
Scale = Annotated[float, Meta(gt=0, le=1000, description="a scale above 0, at most 1000")]
Amount = Annotated[int, Meta(ge=1, le=2**63 - 1, description="1 or more (a whole number of at most 63 bits)")]
Workers = Annotated[int, Meta(ge=0, le=1000, description="0 or more (a whole number up to 1000)")]
Byte = Annotated[int, Meta(ge=0, le=255, description="a whole number from 0 to 255")]
Id = Annotated[int, Meta(ge=-(2**31), lt=2**31, description="a whole number of at most 32 bits")]
Name = Annotated[str, Meta(max_length=1000, description="a text of at most 1000 letters")]
Queries = Annotated[int, Meta(ge=2, le=65536, description="a whole number from 2 to 65536")]
Kept = Annotated[int, Meta(ge=1, le=1 << 20, description="a whole number from 1 to 1048576")]
Side = Annotated[int, Meta(ge=1, le=100_000, description="a side of 1 to 100000 pixels")]


def check_fields(settings: Any) -> None:
    """Raise ValueError naming the first field of a dataclass whose value does not fit, with value and expectation."""
    kinds = _kinds(type(settings))
    for field in fields(settings):
        value = plain(getattr(settings, field.name))
        if problem := problem_of(kinds[field.name], value):
            raise ValueError(f"{field.name}={shown(value)}: {problem}")
        if value is not getattr(settings, field.name):
            object.__setattr__(settings, field.name, value)


def check_arguments(kinds: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """The same for arguments of a call, by name."""
    for name, kind in kinds.items():
        if problem := problem_of(kind, values[name]):
            raise ValueError(f"{name}={shown(values[name])}: {problem}")


def check_options(options: Any, kinds: type | Mapping[str, Any], **named: str) -> None:
    """The same for options of the command line, whose kinds are said here or are those of a dataclass's fields.

    named: the option that gives a field where it has another name, such as average="ema".
    """
    for field, kind in (kinds if isinstance(kinds, Mapping) else _kinds(kinds)).items():
        name = named.get(field, field)
        if hasattr(options, name) and (problem := problem_of(kind, getattr(options, name))):
            raise ValueError(f"--{name.replace('_', '-')} {shown(getattr(options, name))}: {problem}")


def problem_of(kind: Any, value: Any) -> str:
    """What is wrong with a value, "" if nothing: "expected more than 0 (a finite number)"."""
    try:
        msgspec.convert(plain(value), kind)
    except msgspec.ValidationError as error:
        described = _description(kind)
        return f"expected {described}" if described else str(error)[0].lower() + str(error)[1:].replace("`", "")
    return ""


def plain(value: Any) -> Any:
    """NumPy's numbers as Python's, which msgspec knows, alone or in a tuple."""
    if isinstance(value, tuple | list):
        made = type(value)(plain(part) for part in value) if type(value) in (tuple, list) else value
        return made if any(a is not b for a, b in zip(made, value, strict=True)) else value
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value


def shown(value: Any) -> str:
    """A value in a message: short, whatever it is."""
    if isinstance(value, int) and abs(value) >= 10**SHOWN:
        return f"a number of about {value.bit_length() * 30103 // 100000} digits"
    text = f"{value:g}" if type(value) is float else repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


@functools.cache
def _kinds(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _description(kind: Any) -> str:
    """Of a bounded type, of several of it, of one of some words, or of what may also be None."""
    for meta in getattr(kind, "__metadata__", ()):
        if isinstance(meta, Meta) and meta.description:
            return meta.description
    parts = [part for part in getattr(kind, "__args__", ()) if part is not type(None)]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if get_origin(kind) is tuple and parts and Ellipsis not in parts and _description(parts[0]):
        return f"{len(parts)} values, each {_description(parts[0])}"
    described = [text for part in parts if (text := _description(part))]
    return ", or ".join(dict.fromkeys(described))
