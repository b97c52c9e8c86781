"""One annotation file of an export, damaged: bytes flipped or cut off, or one value of its JSON replaced."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

STRANGE = (None, "", "x", -1, 0, 1e30, 2**70, [], {}, [[]], [None], True, "../../x", "\\", "a" * 300, [[1, 2], [3]])
TEXTS = (".json", ".txt", ".yaml", ".xml", ".csv")


def damage(folder: Path, random: Random) -> str:
    """Returns what was done."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in (*TEXTS, ".png") and "README" not in p.name)
    file = random.choice(files)
    content = bytearray(file.read_bytes())
    way = (
        random.choice(["flip", "cut", "replace", "replace", "replace"])
        if file.suffix == ".json"
        else random.choice(["flip", "cut"])
    )
    if way == "cut":
        file.write_bytes(content[: random.randrange(len(content) + 1)])
    elif way == "flip":
        for _ in range(random.randint(1, 4)):
            if content:
                content[random.randrange(len(content))] = random.randrange(256)
        file.write_bytes(content)
    else:
        parsed = json.loads(content)
        places = list(walk(parsed))
        container, key = random.choice(places)
        value = random.choice(STRANGE)
        container[key] = value
        file.write_text(json.dumps(parsed))
        way = f"{key!r} = {value!r}"
    return f"{file.name}: {way}"


def walk(value: Any) -> Any:
    """Every place in a parsed JSON, as a container and a key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from walk(inner)
