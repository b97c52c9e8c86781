"""Files of tensors, `.safetensors` and `.pth`, whole or in shards, each checked before anything in it is believed.

What a header or a pickle says of sizes is compared with the bytes that are there, before memory is taken for them.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from mask2former.errors import CheckpointError
from mask2former.schema import read_settings, short
from weights.pickle_opcodes import Note, Overview, UnsafePickleError, look_over
from weights.pickle_reader import regular_file
from weights.wrapped import weights_inside

# the first of these that a folder or a repository has
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MOST_ENTRIES = 20_000  # the original files have up to 831, the hub's a few hundred more
LONGEST_SIDE = 1 << 24  # of a tensor; the largest published one has 49,408 rows
LONGEST_HEADER = 32 << 20  # bytes of a `.safetensors`; a thousand entries take 0.2 MB
UNPACKED = 4  # times a `.pth`'s own size: torch does not compress
SURPLUS = 1 << 20  # bytes

# torch's storages, and the bytes of one number
STORAGES = {
    f"torch.{name}Storage": size
    for name, size in {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1,
                       "Byte": 1, "Bool": 1}.items()
}  # fmt: skip
REBUILD = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
ADMITTED = {
    "collections.OrderedDict",
    *REBUILD,
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.device",
    *STORAGES,
    *(f"torch.{name}" for name in DTYPES),
}
# as safetensors calls them; whatever else there is counts as no type for weights
DTYPE_NAMES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPE_NAMES |= {"I64": torch.int64, "I32": torch.int32}
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how a `.pth` before torch 1.6 begins


class ShardIndex(msgspec.Struct):
    """`model.safetensors.index.json`: which file has which entry."""

    weight_map: dict[str, str]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The entries of a folder's weights under the names they have there, whole or from shards."""
    for name, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_torch_state)):
        if (folder / name).is_file():
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _read_shards(index, read)
    raise FileNotFoundError(f"{folder} has neither model.safetensors nor pytorch_model.bin, whole or in shards")


def safetensors_files(folder: Path) -> list[Path]:
    """Those that `read_weights` reads; none where it reads a `pytorch_model.bin`."""
    whole, index = folder / WEIGHT_FILES[0], folder / WEIGHT_FILES[1]
    if whole.is_file() or not index.is_file() or (folder / WEIGHT_FILES[2]).is_file():
        return [whole] * whole.is_file()
    return [folder / shard for shard in shards(index)]


def shards(index: Path) -> dict[str, list[str]]:
    """The shards an index names, and the entries it says each has. Raises CheckpointError, FileNotFoundError."""
    found: dict[str, list[str]] = {}
    content = read_settings(index, ShardIndex, lambda problem: CheckpointError(f"{index}: {problem}"))
    for entry, shard in content.weight_map.items():
        found.setdefault(shard, []).append(entry)
    for shard in found:
        # only what is plain in every file system; a hub's cache has links there, which is fine
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}", shard) or ".." in shard:
            raise CheckpointError(
                f"{index}: the shard {short(shard)} is no plain name of a file beside it; nothing else is read"
            )
    if not found:
        raise CheckpointError(f"{index}: its weight_map is empty; get the folder again")
    return found


def _read_shards(index: Path, read: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for shard, entries in sorted(shards(index).items()):
        tensors = read(index.parent / shard)
        for problem, names in (
            ("lacks", entries - tensors.keys()),
            ("has, though the index does not say so,", tensors.keys() - set(entries)),
        ):
            if names:
                names = sorted(names)
                raise CheckpointError(
                    f"{index.parent / shard} {problem} {len(names)} entries: {', '.join(map(short, names[:10]))}; "
                    f"{index.name} and its shards must be of one model: get the folder again"
                )
        state.update(tensors)  # each entry is in one shard: the index has a name once
    return _checked(index, state)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """name → tensor. Raises CheckpointError for what is broken, FileNotFoundError."""
    regular_file(path)
    try:
        _check_header(path)
        state = load_file(path)  # whose reader compares each entry's bytes with its place, and all with the file's size
    except (SafetensorError, TypeError, RuntimeError, OverflowError, EOFError) as error:
        raise CheckpointError(f"{path}: broken or truncated ({error}); get it again") from error
    return _checked(path, state)


def safetensors_shapes(path: Path) -> dict[str, Tensor]:
    """The entries of a `.safetensors` on the meta device, without their numbers. Raises as `read_safetensors`."""
    regular_file(path)
    try:
        _check_header(path)
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            state = {
                name: torch.empty(part.get_shape(), dtype=DTYPE_NAMES.get(part.get_dtype(), torch.bool), device="meta")
                for name, part in parts.items()
            }
    except (SafetensorError, TypeError, RuntimeError, OverflowError, EOFError) as error:
        raise CheckpointError(f"{path}: broken or truncated ({error}); get it again") from error
    return state


def _check_header(path: Path) -> None:
    """Raise EOFError for a header longer than the file, CheckpointError where one entry is there twice."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size - 8:
            raise EOFError(f"its header is said to have {length} bytes")
        if length > LONGEST_HEADER:
            raise CheckpointError(f"{path}: a header of {length} bytes; at most {LONGEST_HEADER} are read")
        header = file.read(length)

    def once(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            twice = next(name for k, name in enumerate(names) if name in names[:k])
            raise CheckpointError(f"{path}: its header has {short(twice)} twice; get it again")

    try:
        json.loads(header, object_pairs_hook=once)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise EOFError(f"its header is no JSON: {error}") from None


def read_torch_state(path: Path) -> dict[str, Tensor]:
    """name → tensor of a `.pth`: a dict of tensors, or one inside a training run's dict (`wrapped.weights_inside`).

    Raises UnsafePickleError where reading it would run code, CheckpointError where it is broken, FileNotFoundError.
    """
    regular_file(path)
    try:
        _look_over_torch(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"{path} cannot be read as plain tensors, and reading it in another way could run code: {error}"
        ) from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except PermissionError:
        raise
    except Exception as error:  # a broken file raises nearly anything
        raise CheckpointError(f"{path}: broken or truncated ({error}); get it again") from error
    state, size = _checked(path, weights_inside(path, content)), path.stat().st_size
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if total > UNPACKED * size + SURPLUS:
        raise CheckpointError(f"{path}: its tensors have {total} bytes, the file {size}: too many share a storage")
    return state


def _look_over_torch(path: Path) -> None:
    """Raise CheckpointError unless the tensors in a `.pth` fit the bytes that are there."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"  # as torch tells them apart
    if is_archive:
        with zipfile.ZipFile(path) as archive:
            records = {member.filename: member.file_size for member in archive.infolist()}
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > UNPACKED * size + SURPLUS:
                raise CheckpointError(f"refused: {size} bytes would unpack to {unpacked}; torch does not compress")
            if len(records) < len(archive.infolist()):
                raise CheckpointError("broken: its archive has two records of one name; get it again")
            pickles = [name for name in records if name.endswith(".pkl")]
            if [name.rpartition("/")[2] for name in pickles] != ["data.pkl"]:
                raise CheckpointError(f"its archive has the pickles {short(pickles)}; expected one, data.pkl")
            program = archive.read(pickles[0])
        if torch._C.PyTorchFileReader(str(path)).get_record("data.pkl") != program:  # what torch will run
            raise CheckpointError("broken: its archive has two tables of records; get it again")
        overview = look_over(io.BytesIO(program), len(program), ADMITTED, "tensors", persistent=True)
        folder = pickles[0].removesuffix("data.pkl")
        _check_tensors(overview, size, {name.removeprefix(f"{folder}data/"): count for name, count in records.items()})
        return
    with open(path, "rb") as file:
        if file.read(len(LEGACY_MAGIC)) != LEGACY_MAGIC:
            raise CheckpointError("broken or truncated: it begins like no file of torch's; get it again")
        for _ in ("version", "system"):
            look_over(file, size, (), "tensors", more=True)
        overview = look_over(file, size, ADMITTED, "tensors", persistent=True, more=True)
        keys = look_over(file, size, (), "tensors", more=True).result.parts  # of the storages whose numbers follow
        if {key.value for key in keys} != {note.parts[2].value for note in overview.persistent if note.parts[2:]}:
            raise CheckpointError("broken or truncated: some of its storages have no numbers; get it again")
        _check_tensors(overview, size - file.tell(), None)


def _check_tensors(overview: Overview, size: int, records: Mapping[str, int] | None) -> None:
    """records: bytes of each storage, where they are told apart; else all are within `size` bytes."""
    storages: dict[str, int] = {}
    for note in overview.persistent:
        kind, storage, key, _, count = (*(part.value for part in note.parts), *[None] * 5)[:5]
        if kind != "storage" or storage not in STORAGES or type(key) is not str or type(count) is not int or count < 0:
            raise CheckpointError(
                f"broken: it refers to something that is no storage ({short(kind)}, {short(storage)})"
            )
        bytes_said = count * STORAGES[storage]
        if bytes_said > size if records is None else bytes_said != records.get(key):
            there = size if records is None else records.get(key)
            raise CheckpointError(
                f"broken or truncated: storage {short(key)} is said to have {bytes_said} bytes, there are {there}"
            )
        if storages.setdefault(key, bytes_said) != bytes_said:
            raise CheckpointError(f"broken: storage {short(key)} has two sizes; get it again")
    if records is None and sum(storages.values()) > size:
        raise CheckpointError(f"broken or truncated: its storages are said to have {sum(storages.values())} bytes")
    for call in overview.calls:
        if call.value not in REBUILD:
            continue
        storage, offset, shape, strides = (*call.parts, *[Note("missing")] * 4)[:4]
        count = storage.parts[4].value if storage.kind == "persistent" else -1
        sides, steps = [side.value for side in shape.parts], [step.value for step in strides.parts]
        numbers = [offset.value, *sides, *steps]
        if len(sides) != len(steps) or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
            raise CheckpointError(f"broken: a tensor of shape {short(sides)} and strides {short(steps)}; get it again")
        last = offset.value + sum((side - 1) * step for side, step in zip(sides, steps, strict=True))
        if math.prod(sides) and (last >= count or math.prod(sides) > count):
            raise CheckpointError(
                f"refused: a tensor of shape {short(tuple(sides))} and strides {short(tuple(steps))} in a storage of "
                f"{count} numbers"
            )


def _checked(path: Path, state: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    """The entries as plain tensors. Raises CheckpointError where one is not, or where they are too many."""
    if len(state) > MOST_ENTRIES:
        raise CheckpointError(f"{path}: {len(state)} entries; at most {MOST_ENTRIES} are read")
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: an entry has the name {short(name)}, which is no text")
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
        if not plain or tensor.is_meta or tensor.is_quantized:
            raise CheckpointError(f"{path}: entry {short(name)} is no plain tensor; only dense ones are read")
        if max(tensor.shape, default=0) > LONGEST_SIDE:
            raise CheckpointError(f"{path}: entry {short(name)} has shape {tuple(tensor.shape)}; is it the right file?")
    return {name: tensor.detach() for name, tensor in state.items()}
