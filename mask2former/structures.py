"""The types that travel between the parts: what a network says, what it is taught, what a class is.

They are plain data, so that the zoo and the command line can speak of classes and protocols without PyTorch.

Shape letters: B images, Q queries, K classes, C mask channels, H × W the padded input, N targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from mask2former.bounds import Byte, Deviation, Finite, Id, Kept, Name, Share, Side, check_fields

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Task = Literal["panoptic", "instance", "semantic"]
TASKS = ("panoptic", "instance", "semantic")


@dataclass(frozen=True)
class ClassInfo:
    """One class of a dataset. Its position in the class list is the label id the network predicts."""

    name: Name
    is_thing: bool = True  # things are counted one by one, stuff (sky, road) is one segment an image
    color: tuple[Byte, Byte, Byte] = (0, 0, 0)  # RGB, 0..255, for overlays
    dataset_id: Id = 0  # the id the dataset's own annotation files use (COCO category id, Cityscapes label id)


@dataclass(frozen=True)
class Protocol:
    """How a model is tested: the sizes, thresholds and tasks its published scores belong to."""

    dataset: Name = "coco"
    tasks: tuple[str, ...] = TASKS  # what the model was trained to answer, its main task first
    short_side: Side = 800  # photos are resized to this shorter side…
    long_side: Side = 1333  # …unless the longer one would then exceed this
    hub_size: tuple[Side, Side] | None = (384, 384)  # what the preset "hub" squashes a photo to; None: it does not
    hub_sides: tuple[Side, Side] | None = None  # (short, long) of the preset "hub" where it keeps the photo's shape
    object_mask_threshold: Share = 0.8  # panoptic: a query must score above this
    overlap_threshold: Share = 0.8  # panoptic: the share of its own mask a segment must keep
    instances_per_image: Kept = 100  # instance: how many (query, class) pairs are kept
    pixel_mean: tuple[Finite, Finite, Finite] = (123.675, 116.28, 103.53)  # RGB, 0..255
    pixel_std: tuple[Deviation, Deviation, Deviation] = (58.395, 57.12, 57.375)

    def __post_init__(self):
        if not isinstance(self.tasks, tuple | list) or not self.tasks or any(task not in TASKS for task in self.tasks):
            raise ValueError(f"tasks={self.tasks!r}: expected one or more of {TASKS}")
        check_fields(self)
        if not 0 < self.short_side <= self.long_side:
            raise ValueError(f"short_side={self.short_side}, long_side={self.long_side}: expected 0 < short <= long")


@dataclass
class Outputs:
    """What the network predicts: Q (class, mask) pairs an image.

    The mask logits of a query are the inner product of its mask embedding with the mask features at every pixel
    (Cheng et al. 2022, §3.1; Mask2Former eq. 1 uses them as attention mask). They are multiplied out only where
    somebody reads `mask_logits`; losses and post-processing can sample or select first.
    """

    class_logits: Tensor  # (B, Q, K + 1), the last class is "no object"
    mask_embeddings: Tensor  # (B, Q, C)
    mask_features: Tensor  # (B, C, H/4, W/4), shared by all predictions of one forward pass
    auxiliary: tuple[Outputs, ...] = ()  # earlier predictions, the one before any decoder layer first
    contrastive_logits: Tensor | None = None  # OneFormer: (B, Q, hidden), the queries before the decoder
    text_features: Tensor | None = None  # OneFormer, in training: (B, Q, hidden), what those are pulled to

    @cached_property
    def mask_logits(self) -> Tensor:
        """(B, Q, H/4, W/4), > 0 inside the mask; computed on first reading and kept."""
        from torch import einsum

        return einsum("bqc,bchw->bqhw", self.mask_embeddings, self.mask_features)

    def __getitem__(self, image: int | slice) -> Outputs:
        """The same predictions for some images only, without `auxiliary`; an int keeps a batch axis of one."""
        rows = slice(image, image + 1 or None) if isinstance(image, int) else image
        contrastive, text = (x if x is None else x[rows] for x in (self.contrastive_logits, self.text_features))
        return Outputs(
            self.class_logits[rows], self.mask_embeddings[rows], self.mask_features[rows], (), contrastive, text
        )


@dataclass
class Targets:
    """The ground truth of one image: N segments."""

    labels: Tensor  # (N,) int64, 0 … K − 1
    masks: Tensor  # (N, H, W) bool, at the padded input's size

    def __post_init__(self):
        if self.labels.ndim != 1 or self.masks.ndim != 3 or len(self.labels) != len(self.masks):
            raise ValueError(
                f"labels {tuple(self.labels.shape)}, masks {tuple(self.masks.shape)}: expected (N,) and (N, H, W)"
            )

    def to(self, device: torch.device | str) -> Targets:
        return Targets(self.labels.to(device), self.masks.to(device))


@dataclass(frozen=True)
class PhotoSizes:
    """A photo's way into the network, (height, width) at each step: what undoing it needs."""

    photo: tuple[int, int]  # as taken, upright
    resized: tuple[int, int]  # as the network sees it
    padded: tuple[int, int]  # with the padding at the bottom and at the right


@dataclass(frozen=True)
class Segment:
    """One segment found in a photo."""

    id: int  # its value in the id map: 1, 2, 3, …; in a semantic map label_id, from 0
    label_id: int  # position in the model's class list, 0 … K − 1
    label: str
    score: float  # 0..1; semantic segmentation gives a region none, it is 1
    area: int  # pixels of the photo
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the photo, x1 and y1 exclusive
    is_thing: bool
