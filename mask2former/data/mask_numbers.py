"""What the numbers of a mask mean where they could mean several things, told by all masks together.

* A grey picture of class numbers saved in colour has R = G = B, which read as one number is 65793 × the class.
* Class in red and instance in green, R + 256 G, is another class's instance where 1000 × class + instance is expected.
* Cityscapes' train ids, 0 … 18, are label ids as well, of other classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from mask2former.data.annotation import values_in
from mask2former.data.files import mode_of, read_map
from mask2former.errors import DataError

GREY = 0x010101  # R = G = B
LOOKED_AT = 40  # masks
INSTANCES_OF_CLASS = 1000
TRAIN_IDS = range(19)
NEVER_LABELS = {10, 14, 15, 16, 18}  # label ids that are rare and not evaluated: rail track, guard rail, bridge, …
UNLABELLED = 0.2  # of the pixels: label ids leave less without a class
ROAD = 7
PLATE = 255

ENCODED, GREY_IN_COLOUR, RED_AND_GREEN = "encoded", "grey", "red and green"
SAID = {
    GREY_IN_COLOUR: "masks are grey pictures saved in colour (R = G = B) and are read as grey",
    RED_AND_GREEN: "masks hold the class in red and the instance in green, and are read so",
}


def some(files: Sequence[Path]) -> list[Path]:
    return list(files[:: max(1, -(-len(files) // LOOKED_AT))])


def scheme_of(masks: Sequence[Path], classes: Collection[int]) -> str:
    """How masks in colour write class and instance; `ENCODED` is R + 256 G + 65536 B = 1000 × class + instance."""
    found = []  # the values of each mask in colour, but 0
    for path in some(masks):
        try:
            if mode_of(path) in ("RGB", "RGBA"):
                found.append([value for value in values_in(read_map(path)) if value])
        except DataError:  # said when it is read
            continue
    values = {value for of_mask in found for value in of_mask}
    if not values:
        return ENCODED
    if all(value % GREY == 0 for value in values):
        return GREY_IN_COLOUR
    if all(value < 256 for value in values):
        return ENCODED  # the two agree
    fits = all((value // INSTANCES_OF_CLASS or value) in classes for value in values)
    fits_red = all(value < 65536 and value % 256 in (*classes, PLATE) for value in values)
    if not fits_red:
        return ENCODED
    if not fits:
        return RED_AND_GREEN
    as_encoded = plausible([(value // INSTANCES_OF_CLASS, value % INSTANCES_OF_CLASS) for value in m] for m in found)
    as_red = plausible([(value % 256, value // 256) for value in m] for m in found)
    return RED_AND_GREEN if as_red > as_encoded else ENCODED


def plausible(pairs: Iterable[list[tuple[int, int]]]) -> float:
    """How often the instances of a class in a photo are numbered without large gaps, as people and programs do."""
    good = total = 0
    for of_mask in pairs:
        for label in {label for label, _ in of_mask}:
            numbers = [number for other, number in of_mask if other == label]
            total += 1
            good += max(numbers) <= 2 * len(numbers)
    return good / max(1, total)


def in_scheme(values: np.ndarray, scheme: str) -> np.ndarray:
    """A mask's values, as `read_map` has them, as class numbers and 1000 × class + instance."""
    if values.dtype == np.uint8 or scheme == ENCODED:
        return values
    if scheme == GREY_IN_COLOUR:
        return (values // GREY).astype(np.uint8) if not (values % GREY).any() else values
    red, green = values & 255, values >> 8 & 255
    return np.where(red == PLATE, 0, np.where(green > 0, red * INSTANCES_OF_CLASS + green, red)).astype(np.int32)


def are_train_ids(masks: Sequence[Path]) -> bool:
    """Whether Cityscapes masks, of labels or of instances, hold train ids under the names of label ids.

    Both schemes have the numbers 0 … 18. Taken for train ids are masks without a higher one that tell things of 11 … 18
    apart (as label ids those are none), hold label ids that hardly occur, or have no road but much of what would be
    unlabelled, or several classes.
    """
    values: set[int] = set()
    pixels = zeros = 0
    for path in some(masks):
        try:
            mask = read_map(path)
        except DataError:  # said when it is read
            continue
        values.update(values_in(mask))
        pixels, zeros = pixels + mask.size, zeros + np.count_nonzero(mask == 0)
    numbers = {value // INSTANCES_OF_CLASS if value >= INSTANCES_OF_CLASS else value for value in values}
    numbers -= {PLATE, 65535 // INSTANCES_OF_CLASS}
    if not numbers or max(numbers) not in TRAIN_IDS:
        return False
    told_apart = any(value // INSTANCES_OF_CLASS in range(11, 19) for value in values)
    no_road = ROAD not in numbers and (len(numbers) > 2 or zeros > UNLABELLED * pixels)
    return bool(told_apart or numbers & NEVER_LABELS or no_road)
