"""Docstrings as the pages show them: what they say of each argument becomes a list, "Arguments:" a heading of it.

An extension of griffe, which reads the code for mkdocstrings.
"""

from __future__ import annotations

import re

import griffe

HEADING = re.compile(r"^(Args|Arguments|Returns|Raises|Attributes):$")
ITEM = re.compile(r"^(\w+(?:, \w+)*): (.*)$")


class ArgumentLists(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value, names_of(obj))


def names_of(obj: griffe.Object) -> set[str]:
    """What a docstring may explain: a function's arguments; a class's, and its attributes."""
    if obj.is_function:
        return {parameter.name.lstrip("*") for parameter in obj.parameters}
    if obj.is_class:
        init = obj.members.get("__init__")
        return set(obj.members) | (names_of(init) if init is not None and init.is_function else set())
    return set()


def as_markdown(text: str, names: set[str]) -> str:
    """Each "name: what it is", with the lines up to the next one or an empty line, as an item of a list."""
    lines, in_item = [], False
    for line in map(str.strip, text.splitlines()):
        item, heading = ITEM.match(line), HEADING.match(line)
        if item and set(item[1].split(", ")) <= names:
            if lines and lines[-1] and not in_item:
                lines.append("")  # a list begins after an empty line
            lines.append(f"* `{item[1]}`: {item[2]}")
            in_item = True
        elif heading:
            lines += [f"**{heading[1]}**", ""]
            in_item = False
        else:
            in_item = in_item and bool(line)
            lines.append(f"  {line}" if in_item else line)
    return "\n".join(lines)
