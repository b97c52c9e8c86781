"""Reading and writing a Detectron2 `.pkl` without trusting it.

A pickle is a program: loading it the plain way may call anything, and numpy's own constructors, given hostile
arguments, make arrays of pointers out of bytes. So the opcodes are looked over first (`pickle_opcodes`), and the reader
here lets a pickle call nothing of numpy: it stands in for the few names numpy's arrays are pickled with, notes what
they say, and makes the arrays itself. Every other name is refused.
"""

from __future__ import annotations

import collections
import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from mask2former.errors import CheckpointError
from mask2former.schema import short
from weights.pickle_opcodes import UnsafePickleError, look_over

# What a `.pkl` of Detectron2 calls, under the names of numpy 1.
ADMITTED = (
    "collections.OrderedDict",
    "numpy.ndarray",  # as a name that `_reconstruct` is given
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
)
SURPLUS = 1 << 20  # bytes that arrays may have over the file's own, for one that is met twice


def read_pickle(path: Path | str) -> dict[str, Tensor]:
    """The weights of a `{'model': {name: array}, …}` file as name → tensor.

    Raises UnsafePickleError naming what a hostile file asks for, CheckpointError for a broken file or another content.
    """
    path = regular_file(path)
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            look_over(file, size, ADMITTED, "numpy arrays")
            file.seek(0)
            content = _Reader(file).load()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: {error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except PermissionError:
        raise
    except Exception as error:  # a broken pickle raises nearly anything
        raise CheckpointError(
            f"{path}: broken or truncated pickle ({type(error).__name__}: {error}); get it again"
        ) from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise CheckpointError(f"{path}: expected a pickled dict with an entry 'model' that maps names to arrays")
    others = [
        f"{short(name)} ({type(value).__name__})"
        for name, value in model.items()
        if not isinstance(value, _Array) or not isinstance(name, str)
    ]
    if others:
        raise CheckpointError(f"{path}: these entries are no numpy arrays: {', '.join(others[:10])}")
    bytes_said = sum(len(array.data) for array in model.values() if isinstance(array.data, bytes | bytearray))
    if bytes_said > size + SURPLUS:
        raise CheckpointError(f"{path}: its arrays have {bytes_said} bytes, the file {size}: too many share them")
    tensors = {}
    for name, array in model.items():
        try:
            tensors[name] = torch.from_numpy(array.to_numpy())
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: the array {short(name)} cannot be read: {error}") from error
    return tensors


def regular_file(path: Path | str) -> Path:
    """The path, if a file lies there; a pipe would block whoever opens it. Raises FileNotFoundError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} {'is no regular file' if path.exists() else 'does not exist'}")
    return path


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
    """Stand-ins for what is admitted, made for this file alone, so that none can leave anything behind for another."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        made = (
            collections.OrderedDict,
            _ArrayClass,
            _Type,
            lambda kind, shape, code: _Array(),  # its state follows
            lambda dtype, data: _Array(dtype, (), data),
            # of pickle protocol 5; numpy 2.3 added how the axes are ordered, for orders other than C and F
            lambda data, dtype, shape, order: _Array(dtype, shape, data, order == "F"),
        )
        self.stand_ins = dict(zip(ADMITTED, made, strict=True))

    def find_class(self, module: str, name: str) -> Any:
        name = f"{module.replace('numpy._core', 'numpy.core')}.{name}"
        if name not in self.stand_ins:
            raise UnsafePickleError(f"refused: the pickle names {name}")
        return self.stand_ins[name]


class _Array:
    """What a pickle says about one array."""

    def __init__(self, dtype: _Type | None = None, shape: tuple = (), data: bytes = b"", fortran: bool = False):
        self.dtype, self.shape, self.data, self.fortran = dtype, shape, data, fortran

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def to_numpy(self) -> np.ndarray:
        if not isinstance(self.dtype, _Type) or not isinstance(self.data, bytes | bytearray):
            raise TypeError("its type or its data is not what numpy writes")
        if not isinstance(self.shape, tuple) or not all(type(n) is int and n >= 0 for n in self.shape):
            raise TypeError(f"its shape is {short(self.shape)}")
        array = np.frombuffer(self.data, self.dtype.to_numpy()).reshape(self.shape, order="F" if self.fortran else "C")
        return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


class _Type:
    """What a pickle says about the type of an array's numbers."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        self.code, self.byte_order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.byte_order = state[1]

    def to_numpy(self) -> np.dtype:
        if not isinstance(self.code, str) or not re.fullmatch(r"b1|[fiu][1248]", self.code):
            raise TypeError(f"its numbers are of type {short(self.code)}")
        if self.byte_order not in ("<", ">", "|", "="):
            raise TypeError(f"its byte order is {short(self.byte_order)}")
        return np.dtype(self.code).newbyteorder(self.byte_order)


class _ArrayClass:
    """`numpy.ndarray` as a name; calling it is what only a hostile pickle does."""

    def __init__(self, *_):
        raise UnsafePickleError("refused: the pickle calls numpy.ndarray, which makes arrays out of raw memory")
