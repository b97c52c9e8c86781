"""Hostile and broken checkpoints, drawn at random: configurations, headers, pickles, archives, shards.

`cases(random)` yields cases without end. Each writes files into an empty folder and says what may come of reading them:
either the model that the files describe, or one of the few public errors that names the file.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import random as random_module
import struct
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import weights
from mask2former import Mask2Former, Mask2FormerConfig
from oneformer.config import OneFormerConfig
from oneformer.model import OneFormer
from weights.checkpoint import Checkpoint, write_hub, write_native, write_original
from weights.class_names import class_list

SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
DINAT = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "kernel_size": 3,
         "dilations": [[2], [1], [1], [1]], "mlp_ratio": 2.0}  # fmt: skip
CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
SIZES = {"hidden_dim": 32, "mask_dim": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2,
         "encoder_feedforward_dim": 32, "decoder_feedforward_dim": 32, "num_queries": 6, "num_classes": 2}  # fmt: skip
TEXT = {"text_branch": True, "text_width": 64, "text_layers": 1, "text_vocabulary": 50, "text_contexts": 2}
TOYS: dict[str, Callable[[], Any]] = {
    "swin": lambda: Mask2Former(Mask2FormerConfig(backbone_options=SWIN, **SIZES)),
    "resnet": lambda: Mask2Former(Mask2FormerConfig("resnet18", RESNET, **SIZES)),
    "oneformer": lambda: OneFormer(OneFormerConfig(backbone_options=SWIN, **SIZES, **TEXT)),
    "dinat": lambda: OneFormer(OneFormerConfig("dinat_large", DINAT, **SIZES)),
    "convnext": lambda: OneFormer(OneFormerConfig("convnext_tiny", CONVNEXT, **SIZES)),
}
# what released files of the hub have beside what is read
STRAY = {"architectures": ["X"], "torch_dtype": "float32", "ignore_value": 255, "init_std": 0.02, "backbone": None,
         "backbone_kwargs": None, "use_timm_backbone": False, "strides": [4, 8, 16, 32], "output_attentions": True,
         "num_hidden_layers": 10, "transformers_version": "4.25.0.dev0"}  # fmt: skip
PREPROCESSOR = {"do_normalize": True, "do_rescale": True, "do_resize": True, "ignore_index": 255, "size_divisor": 32,
                "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 2,
                "rescale_factor": 1 / 255, "size": {"height": 384, "width": 384}}  # fmt: skip
CLASSES = [{"name": "cat", "is_thing": True, "color": [1, 2, 3], "dataset_id": 17}, "sky", {"name": "sea"}]

# in place of a value, or under a new name
NONSENSE = (
    *(
        None,
        True,
        False,
        0,
        1,
        2,
        -1,
        -(10**9),
        10**9,
        2**63,
        10**30,
        int("9" * 400),
        0.5,
        -0.5,
        1.5,
        3.0,
        1e308,
        1e-320,
    ),
    *(float("nan"), float("inf"), -float("inf"), "", "0", "8", "false", "nan", "x" * 10_000, "../../etc/passwd", "\0"),
    *([], [[]], {}, [None], [1, 2, 3, 4], [10**9] * 4, ["1"], {"a": 1}, [[[[[[1]]]]]], {"0": {"0": {"0": 0}}}),
    *("hf-hub:someone/model", "local-dir:.", "resnet50", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"),
)
UNKNOWN = (
    *("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "features_only"),
    *("feature_cls", "pruned", "num_classes", "act_layer", "norm_layer", "scriptable", "__class__", "self"),
)


@dataclass
class Case:
    """name: for the report. write(folder): makes the files and returns the source to read. read(source): what to do.
    check(result, folder): raises AssertionError where what came is not what the files say."""

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    check: Callable[[Any, Path], None] = lambda result, folder: None


def cases(random: random_module.Random) -> Iterator[Case]:
    """Cases of every kind, without end; the same for the same state of `random`."""
    kinds = (native_config, hub_config, preprocessor, shard_index, classes_file, safetensors_header, pkl, pth, names)
    while True:
        yield random.choice(kinds)(random)


def run(case: Case, folder: Path) -> str:
    """ "loaded" or "refused". Raises AssertionError for every other outcome."""
    source = case.write(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = case.read(source)
    except (weights.CheckpointError, FileNotFoundError) as error:
        assert folder.name in str(error), f"{case.name}: the file is not named: {error}"
        return "refused"
    except ValueError as error:
        assert type(error) is ValueError, f"{case.name}: {type(error).__name__}: {error}"
        assert folder.name in str(error), f"{case.name}: the file is not named: {error}"
        return "refused"
    except Exception as error:
        raise AssertionError(f"{case.name}: {type(error).__name__}: {error}") from error
    case.check(result, folder)
    return "loaded"


@cache
def toy(name: str) -> tuple[Any, dict[str, bytes]]:
    """A toy model, and the files of all its layouts: native/…, hub/…, model.pkl, model.pth."""
    torch.manual_seed(0)
    model = TOYS[name]()
    checkpoint = Checkpoint(model.config, dict(model.state_dict()), "toy")
    with tempfile.TemporaryDirectory() as folder:
        write_native(checkpoint, Path(folder) / "native")
        write_original(checkpoint, Path(folder) / "model.pkl")
        write_original(checkpoint, Path(folder) / "model.pth")
        write_hub(checkpoint, Path(folder) / "hub")
        files = {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
    return model, files


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def layout_files(name: str, layout: str) -> dict[str, bytes]:
    return {k.partition("/")[2]: v for k, v in toy(name)[1].items() if k.startswith(layout + "/")}


def native_config(random: random_module.Random) -> Case:
    name = random.choice(("swin", "swin", "oneformer", "dinat", "resnet"))
    files = layout_files(name, "native")
    values, how = mutated(json.loads(files["config.json"]), random)
    files["config.json"] = as_text(values, random)

    def check(model: Any, folder: Path) -> None:
        same_weights(model, name)
        said = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
        for key, value in model.config.to_dict().items():
            if key in said and key not in ("text_branch", "classes", "backbone_options", "protocol"):
                assert value == said[key] and type(value) in (type(said[key]), float), (how, key, value, said[key])

    return Case(f"native {name}: {how}", lambda folder: put(folder, files), weights.create_model, check)


def hub_config(random: random_module.Random) -> Case:
    name = random.choice(("swin", "oneformer", "dinat", "convnext"))
    files = layout_files(name, "hub")
    values, how = mutated({**json.loads(files["config.json"]), **STRAY}, random)
    files["config.json"] = as_text(values, random)

    def check(model: Any, folder: Path) -> None:
        same_weights(model, name)
        for key in ("num_heads", "encoder_points", "num_queries", "decoder_layers", "num_classes", "hidden_dim"):
            assert getattr(model.config, key) == getattr(toy(name)[0].config, key), (how, key)

    return Case(f"hub {name}: {how}", lambda folder: put(folder, files), weights.create_model, check)


def preprocessor(random: random_module.Random) -> Case:
    file = random.choice(("preprocessor_config.json", "processor_config.json"))
    values, how = mutated(PREPROCESSOR if file[:3] == "pre" else {"image_processor": PREPROCESSOR}, random)
    files = {k: v for k, v in layout_files("swin", "hub").items() if "processor" not in k}
    files[file] = as_text(values, random)

    def check(model: Any, folder: Path) -> None:
        protocol = model.config.protocol
        assert min(protocol.pixel_std) > 0 and all(type(x) is float and abs(x) < 1e12 for x in protocol.pixel_mean), how
        assert all(0 < side <= 8192 for side in (protocol.short_side, protocol.long_side)), how

    return Case(f"{file}: {how}", lambda folder: put(folder, files), weights.create_model, check)


def shard_index(random: random_module.Random) -> Case:
    files = layout_files("swin", "hub")
    state = list(parse_safetensors(files.pop("model.safetensors")))
    half = len(state) // 2
    parts = {"model-00001-of-00002.safetensors": state[:half], "model-00002-of-00002.safetensors": state[half:]}
    index = {"metadata": {"total_size": 1}, "weight_map": {entry[0]: k for k, part in parts.items() for entry in part}}
    how = random.choice(("mutated", "outside", "absolute", "twice", "lacks", "more", "whole"))
    first, second = parts
    if how == "mutated":
        index, how = mutated(index, random)
    elif how in ("outside", "absolute"):
        path = random.choice(("../", "sub/../../", "./", "..\\")) if how == "outside" else "/etc/"
        for entry in random.sample(sorted(index["weight_map"]), 3):
            index["weight_map"][entry] = path + first
    elif how == "twice":
        parts[second].append(parts[first][random.randrange(half)])
    elif how == "lacks":
        parts[first].pop(random.randrange(half))
    elif how == "more":
        parts[first].append(("surplus", *parts[first][0][1:]))
    files |= {shard: build_safetensors(part) for shard, part in parts.items()}
    files["model.safetensors.index.json"] = as_text(index, random)
    return Case(
        f"shards: {how}",
        lambda folder: put(folder, files),
        weights.create_model,
        lambda model, folder: same_weights(model, "swin"),
    )


def classes_file(random: random_module.Random) -> Case:
    values, how = mutated(CLASSES, random)
    text = as_text(values, random)

    def check(classes: Any, folder: Path) -> None:
        said = json.loads((folder / "classes.json").read_text(encoding="utf-8-sig"))
        assert [c.name for c in classes] == [c if isinstance(c, str) else c["name"] for c in said], how
        assert all(type(c.is_thing) is bool and all(0 <= x <= 255 for x in c.color) for c in classes), how
        assert len({c.name for c in classes}) == len({c.dataset_id for c in classes}) == len(classes), how

    return Case(f"classes: {how}", lambda f: put(f, {"classes.json": text}) / "classes.json", class_list, check)


def safetensors_header(random: random_module.Random) -> Case:
    files = layout_files("swin", "native")
    content = files["model.safetensors"]
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    how = random.choice(("mutated", "type", "length", "cut", "renamed", "numbers"))
    if how == "mutated":
        header, how = mutated(header, random, depth=3)
    elif how == "type":
        entry = random.choice([v for k, v in header.items() if k != "__metadata__"])
        entry["dtype"] = random.choice(("I32", "F32", "U8", "BOOL", "F8_E4M3", "C64", "I64", "F64", "x", 1))
    elif how == "renamed":
        old = random.choice([k for k in header if k != "__metadata__"])
        header[old.replace("0", random.choice(("999999999", "01", "٠", "9" * 5000, "-1")))] = header.pop(old)
    text = as_text(header, random, whole=True)
    content = struct.pack("<Q", len(text)) + text + data
    if how == "length":
        content = struct.pack("<Q", random.choice((0, 1, 2**20, 2**40, 2**63, 2**64 - 1))) + content[8:]
    elif how == "cut":
        content = content[: random.randrange(len(content))]
    elif how == "numbers":
        place = 8 + len(text) + 4 * random.randrange(len(data) // 4)
        number = random.choice((float("nan"), float("inf"), -float("inf")))
        content = content[:place] + struct.pack("<f", number) + content[place + 4 :]
    files["model.safetensors"] = content
    return Case(f"header: {how}", lambda folder: put(folder, files), weights.create_model, plain_and_finite)


def pkl(random: random_module.Random) -> Case:
    content, how = program(toy(random.choice(("swin", "oneformer")))[1]["model.pkl"], random)
    return Case(
        f"pkl: {how}",
        lambda folder: put(folder, {"model.pkl": content}) / "model.pkl",
        weights.create_model,
        plain_and_finite,
    )


def pth(random: random_module.Random) -> Case:
    content = toy("oneformer")[1]["model.pth"]
    if random.random() < 0.3:  # as torch wrote it before 1.6
        file = io.BytesIO()
        torch.save(torch.load(io.BytesIO(content), weights_only=True), file, _use_new_zipfile_serialization=False)
        old, how = file.getvalue(), "as of old, "
        start = old.index(b"\x80\x02}", 40)
        new, what = program(old[start:], random)
        content, how = old[:start] + new, how + what
    elif random.random() < 0.2:
        content, how = damaged(content, random), "damaged"
    else:
        file, how = io.BytesIO(), ""
        source = zipfile.ZipFile(io.BytesIO(content))
        with zipfile.ZipFile(file, "w") as archive:
            for member in source.infolist():
                record = source.read(member)
                if member.filename.endswith("data.pkl"):
                    record, how = program(record, random)
                elif random.random() < 0.002:
                    record, how = record + bytes(10**7), how + ", a longer storage"
                packed = zipfile.ZIP_DEFLATED if random.random() < 0.1 else zipfile.ZIP_STORED
                archive.writestr(member.filename, record, packed)
        content = file.getvalue()
    return Case(
        f"pth: {how}",
        lambda folder: put(folder, {"model.pth": content}) / "model.pth",
        weights.create_model,
        plain_and_finite,
    )


def names(random: random_module.Random) -> Case:
    """An original file with one entry renamed, reshaped or of another type."""
    file = io.BytesIO(toy("oneformer")[1]["model.pth"])
    model = OrderedDict(torch.load(file, weights_only=True)["model"])
    name = random.choice(list(model))
    tensor, how = model[name], random.choice(("renamed", "reshaped", "integer", "empty", "expanded", "gone", "nan"))
    if how == "renamed":
        digit = random.choice(("999999999", "00", "9" * 5000, "12", "-1", "٣", "1e3"))
        model["".join(digit if c.isdigit() else c for c in name)] = model.pop(name)
    elif how == "reshaped":
        model[name] = tensor.reshape(random.choice(((-1,), (1, -1), (-1, 1), (1, 1, 1, 1, -1))))
    elif how == "integer":
        model[name] = tensor.to(random.choice((torch.int64, torch.int8, torch.bool, torch.complex64)))
    elif how == "empty":
        model[name] = torch.zeros(random.choice(((0,), (10**9, 0), (0, 10**9), (2**40, 0, 3))))
    elif how == "expanded":
        model[name] = torch.zeros(()).expand(random.choice(((10**9,), (10**9, 32), (10**5, 10**5))))
    elif how == "gone":
        del model[name]
    elif tensor.is_floating_point():
        model[name] = torch.full_like(tensor, random.choice((float("nan"), float("inf"))))
    written = io.BytesIO()
    if how == "expanded" or random.random() < 0.5:
        torch.save({"model": model}, written)
        return Case(
            f"names: {how} {name}",
            lambda folder: put(folder, {"model.pth": written.getvalue()}) / "model.pth",
            weights.create_model,
            plain_and_finite,
        )
    arrays = {k: (v.resolve_conj() if v.is_complex() else v).numpy() for k, v in model.items()}
    pickle.dump({"model": arrays}, written, protocol=random.choice((3, 4, 5)))
    return Case(
        f"names: {how} {name}",
        lambda folder: put(folder, {"model.pkl": written.getvalue()}) / "model.pkl",
        weights.create_model,
        plain_and_finite,
    )


# --- Mutations --------------------------------------------------------------------------------------------------------


def mutated(values: Any, random: random_module.Random, depth: int = 4) -> tuple[Any, str]:
    """A copy with one to three things changed somewhere, and what was done."""
    values, done = json.loads(json.dumps(values)), []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        place, key, path = values, None, "$"
        for _ in range(random.randint(1, depth)):
            inner = place if key is None else place[key]
            if not isinstance(inner, dict | list) or not inner:
                break
            place, key = inner, random.choice(sorted(inner) if isinstance(inner, dict) else range(len(inner)))
            path += f".{key}"[:40]
        if key is None:
            return random.choice(NONSENSE), "something else"
        how = random.choice(("gone", "other", "other", "other", "new", "doubled"))
        if how == "gone":
            del place[key]
        elif how == "other":
            place[key] = random.choice(NONSENSE)
        elif how == "new":
            target = place[key] if isinstance(place[key], dict) else values
            if isinstance(target, dict):
                target[random.choice(UNKNOWN)] = random.choice(NONSENSE)
        elif isinstance(place, list):
            place.insert(key, place[key])
        elif isinstance(place[key], int | float) and not isinstance(place[key], bool):
            place[key] *= random.choice((2, -1, 1000, 10**6))
        done.append(f"{path} {how}")
    return values, ", ".join(done)


def as_text(values: Any, random: random_module.Random, whole: bool = False) -> bytes:
    """JSON, now and then with something that only its text can have. whole: without such."""
    text = json.dumps(values, ensure_ascii=False)
    chance = 1.0 if whole else random.random()
    if chance < 0.02:
        text = text[: random.randrange(len(text) + 1)]
    elif chance < 0.05 and isinstance(values, dict) and values:
        key = random.choice(sorted(values))
        text = text[:-1] + f", {json.dumps(key)}: {json.dumps(random.choice(NONSENSE))}}}"
    elif chance < 0.06:
        text = "[" * 100_000
    elif chance < 0.08:
        return b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass")
    elif chance < 0.09:
        return text.encode("utf-16", "surrogatepass")
    return text.encode("utf-8", "surrogatepass")


def program(content: bytes, random: random_module.Random) -> tuple[bytes, str]:
    """A pickle with some of its opcodes changed, or one written out of opcodes."""
    how = random.choice(("hostile", "opcodes", "opcodes", "arguments", "damaged", "random"))
    if how == "hostile":
        name = random.choice(sorted(HOSTILE))
        if random.random() < 0.5:
            return HOSTILE[name], f"hostile, {name}"
        return content[:2] + HOSTILE[name][2:-1] + b"0" + content[2:], f"hostile before, {name}"
    if how == "damaged":
        return damaged(content, random), how
    if how == "random":
        codes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
        body = b"".join(random.choice(codes) + random.randbytes(random.choice((0, 0, 1, 4))) for _ in range(50))
        return b"\x80\x04" + body + b".", how
    places = [place for _, _, place in pickletools.genops(content)]
    places.append(places[-1] + 1)
    k = random.randrange(len(places) - 1)
    start, end = places[k], places[k + 1]
    opcode = content[start:end]
    if how == "arguments":
        changed = opcode[:1] + random.randbytes(len(opcode) - 1)
    else:
        codes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
        changed = random.choice((b"", opcode * 2, random.choice(codes) + opcode[1:], random.choice(codes)))
    return content[:start] + changed + content[end:], f"{how} at {start}"


def damaged(content: bytes, random: random_module.Random) -> bytes:
    if random.random() < 0.3:
        return content[: random.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 5, 50))):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def nested(count: int, code: bytes) -> bytes:
    return b"\x80\x04}\x8c\x05model})" + code * count + b"K\x01ss."


HOSTILE = {
    "a nested key": nested(1_000_000, b"\x85"),
    "a key of doubled tuples": b"\x80\x04}\x8c\x05model})"
    + b"".join(b"\x94h" + bytes([k]) + b"\x86" for k in range(40))
    + b"K\x01ss.",
    "a memo index": b"\x80\x02}r\xff\xff\xff\x07X\x05\x00\x00\x00model}s.",
    "a memo index in a model": b"\x80\x02}X\x05\x00\x00\x00model}r\xfe\xff\xff\x07s.",
    "bytes that are not there": b"\x80\x04}\x8c\x05model}\x8c\x01a\x8e\xff\xff\xff\xff\x00\x00\x00\x00xss.",
    "a frame that is not there": b"\x80\x04\x95\xff\xff\xff\x7f\x00\x00\x00\x00}\x8c\x05model}s.",
    "a string that is not there": b"\x80\x04}X\xff\xff\xff\x7fmodel}s.",
    "attributes on a function": b"\x80\x02cnumpy.core.multiarray\nscalar\n}X\x04\x00\x00\x00evilK\x01sb0}.",
    "attributes on a type": b"\x80\x02cnumpy\ndtype\n}X\x04\x00\x00\x00evilK\x01sb0}.",
    "slots on a type": b"\x80\x02cnumpy\nndarray\nN}X\x08\x00\x00\x00__init__K\x01s\x86b0}.",
    "a dict whose get is a number": b"\x80\x02ccollections\nOrderedDict\n)R}X\x03\x00\x00\x00getK\x01sb.",
    "a call of a call": b"\x80\x02ccollections\nOrderedDict\n)R)R.",
    "an import": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
    "an import by stack": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "an old import": b"(S'true'\nios\nsystem\n.",
    "an attribute of what is admitted": b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93)R.",
    "an extension": b"\x80\x02\x82\x01.",
    "a long integer": b"\x80\x02}\x8b\xff\xff\xff\x7f\x01\x01s.",
    "a set of nothing": b"\x80\x04\x8f(K\x01K\x02\x90.",
    "many opcodes": b"\x80\x02(" + b"]" * 250_000 + b"t.",
    "no end": b"\x80\x02}",
    "an unhashable key": b"\x80\x02}]K\x01s.",
}


# --- Safetensors, and what a model must be ----------------------------------------------------------------------------


def parse_safetensors(content: bytes) -> Iterator[tuple[str, str, list[int], bytes]]:
    length = struct.unpack("<Q", content[:8])[0]
    for name, entry in json.loads(content[8 : 8 + length]).items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            yield name, entry["dtype"], entry["shape"], content[8 + length + start : 8 + length + end]


def build_safetensors(entries: list[tuple[str, str, list[int], bytes]]) -> bytes:
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, dtype, shape, numbers in entries:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(numbers)]}
        data += numbers
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def same_weights(model: Any, name: str) -> None:
    expected, found = toy(name)[0].state_dict(), model.state_dict()
    text = ("text_encoder.", "text_projector.", "text_context")
    assert {k for k in expected if not k.startswith(text)} == {k for k in found if not k.startswith(text)}
    assert all(torch.equal(value, expected[k]) for k, value in found.items())


def plain_and_finite(model: Any, folder: Path) -> None:
    for name, tensor in model.state_dict().items():
        assert tensor.dtype in (torch.float32, torch.int64) and tensor.isfinite().all(), name
