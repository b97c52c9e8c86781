"""Names that a package offers without importing what they are made of before somebody asks for one (PEP 562).

So `import mask2former` costs milliseconds though `mask2former.create_model` needs PyTorch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose names live in other modules.

    homes: module → the names it gives, separated by spaces. A submodule is imported when it is asked for, too. A name
    must not be that of a submodule as well, which would replace it once imported (a test sees to it).
    """
    home_of = {name: module for module, names in homes.items() for name in names.split()}

    def get(name: str) -> Any:
        if name in home_of:
            value = getattr(import_module(home_of[name]), name)
            setattr(sys.modules[package], name, value)  # the next one need not ask
            return value
        if not name.startswith("_") and PathFinder.find_spec(f"{package}.{name}", sys.modules[package].__path__):
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])

    def list_names() -> list[str]:
        here = vars(sys.modules[package]).items()
        return sorted({*home_of, *(name for name, value in here if name[0] == "_" or isinstance(value, ModuleType))})

    return get, list_names
