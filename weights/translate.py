"""The name tables at work: state dicts of the published layouts renamed and re-cut into ours, and back.

A state dict is any mapping name → tensor; nothing here looks at values, so tensors on the meta device do as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from mask2former.errors import CheckpointError
from mask2former.schema import short
from weights import keys_backbone, keys_huggingface, keys_original

LAYOUTS = ("original", "hub")
TEXT_BRANCH = ("text_encoder.", "text_projector.", "text_context")  # our names of what only training needs
CRITERION = "criterion."  # our names of what the loss learns


@dataclass(frozen=True)
class Layout:
    """How one published layout names one kind of network. `layout_for` chooses the tables."""

    renamed: tuple[tuple[str, str], ...]  # (theirs, ours)
    fused: tuple[tuple[tuple[str, ...], str], ...] = ()  # three of theirs are the thirds of one of ours
    made: tuple[tuple[str, str, str], ...] = ()  # (theirs, the entry of ours beside it, its maker in MAKERS)
    ignored: tuple[str, ...] = ()  # theirs, in older files

    def to_native(self, theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Our names and tensors, and the names that the tables do not know.

        What can be made anew is left out; three tensors are fused only where all three are there and of one shape.
        """
        native, unknown, parts = {}, [], {}
        for name, tensor in theirs.items():
            if ours := _renamed(name, self.renamed):
                native[ours] = tensor
            elif match := self._part_of(name):
                ours, position = match
                parts.setdefault(ours, {})[position] = tensor
            elif not self.is_redundant(name):
                unknown.append(name)
        for ours, thirds in parts.items():
            alike = {(t.shape, tensor_kind(t)) for t in thirds.values()}
            if len(thirds) == 3 and len(alike) == 1 and next(iter(alike))[1] == "float":
                native[ours] = torch.cat([thirds[i] for i in range(3)])
        return native, unknown

    def from_native(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their names and tensors, with everything their files have. ValueError for a name the tables do not know."""
        theirs, unknown = {}, []
        backwards = tuple((o, t) for t, o in self.renamed)
        for name, tensor in ours.items():
            if new := _renamed(name, backwards):
                theirs[new] = tensor
            elif split := self._parts_of(name):
                theirs.update(zip(split, (third.clone() for third in tensor.chunk(3)), strict=True))
            else:
                unknown.append(name)
        if unknown:
            raise ValueError(f"this layout has no name for {_listed(unknown)}; write the native layout instead")
        for name, tensor in ours.items():
            for template, beside, maker in self.made:
                if new := _renamed(name, ((beside, template),)):
                    theirs.setdefault(new, MAKERS[maker](tensor))
        return theirs

    def is_redundant(self, theirs: str) -> bool:
        """Whether an entry of theirs says nothing that is not known without it."""
        return any(_pattern(t).fullmatch(theirs) for t in (*self.ignored, *(template for template, _, _ in self.made)))

    def _part_of(self, theirs: str) -> tuple[str, int] | None:
        for templates, ours in self.fused:
            for position, template in enumerate(templates):
                if new := _renamed(theirs, ((template, ours),)):
                    return new, position
        return None

    def _parts_of(self, ours: str) -> list[str]:
        for templates, template in self.fused:
            if _pattern(template).fullmatch(ours):
                return [_renamed(ours, ((template, theirs),)) for theirs in templates]
        return []


@cache
def layout_for(kind: str, family: str, backbone: str) -> Layout:
    """The tables for kind "original" or "hub", family "mask2former" or "oneformer", and a family of backbones.

    Raises ValueError where the layout has no such backbone.
    """
    oneformer = family == "oneformer"
    keys, prefix, backbones = {
        "original": (keys_original, keys_backbone.ORIGINAL_PREFIX, keys_backbone.ORIGINAL),
        "hub": (keys_huggingface, keys_backbone.HUB_PREFIX, keys_backbone.HUB),
    }[kind]
    if backbone not in backbones:
        raise ValueError(f"the {kind} layout has no backbone {backbone!r}, only {', '.join(backbones)}; use native")
    if kind == "original":
        head = keys.TRANSFORMER_DECODER + (keys.ONEFORMER if oneformer else ())
        fused, ignored = (), ()
        backbone_made = keys_backbone.ORIGINAL_MADE.get(backbone, ())
    else:
        head = keys.ONEFORMER if oneformer else keys.MASK2FORMER
        backbone_fused = keys_backbone.HUB_FUSED.get(backbone, ())
        fused = tuple((tuple(prefix + t for t in theirs), "backbone." + ours) for theirs, ours in backbone_fused)
        fused += keys.ONEFORMER_FUSED if oneformer else keys.MASK2FORMER_FUSED
        ignored = tuple(prefix + theirs for theirs in keys_backbone.HUB_IGNORED.get(backbone, ()))
        backbone_made = keys_backbone.HUB_MADE.get(backbone, ())
    renamed = tuple((prefix + theirs, "backbone." + ours) for theirs, ours in backbones[backbone])
    made = tuple((prefix + theirs, "backbone." + ours, maker) for theirs, ours, maker in backbone_made)
    return Layout(
        renamed + keys.PIXEL_DECODER + head + (keys.TEXT_BRANCH if oneformer else ()),
        fused,
        made + keys.MADE + (keys.MADE_ONEFORMER if oneformer else ()),
        ignored,
    )


def backbone_family(names: Iterable[str]) -> str | None:
    """swin, dinat, convnext, resnet or resnet_deep_stem, told by the names of any layout; None for any other."""
    names = list(names)
    for mark, family in keys_backbone.FAMILY_MARKS:
        if any(mark in name for name in names):
            return family
    return None


def model_family(names: Iterable[str]) -> str:
    """oneformer or mask2former, told by the names of any layout: only OneFormer has a task MLP."""
    return "oneformer" if any("task_mlp." in name for name in names) else "mask2former"


@dataclass
class EntriesError(CheckpointError):
    """A checkpoint whose entries are not its network's, with every one that is not."""

    source: str
    unknown: list[str] = field(default_factory=list)  # in the file, but nowhere in the network
    missing: list[str] = field(default_factory=list)  # in the network, but not in the file
    misshapen: list[str] = field(default_factory=list)  # "name: (found) instead of (expected)"
    mistyped: list[str] = field(default_factory=list)  # "name: found instead of expected"

    def __str__(self) -> str:
        lists = {"unknown": self.unknown, "missing": self.missing, "misshapen": self.misshapen}
        lists["of another type"] = self.mistyped
        found = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in lists.items() if names]
        return f"{self.source} does not fit the network its configuration describes; " + "; ".join(found)


def check_entries(
    source: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], optional: Callable[[str], bool]
) -> None:
    """Raise CheckpointError unless `found` has the names and shapes of `expected`, but for optional names.

    Floating-point numbers may be of 16, 32 or 64 bits. Integers in their place are quantised weights, without the
    scales that would make sense of them; read as they are they would make a network that answers nonsense.
    """
    unknown = sorted(name for name in found if name not in expected and not optional(name))
    missing = sorted(name for name in expected if name not in found and not optional(name))
    misshapen = [
        f"{name}: {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(set(found) & set(expected))
        if found[name].shape != expected[name].shape
    ]
    mistyped = [
        f"{name}: {found[name].dtype} instead of {expected[name].dtype}"
        for name in sorted(set(found) & set(expected))
        if tensor_kind(found[name]) != tensor_kind(expected[name])
    ]
    if unknown or missing or misshapen or mistyped:
        raise EntriesError(source, unknown, missing, misshapen, mistyped)


def tensor_kind(tensor: Tensor) -> str:
    """float, integer, or the name of a type that no weights have."""
    if tensor.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        return "float"
    return "integer" if tensor.dtype in (torch.int64, torch.int32) else str(tensor.dtype)


def _listed(names: list[str], limit: int = 40) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name if name.isprintable() and len(name) < 300 else short(name) for name in names[:limit]) + more


def _renamed(name: str, rows: Iterable[tuple[str, str]]) -> str | None:
    """`name` by the first row (from, to) whose left side it matches, or None."""
    for template, new in rows:
        if match := _pattern(template).fullmatch(name):
            numbers = {letter: int(value) - shift for (letter, shift), value in _numbers(template, match)}
            if min(numbers.values(), default=0) < 0:
                continue
            leaf = match.groupdict().get("p", "")
            return _SLOT.sub(lambda s, n=numbers, p=leaf: p if s[1] == "p" else str(n[s[1]] + int(s[2] or 0)), new)
    return None


_SLOT = re.compile(r"\{([a-z])(?:\+(\d))?\}")


@cache
def _pattern(template: str) -> re.Pattern:
    """The regular expression of a template: `{p}` is a kind of parameter, other slots are numbers."""
    parts, end = [], 0
    for slot in _SLOT.finditer(template):
        parts.append(re.escape(template[end : slot.start()]))
        parts.append("(?P<p>weight|bias|running_mean|running_var)" if slot[1] == "p" else "(0|[1-9][0-9]{0,5})")
        end = slot.end()
    return re.compile("".join(parts) + re.escape(template[end:]))


def _numbers(template: str, match: re.Match) -> Iterable[tuple[tuple[str, int], str]]:
    slots = [(slot[1], int(slot[2] or 0)) for slot in _SLOT.finditer(template)]
    return [(slot, value) for slot, value in zip(slots, match.groups(), strict=True) if slot[0] != "p"]


def _relative_position_index(bias_table: Tensor) -> Tensor:
    """(w², w²) int64: for each pair of pixels in a w × w window the row of the bias table, ((2w − 1)², heads)."""
    side = (math.isqrt(bias_table.shape[0]) + 1) // 2
    steps = torch.arange(side)
    row, column = torch.meshgrid(steps, steps, indexing="ij")
    row, column = row.flatten(), column.flatten()  # (w²,)
    rows = row[:, None] - row + side - 1
    columns = column[:, None] - column + side - 1
    return rows * (2 * side - 1) + columns


def _class_weights(class_bias: Tensor) -> Tensor:
    """(K + 1,): the weight of each class in the loss, 1, and of no object, 0.1."""
    weights = torch.ones_like(class_bias)
    weights[-1] = 0.1
    return weights


MAKERS = {
    "relative_position_index": _relative_position_index,
    "class_weights": _class_weights,
    "logit_scale": lambda bias: torch.full((), math.log(1 / 0.07), dtype=bias.dtype),  # the loss's first temperature
    "ones": torch.ones_like,
    "zeros": torch.zeros_like,
    "zero_count": lambda variance: torch.zeros((), dtype=torch.int64),
}
