"""Reading and writing a Detectron2 `.pkl` without trusting it.

A pickle is a program: loading it the plain way may call anything, and numpy's own constructors, given hostile
arguments, make arrays of pointers out of bytes. So the reader here lets a pickle call nothing of numpy: it stands in
for the few names numpy's arrays are pickled with, notes what they say, and makes the arrays itself. Every other name
is refused.
"""

from __future__ import annotations

import collections
import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class UnsafePickleError(ValueError):
    """The pickle names something that is neither a numpy array nor a plain container."""


def read_pickle(path: Path | str) -> dict[str, Tensor]:
    """The weights of a `{'model': {name: array}, …}` file as name → tensor.

    Raises UnsafePickleError naming what a hostile file asks for, ValueError for a broken file or another content.
    """
    try:
        with open(path, "rb") as file:
            content = _Reader(file).load()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # a broken pickle raises nearly anything
        raise ValueError(
            f"{path}: broken or truncated pickle ({type(error).__name__}: {error}); get it again"
        ) from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise ValueError(f"{path}: expected a pickled dict with an entry 'model' that maps names to arrays")
    others = [f"{name!r} ({type(value).__name__})" for name, value in model.items() if not isinstance(value, _Array)]
    if others:
        raise ValueError(f"{path}: these entries are no numpy arrays: {', '.join(others[:10])}")
    try:
        return {str(name): torch.from_numpy(array.to_numpy()) for name, array in model.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: an array cannot be read: {error}") from error


def write_pickle(path: Path, state: Mapping[str, Tensor], versions: Mapping[str, Any]) -> None:
    """Write tensors as numpy arrays in the layout Detectron2 reads; bfloat16, which numpy lacks, as float32.

    versions: module name → {'version': n}, which Detectron2 looks up in the state dict's `_metadata`.
    """
    arrays = collections.OrderedDict()
    for name, tensor in state.items():
        tensor = tensor.detach().cpu()
        arrays[name] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    arrays._metadata = dict(versions)
    buffer = io.BytesIO()
    pickle.dump({"model": arrays, "__author__": "mask2former"}, buffer, protocol=3)
    # Detectron2 mostly runs on numpy 1, which does not know its inner package by the name numpy 2 writes.
    path.write_bytes(buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1))


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")  # as numpy 2 and numpy 1 call their inner package
        if (module, name) not in _ADMITTED:
            raise UnsafePickleError(
                f"refused: the pickle names {module}.{name}, and loading it could run code; only numpy arrays, "
                "numbers, strings, lists, tuples and dicts are read"
            )
        return _ADMITTED[module, name]


class _Array:
    """What a pickle says about one array."""

    def __init__(self, dtype: _Type | None = None, shape: tuple = (), data: bytes = b"", fortran: bool = False):
        self.dtype, self.shape, self.data, self.fortran = dtype, shape, data, fortran

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def to_numpy(self) -> np.ndarray:
        if not isinstance(self.dtype, _Type) or not isinstance(self.data, bytes | bytearray):
            raise TypeError("its type or its data is not what numpy writes")
        array = np.frombuffer(self.data, self.dtype.to_numpy()).reshape(self.shape, order="F" if self.fortran else "C")
        return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


class _Type:
    """What a pickle says about the type of an array's numbers."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        self.code, self.byte_order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.byte_order = state[1]

    def to_numpy(self) -> np.dtype:
        if not re.fullmatch(r"b1|[fiu][1248]", self.code) or self.byte_order not in ("<", ">", "|", "="):
            raise TypeError(f"its numbers are of type {self.code!r}")
        return np.dtype(self.code).newbyteorder(self.byte_order)


class _ArrayClass:
    """`numpy.ndarray` as a name; calling it is what only a hostile pickle does."""

    def __init__(self, *_):
        raise UnsafePickleError("refused: the pickle calls numpy.ndarray, which makes arrays out of raw memory")


_ADMITTED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, code: _Array(),  # its state follows
    ("numpy.core.multiarray", "scalar"): lambda dtype, data: _Array(dtype, (), data),
    # of pickle protocol 5; numpy 2.3 added how the axes are ordered, for orders other than C and F
    ("numpy.core.numeric", "_frombuffer"): lambda data, dtype, shape, order: _Array(dtype, shape, data, order == "F"),
}
