"""Made-up datasets, whole and hostile, and what a plain reader of each makes of them.

`make(kind, random, folder)` writes one and returns a `Case`; `check(case)` reads it with the project and says whether
the result was "right" or "refused" by name. Anything else is a `Fault`: another exception, a refusal of what was left
untouched, or a result where the plain reader sees none, or another one. The plain readers are slow, know nothing of
the project, and take nothing for granted: what the formats leave open is `Unclear`, and must have been refused.
"""

from __future__ import annotations

import copy
import io
import json
import os
import struct
import traceback
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from mask2former.data import DataError, open_dataset, training_transform

HEIGHT, WIDTH = 12, 16
TABLE = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
ODD = [0, -1, 1, 2, 1.5, 1.0, True, False, None, "0", "1", "false", "", "x", [], {}, [[]], 10**19, -(10**19), 1e300]
ODD += [
    2**63,
    2**31,
    256**3,
    float("nan"),
    float("inf"),
    "../1.jpg",
    "/etc/passwd",
    "a\0b",
    "\udcff",
    [1, 2, 3],
    "é" * 300,
]
PLACE = "a number of 400 digits stands here"


class Fault(AssertionError):
    """The project did with a case what it must not do."""


class Unclear(Exception):
    """The plain reader cannot tell what is meant."""


@dataclass
class Case:
    kind: str
    spec: Any
    options: dict[str, Any]
    what: str  # was done to it, for the report
    untouched: bool
    reader: Callable[[], dict[Any, Any]]  # image id → masks as `seen` gives them, or Unclear; raises Unclear


def make(kind: str, random: Random, folder: Path) -> Case:
    """Write a dataset of some kind into an empty folder."""
    return KINDS[kind](random, folder)


def check(case: Case) -> str:
    """ "right" or "refused"; raises Fault."""
    try:
        expected: Any = case.reader()
    except Unclear as reason:
        expected = reason
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = open_dataset(case.spec, **case.options)
            ids = [dataset.image_id(index) for index in range(len(dataset))]
    except Exception as error:
        return refused(case, error, isinstance(expected, dict) and not any_unclear(expected))
    if isinstance(expected, Unclear):
        raise Fault(f"{case.kind}, {case.what}: opened, but {expected}")
    if len(set(ids)) < len(ids) or set(ids) != set(expected):
        raise Fault(f"{case.kind}, {case.what}: photos {ids}, expected {list(expected)}")
    outcome = "right"
    for index, image_id in enumerate(ids):
        want = expected[image_id]
        try:
            found = seen(dataset.annotation(index), dataset.classes)
            dataset.problems(index)
            dataset[index]
            for task in dataset.tasks:
                truth = dataset.ground_truth(index, task)
                truth.targets(), truth.to_coco(), truth.areas()
            training_transform(dataset.recipe, 16, dataset.tasks[0])(*dataset[index])
        except Exception as error:
            outcome = refused(case, error, not isinstance(want, Unclear))
            continue
        if isinstance(want, Unclear):
            raise Fault(f"{case.kind}, {case.what}: photo {image_id!r} was read, but {want}")
        if found != want:
            raise Fault(f"{case.kind}, {case.what}: photo {image_id!r} has {names(found)}, expected {names(want)}")
    return outcome


def refused(case: Case, error: Exception, was_clear: bool) -> str:
    """Whether an exception is one that users may meet: its message is the project's own, and names what is wrong."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    own = f"{os.sep}mask2former{os.sep}" in last
    named = isinstance(error, DataError) or (type(error) in (ValueError, FileNotFoundError) and own)
    if not named or "\n" in str(error).strip() or len(str(error)) > 2000:
        raise Fault(f"{case.kind}, {case.what}: {type(error).__name__}: {str(error)[:300]} from {last}") from error
    if case.untouched and was_clear:
        raise Fault(f"{case.kind}: refused though nothing was wrong: {error}") from error
    return "refused"


def seen(annotation: Any, classes: Any) -> list[tuple[str, bool, bytes]]:
    masks = annotation.masks().numpy()
    rows = zip(annotation.labels.tolist(), annotation.is_crowd.tolist(), masks, strict=True)
    return sorted((classes[label].name, crowd, mask.tobytes()) for label, crowd, mask in rows)


def names(masks: Any) -> list[tuple[str, bool, int]]:
    return [(name, crowd, mask.count(1)) for name, crowd, mask in masks]


def any_unclear(expected: dict[Any, Any]) -> bool:
    return any(isinstance(masks, Unclear) for masks in expected.values())


# ------------------------------------------------------------------------------------------------------------ mutations


def mutate(content: Any, random: Random) -> tuple[Any, str]:
    """A JSON document changed in one place, and what was done."""
    content = copy.deepcopy(content)
    places = list(walk(content))
    parent, key, path = random.choice(places)
    action = random.choice(["odd", "odd", "odd", "delete", "twice", "text", "shift", "other", "number"])
    value = parent[key]
    if action == "delete":
        del parent[key]
    elif action == "twice" and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(value))
    elif action == "text" and not isinstance(value, dict | list):
        parent[key] = str(value)
    elif action == "shift" and type(value) in (int, float):
        parent[key] = value + random.choice([-1, 1, 7, 1000, 0.5, -1e7, 1e9])
    elif action == "other":
        other, name, _ = random.choice(places)
        parent[key] = copy.deepcopy(other[name]) if name in other or isinstance(other, list) else None
    elif action == "number":
        parent[key] = PLACE
    else:
        parent[key] = copy.deepcopy(random.choice(ODD))
    shown = repr(parent[key])[:40] if action != "delete" and (isinstance(parent, dict) or key < len(parent)) else ""
    return content, f"{action} at {path} {shown}"


def walk(content: Any, path: str = "$"):
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(entries):
        yield content, key, f"{path}[{key!r}]"
        yield from walk(value, f"{path}[{key!r}]")


def json_text(content: Any, random: Random, hurt: bool) -> tuple[bytes, str]:
    text = json.dumps(content).replace(f'"{PLACE}"', "9" * 400).encode("utf-8", "surrogatepass")
    if not hurt:
        return text, ""
    action, k = random.choice(["cut", "flip", "insert", "nest"]), random.randrange(len(text))
    if action == "cut":
        return text[:k], f"cut at {k}"
    if action == "flip":
        return text[:k] + bytes([text[k] ^ 1 << random.randrange(8)]) + text[k + 1 :], f"flip at {k}"
    if action == "insert":
        return text[:k] + random.choice([b"\0", b"\xff", b"[", b"}", b",", b"-", b"e", b"NaN"]) + text[
            k:
        ], f"insert at {k}"
    return text[:k] + b"[" * 100_000, f"nest at {k}"


def parse(text: bytes) -> dict[str, Any]:
    def no_constant(name: str) -> None:
        raise Unclear(f"{name} is no JSON")

    try:
        content = json.loads(text.removeprefix(b"\xef\xbb\xbf").decode(), parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise Unclear(f"no JSON: {error}") from None
    need(isinstance(content, dict), "no object")
    return content


def need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Unclear(otherwise)


def whole(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def identity(value: Any) -> int | str:
    need(whole(value) or (isinstance(value, str) and value != ""), f"the id {value!r}")
    return (
        int(value)
        if isinstance(value, str) and value.isascii() and value.isdigit() and str(int(value)) == value
        else value
    )


def unique(values: list[Any], what: str) -> None:
    need(len({repr(v) for v in values}) == len(values), f"{what} twice")


def flag(entry: dict[str, Any], name: str) -> bool:
    value = entry.get(name)
    need(value is None or type(value) is bool or (type(value) is int and value in (0, 1)), f"{name} {value!r}")
    return bool(value)


def images_and_categories(content: dict[str, Any], sized: bool) -> tuple[dict[Any, dict], dict[int, str]]:
    for key in ("images", "categories", "annotations"):
        need(isinstance(content.get(key), list), f"no list {key}")
        need(all(isinstance(entry, dict) for entry in content[key]), f"an entry of {key} is no object")
    images = {}
    for image in content["images"]:
        name = image.get("file_name")
        need(
            isinstance(name, str) and name != "" and ".." not in name and name[0] != "/" and "\0" not in name,
            "a file_name",
        )
        for side in ("height", "width"):
            value = image.get(side)
            need((value is None and not sized) or (whole(value) and value > 0), f"{side} {value!r}")
        images[identity(image.get("id"))] = image
    unique([identity(image["id"]) for image in content["images"]], "an image id")
    unique([image["file_name"] for image in content["images"]], "a file_name")
    categories = {}
    for category in content["categories"]:
        need(isinstance(category.get("name"), str) and category["name"] != "", "a category without a name")
        key = identity(category.get("id"))
        need(whole(key), f"a category id {key!r}")
        need(key not in categories, "a category id twice")
        categories[key] = category["name"]
    return images, categories


# ------------------------------------------------------------------------------------------------------------ the kinds


def photos(folder: Path, count: int, random: Random) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.new("RGB", (WIDTH, HEIGHT), (random.randrange(256),) * 3).save(folder / f"{k}.jpg")


def instance_case(random: Random, folder: Path) -> Case:
    count = random.randint(1, 3)
    photos(folder / "images", count, random)
    annotations = []
    for k in range(random.randint(0, 5)):
        x, y = random.randrange(WIDTH - 3), random.randrange(HEIGHT - 3)
        right, bottom = random.randint(x + 1, WIDTH), random.randint(y + 1, HEIGHT)
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y:bottom, x:right] = True
        outline: Any = [[x, y, right, y, right, bottom, x, float(bottom)]]
        if random.random() < 0.6:
            counts = run_lengths(mask)
            outline = {"size": [HEIGHT, WIDTH], "counts": counts if random.random() < 0.5 else compressed(counts)}
        entry = {
            "id": k,
            "image_id": random.randrange(count),
            "category_id": random.choice([1, 2]),
            "segmentation": outline,
        }
        entry |= random.choice([{}, {"iscrowd": random.randrange(2)}, {"iscrowd": False}])
        entry |= random.choice([{}, {"area": int(mask.sum())}, {"area": float(mask.sum())}, {"area": None}])
        annotations.append(entry)
    content: dict[str, Any] = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "height": HEIGHT, "width": WIDTH} for k in range(count)],
        "categories": [{"id": c["id"], "name": c["name"]} for c in TABLE],
        "annotations": annotations,
    }
    content, text, what = hurt_json(content, random)
    (folder / "objects.json").write_bytes(text)
    spec = f"coco-instance:{folder / 'images'}:{folder / 'objects.json'}"
    return Case("instance", spec, {}, what, not what, lambda: read_instances(text, folder / "images"))


def hurt_json(content: Any, random: Random) -> tuple[Any, bytes, str]:
    """Perhaps one or two places changed, perhaps the text; and what was done, "" for nothing."""
    done = []
    for _ in range(random.choice([0, 0, 1, 1, 1, 2])):
        content, what = mutate(content, random)
        done.append(what)
    text, what = json_text(content, random, hurt=random.random() < 0.1)
    return content, text, "; ".join([*done, what] if what else done)


def read_instances(text: bytes, folder: Path) -> dict[Any, Any]:
    content = parse(text)
    images, categories = images_and_categories(content, sized=True)
    need(bool(images), "no image")
    used = set()
    found: dict[Any, Any] = {key: [] for key in images}
    for a in content["annotations"]:
        key, category = identity(a.get("image_id")), identity(a.get("category_id"))
        need(key in images and category in categories, f"annotation of {key!r}, {category!r}")
        used.add(category)
        if a.get("id") is not None:
            identity(a["id"])
        height, width = images[key]["height"], images[key]["width"]
        area = a.get("area")
        need(area is None or (type(area) in (int, float) and 0 <= area <= height * width), f"area {area!r}")
        crowd = flag(a, "iscrowd")
        if isinstance(found[key], list):
            try:
                mask = outline_mask(a.get("segmentation"), height, width)
                found[key].append((categories[category], crowd, mask.tobytes()))
            except Unclear as reason:
                found[key] = reason
    need(bool(categories), "no category")
    ids = [a["id"] for a in content["annotations"] if a.get("id") is not None]
    unique(ids, "an annotation id")
    same = [name for key, name in categories.items() if list(categories.values()).count(name) > 1 and key in used]
    need(len(set(same)) == len(same), "two categories of one name")
    dropped = [name for name in categories.values() if list(categories.values()).count(name) > 1 and name not in same]
    need(not dropped, "two categories of one name, unused")
    for key, image in images.items():
        if not right_photo(folder / image["file_name"], image["height"], image["width"]):
            found[key] = Unclear("the photo has another size or is not there")
    return {images[key]["id"]: sorted(v) if isinstance(v, list) else v for key, v in found.items()}


def right_photo(path: Path, height: int, width: int) -> bool:
    try:
        with Image.open(path) as image:
            return image.size == (width, height)
    except (OSError, ValueError):
        return False


def outline_mask(outline: Any, height: int, width: int) -> np.ndarray:
    """(height, width) bool, by pycocotools for polygons, which must be of numbers that reach into the photo."""
    if isinstance(outline, dict):
        size, counts = outline.get("size"), outline.get("counts")
        need(isinstance(size, list) and all(map(whole, size)) and size == [height, width], f"size {size!r}")
        if isinstance(counts, str):
            counts = plain_decompress(counts)
        need(isinstance(counts, list) and all(type(c) is int and c >= 0 for c in counts), "counts")
        need(sum(counts) == height * width, "counts of another sum")
        need(height * width < 10**7, "too large for the plain reader")
        flat = [k % 2 == 1 for k, count in enumerate(counts) for _ in range(count)]
        return np.array(flat, bool).reshape(width, height).T
    need(isinstance(outline, list) and bool(outline), "no outline")
    for polygon in outline:
        need(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0, "a polygon of odd length")
        need(all(type(v) in (int, float) and abs(v) <= 1e7 for v in polygon), "a point that is none")
    need(height * width < 10**7, "too large for the plain reader")
    inside = [
        max(p[::2]) >= 0 and min(p[::2]) <= width and max(p[1::2]) >= 0 and min(p[1::2]) <= height for p in outline
    ]
    need(any(inside), "an outline beside the photo")
    from pycocotools import mask as coco

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return coco.decode(coco.merge(coco.frPyObjects([[float(v) for v in p] for p in outline], height, width))) > 0


def run_lengths(mask: np.ndarray) -> list[int]:
    counts, value, run = [], False, 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    return [*counts, run]


def compressed(counts: list[int]) -> str:
    """COCO's text of counts, written after pycocotools' description of it."""
    text = ""
    for k, count in enumerate(counts):
        value = count - counts[k - 2] if k > 2 else count
        while True:
            digit, value = value & 31, value >> 5
            more = value != -1 if digit & 16 else value != 0
            text += chr(48 + (digit | 32 * more))
            if not more:
                break
    return text


def plain_decompress(text: str) -> list[int]:
    counts: list[int] = []
    digits: list[int] = []
    for character in text:
        code = ord(character) - 48
        need(0 <= code < 64, "a character of no count")
        digits.append(code & 31)
        if code & 32:
            continue
        value = sum(d << 5 * k for k, d in enumerate(digits)) - (1 << 5 * len(digits) if code & 16 else 0)
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        digits = []
    need(not digits, "counts cut off")
    return counts


# -------------------------------------------------------------------------------------------------- pictures of classes


def png(values: np.ndarray, depth: int, color: int, palette: bytes = b"") -> bytes:
    """A PNG written by hand: (H, W) or (H, W, C) values in the bits and colour type that are asked for."""
    rows = values.reshape(len(values), -1)
    if depth == 16:
        lines = [b"\0" + row.astype(">u2").tobytes() for row in rows]
    elif depth == 8:
        lines = [b"\0" + row.astype(np.uint8).tobytes() for row in rows]
    else:
        bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        lines = [b"\0" + np.packbits(row.reshape(-1)).tobytes() for row in bits]

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + (part(b"PLTE", palette) if palette else b"")
        + part(b"IDAT", zlib.compress(b"".join(lines))) + part(b"IEND", b"")
    )  # fmt: skip


def as_color(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1)


def write_map(path: Path, ids: np.ndarray, random: Random, deep: bool) -> tuple[str, np.ndarray | None]:
    """Write a map of ids in one of the ways that keep them, or a broken one: what was done, and what it then holds.

    deep: the ids need more than 8 bits, or the map must look as if they did.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    most = int(ids.max())
    ways: dict[str, Callable[[], bytes]] = {"in colour": lambda: png(as_color(ids), 8, 2)}
    if most < 65536:
        ways["in 16-bit grey"] = lambda: png(ids, 16, 0)
    if not deep:
        ways = {"in 8-bit grey": lambda: png(ids, 8, 0), "in a palette": lambda: png(ids, 8, 3, bytes(range(256)) * 3)}
        ways |= {f"in {bits}-bit grey": lambda bits=bits: png(ids, bits, 0) for bits in (1, 2, 4) if most < 2**bits}
    ways["opaque"] = lambda: png(np.concatenate([as_color(ids), np.full_like(ids, 255)[..., None]], -1), 8, 6)
    if not deep:
        del ways["opaque"]
    way = random.choice(list(ways))
    content = ways[way]()
    if random.random() < 0.8:
        path.write_bytes(content)
        return "", ids
    hurt = random.choice(["cut", "flip", "flip", "jpeg", "size", "bomb", "missing", "folder", "pipe", "deep colour",
                          "clear", "values", "empty", "float", "text bomb"])  # fmt: skip
    held: np.ndarray | None = None
    if hurt == "cut":
        content = content[: random.randrange(len(content) - 1)]
    elif hurt == "flip":
        k = random.randrange(len(content))
        content = content[:k] + bytes([content[k] ^ 1 << random.randrange(8)]) + content[k + 1 :]
    elif hurt == "jpeg":
        file = io.BytesIO()
        Image.fromarray(as_color(ids).astype(np.uint8)).save(file, "JPEG")
        content = file.getvalue()
    elif hurt == "size":
        held = ids.T.copy()
        content = png(as_color(held), 8, 2) if deep else png(held, 8, 0)
    elif hurt == "bomb":
        header = struct.pack(">IIBBBBB", 10**6, 10**6, 8, 2, 0, 0, 0)
        content = content[:12] + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + content[33:]
    elif hurt == "deep colour":
        content = png(as_color(ids) * 257, 16, 2)
    elif hurt == "clear":
        content = png(np.concatenate([as_color(ids), np.full_like(ids, 7)[..., None]], -1), 8, 6)
    elif hurt == "values":
        held = ids.copy()
        held[random.randrange(HEIGHT), random.randrange(WIDTH)] = random.choice([0, 1, 2, 3, 200, 254])
        content = png(as_color(held), 8, 2) if deep else png(held, 8, 0)
    elif hurt == "empty":
        content = b""
    elif hurt == "float":
        file = io.BytesIO()
        Image.fromarray(ids.astype(np.float32)).save(file, "TIFF")
        content = file.getvalue()
    elif hurt == "text bomb":
        data = b"x\0\0" + zlib.compress(b"\0" * 10**7)
        bomb = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
        content = content[:33] + bomb + content[33:]
    if hurt == "folder":
        path.mkdir()
    elif hurt == "pipe":
        os.mkfifo(path)
    elif hurt != "missing":
        path.write_bytes(content)
    return f"{path.name} {hurt} ({way})", held


def panoptic_case(random: Random, folder: Path) -> Case:
    count = random.randint(1, 3)
    photos(folder / "images", count, random)
    drawn, entries, done = {}, [], []
    for k in range(count):
        ids = np.zeros((HEIGHT, WIDTH), np.int64)
        segments = []
        for column in range(random.randint(0, 4)):
            identity = random.choice([column + 1, 300 + column, 70000 + column])
            ids[:, 3 * column : 3 * column + 3] = identity
            category = random.choice([1, 2])
            crowd = random.choice([{}, {"iscrowd": random.randrange(2)}])
            segments.append({"id": identity, "category_id": category, **crowd})
        what, drawn[f"{k}.png"] = write_map(folder / "maps" / f"{k}.png", ids, random, deep=True)
        done += [what] if what else []
        entries.append({"image_id": k, "file_name": f"{k}.png", "segments_info": segments})
    sizes = random.choice([{}, {"height": HEIGHT, "width": WIDTH}])
    content: dict[str, Any] = {
        "images": [{"id": k, "file_name": f"{k}.jpg", **sizes} for k in range(count)],
        "categories": copy.deepcopy(TABLE),
        "annotations": entries,
    }
    content, text, what = hurt_json(content, random)
    (folder / "maps.json").write_bytes(text)
    spec = f"coco-panoptic:{folder / 'images'}:{folder / 'maps.json'}"
    what = "; ".join([*done, what] if what else done)
    return Case("panoptic", spec, {}, what, not what, lambda: read_panoptic(text, folder / "images", drawn))


def read_panoptic(text: bytes, folder: Path, drawn: dict[str, np.ndarray | None]) -> dict[Any, Any]:
    content = parse(text)
    images, categories = images_and_categories(content, sized=False)
    need(bool(content["annotations"]), "no annotation")
    for c in content["categories"]:
        need(c.get("isthing") is not None, "no isthing")
        flag(c, "isthing")
    things = {identity(c["id"]): bool(c["isthing"]) for c in content["categories"]}
    found: dict[Any, Any] = {}
    used = set()
    for a in content["annotations"]:
        key = identity(a.get("image_id"))
        need(key in images, f"image {key!r}")
        need(images[key]["id"] not in found, "an image annotated twice")
        infos = a.get("segments_info")
        need(isinstance(infos, list) and all(isinstance(s, dict) for s in infos), "segments_info")
        need(isinstance(a.get("file_name"), str) and bool(a["file_name"]) and ".." not in a["file_name"], "file_name")
        need(not a["file_name"].startswith("/") and "\0" not in a["file_name"], "file_name")
        rows = []
        for s in infos:
            need(whole(s.get("id")) and 0 < s["id"] < 256**3, "a segment id")
            category = identity(s.get("category_id"))
            need(category in categories, "a category")
            used.add(category)
            rows.append((s["id"], category, flag(s, "iscrowd")))
        unique([row[0] for row in rows], "a segment id")
        ids = drawn.get(a["file_name"])
        image = images[key]
        found[image["id"]] = masks_of(ids, rows, categories, things)
        if ids is not None and not isinstance(found[image["id"]], Unclear):
            size = (image.get("height") or ids.shape[0], image.get("width") or ids.shape[1])
            whole_size = image.get("height") is None or image.get("width") is None
            if (size != ids.shape and not whole_size) or not right_photo(folder / image["file_name"], *ids.shape):
                found[image["id"]] = Unclear("another size")
    unique([a["file_name"] for a in content["annotations"]], "a map")
    values = list(categories.values())
    need(len(set(values)) == len(values) or any(values.count(v) > 1 for v in values), "names")
    for name in {v for v in values if values.count(v) > 1}:
        need(sum(categories[c] == name for c in used) == 1, "two categories of one name")
    return found


def masks_of(ids: np.ndarray | None, rows: Any, categories: dict[int, str], things: dict[int, bool]) -> Any:
    """The masks of listed ids; stuff of one class, crowd or not, is one."""
    if ids is None:
        return Unclear("a broken map")
    if {row[0] for row in rows} != set(np.unique(ids).tolist()) - {0}:
        return Unclear("ids that are not those of the map")
    merged: dict[Any, np.ndarray] = {}
    for identity_, category, crowd in rows:
        key = (categories[category], crowd, identity_ if things[category] else None)
        merged[key] = merged.get(key, np.zeros(ids.shape, bool)) | (ids == identity_)
    return sorted((name, crowd, mask.tobytes()) for (name, crowd, _), mask in merged.items())


def folder_case(random: Random, folder: Path) -> Case:
    count, deep = random.randint(1, 3), random.random() < 0.5
    photos(folder / "images", count, random)
    drawn, done = {}, []
    for k in range(count):
        ids = np.zeros((HEIGHT, WIDTH), np.int64)
        for column in range(4):
            ids[:, 4 * column : 4 * column + 4] = random.choice([0, 1, 2, 1001, 1002, 2000] if deep else [0, 1, 2, 255])
        what, drawn[str(k)] = write_map(folder / "masks" / f"{k}.png", ids, random, deep)
        done += [what] if what else []
    content, text, what = hurt_json(copy.deepcopy(TABLE), random)
    (folder / "classes.json").write_bytes(text)
    what = "; ".join([*done, what] if what else done)
    spec = f"folder:{folder}:all"
    return Case("folder", spec, {}, what, not what, lambda: read_folder(text, drawn, deep))


def read_folder(text: bytes, drawn: dict[str, np.ndarray | None], deep: bool) -> dict[Any, Any]:
    try:
        table = json.loads(text.decode(), parse_constant=lambda _: 1 / 0)
    except (ValueError, RecursionError, ZeroDivisionError) as error:
        raise Unclear(f"no JSON: {error}") from None
    need(isinstance(table, list) and bool(table) and all(isinstance(c, dict) for c in table), "no list")
    for c in table:
        need(whole(c.get("id")) and 0 <= c["id"] < 1000, "an id")
        need(isinstance(c.get("name"), str) and c["name"] != "", "a name")
        need(c.get("isthing") is not None, "isthing")
        flag(c, "isthing")
    unique([c["id"] for c in table], "an id")
    unique([c["name"] for c in table], "a name")
    categories = {c["id"]: c["name"] for c in table}
    things = {c["id"]: bool(c["isthing"]) for c in table}
    found: dict[Any, Any] = {}
    for name, ids in drawn.items():
        rows, values = [], [] if ids is None else np.unique(ids).tolist()
        for value in values:
            number = value // 1000 if value >= 1000 else value
            if number in categories:
                rows.append((value, number, False))
            elif number and not (number == 255 and not deep):
                ids = None
        if ids is not None and ids.shape != (HEIGHT, WIDTH):
            ids = None
        if ids is not None:
            ids = np.where(np.isin(ids, [row[0] for row in rows]), ids + 1, 0)
        found[name] = masks_of(ids, [(row[0] + 1, *row[1:]) for row in rows], categories, things)
    return found


def cityscapes_case(random: Random, folder: Path) -> Case:
    """Road, cars, a group; the maps in any of the ways."""
    count = random.randint(1, 2)
    cities = [random.choice(["ulm", "bonn"]) for _ in range(count)]
    drawn, done = {}, []
    for k, city in enumerate(cities):
        stem = f"{city}/x_{k}"
        path = folder / "leftImg8bit" / "val" / f"{stem}_leftImg8bit.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path)
        ids = np.full((HEIGHT, WIDTH), 7, np.int64)
        for column in range(3):
            ids[:, 4 * column : 4 * column + 4] = random.choice([4, 7, 24, 26000, 26001, 65535])
        what, drawn[f"x_{k}"] = write_map(
            folder / "gtFine" / "val" / f"{stem}_gtFine_instanceIds.png", ids, random, True
        )
        done += [what] if what else []
    categories, things = {7: "road", 24: "person", 26: "car"}, {7: False, 24: True, 26: True}

    def reader() -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for name, ids in drawn.items():
            rows = []
            for value in [] if ids is None else np.unique(ids).tolist():
                number = value // 1000 if value >= 1000 else value
                if value in (255, 65535):
                    continue
                if number > 33:
                    ids = None
                elif number in categories:
                    rows.append((value, number, things[number] and value < 1000))
                elif number > 6:
                    raise AssertionError(f"the plain reader does not know {number}")
            if ids is not None and ids.shape != (HEIGHT, WIDTH):
                ids = None
            if ids is not None:
                ids = np.where(np.isin(ids, [row[0] for row in rows]), ids, 0)
            found[name] = masks_of(ids, rows, categories, things)
        return found

    what = "; ".join(done)
    return Case("cityscapes", f"cityscapes:{folder}:val", {}, what, not what, reader)


def text_case(random: Random, folder: Path) -> Case:
    """DATA as somebody might type it, beside a good folder; nothing of it names a dataset."""
    photos(folder / "images", 1, random)
    kinds = [
        "coco-panoptic",
        "coco-instance",
        "ade20k-semantic",
        "cityscapes",
        "folder",
        "ade20k-panoptic",
        "",
        "yolo",
        "é",
    ]
    places = [
        str(folder),
        str(folder / "images"),
        str(folder / "nowhere"),
        "",
        "/",
        "x" * 5000,
        "a\0b",
        "\udcff",
        "~",
        "::",
    ]
    places += [
        f"{folder}:{folder}",
        f"{folder}/images:{folder}/no.json",
        f"{folder}:{folder}",
        f"{folder}/images/0.jpg",
        "..",
        "*",
    ]
    splits = ["", ":", ":val", ":all", ":..", ":*", ":" + "y" * 300, ":a\0", ":/", ":\udcff", ":x.json", ":[", ":**"]
    spec: Any = random.choice(kinds) + random.choice(["", ":", "::"]) + random.choice(places) + random.choice(splits)
    spec = random.choice(
        [spec, spec, spec, spec, [spec], [], [spec, spec], None, 5, Path(folder), [None], [[spec]], b"x", {}]
    )
    options: dict[str, Any] = {}
    if random.random() < 0.5:
        options["split"] = random.choice(["train", "", None, 5, "..", "x" * 300, "a\0", "\udcff"])
    if random.random() < 0.5:
        options["classes"] = random.choice([[], ["cat"], "cat", "supercategory", [["cat"]], [None], 5, [""], b"x", {}])
    if random.random() < 0.5:
        options["background"] = random.choice(["class", "ignore", "x", "", 5, [], {}])

    def reader() -> dict[Any, Any]:
        raise Unclear("no text names a dataset here")

    return Case("text", spec, options, f"{spec!r:.80} {options}", False, reader)


KINDS: dict[str, Callable[[Random, Path], Case]] = {
    "instance": instance_case,
    "panoptic": panoptic_case,
    "folder": folder_case,
    "cityscapes": cityscapes_case,
    "text": text_case,
}
