"""Multi-scale deformable attention alone: the operation and the whole module, forward and backward.

The levels are those of a Swin at 800 × 1088: strides 32, 16, 8; 256 channels, 8 heads, 4 points. Both modules have the
same weights and reference points, both operations the same values, places and weights.

Shape letters: B images, S positions of all levels together, M heads, L levels, P points, D channels a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import measure
from benchmarks.report import Goal, Row, at_least, size_text
from benchmarks.settings import Settings
from mask2former.kernels import deformable_sampling as ours
from mask2former.kernels import route
from mask2former.modeling.deformable_attention import MultiScaleDeformableAttention
from mask2former.modeling.pixel_decoder import token_centres

STRIDES, DIM, HEADS, POINTS = (32, 16, 8), 256, 8, 4
SIZE, QUICK_SIZE = (800, 1088), (400, 544)
GOALS = {
    "cpu": {"forward": at_least(5), "forward and backward": at_least(3)},
    "cuda": {"forward": at_least(5), "forward and backward": at_least(5)},
}


def rows(settings: Settings) -> Iterator[Row | str]:
    if settings.on_gpu and not route.HAS_TRITON:
        yield "sampling: Triton is not installed, so the GPU runs the PyTorch form; the goals are the kernel's"
    for dtype in (torch.float32, torch.bfloat16) if settings.on_gpu else (torch.float32,):
        for images in (1, 8) if settings.on_gpu and not settings.quick else (1,):
            inputs = Inputs.random(QUICK_SIZE if settings.quick else SIZE, images, settings.device, dtype)
            has_goal = not settings.quick and (not settings.on_gpu or route.HAS_TRITON)
            yield from sampling_rows(inputs, settings, GOALS[settings.device.type] if has_goal else {})


def sampling_rows(inputs: Inputs, settings: Settings, goals: dict[str, Goal]) -> Iterator[Row | str]:
    size, kind = size_text(inputs.size, len(inputs.tokens)), str(inputs.tokens.dtype).removeprefix("torch.")
    for what, sides in {"operation": operations(inputs), "module": modules(inputs)}.items():
        with torch.inference_mode():
            first, second = (forward().float() for forward, _ in sides.values())
            difference = (first - second).abs().max().item()
            seconds = {"forward": measure.interleaved_medians({s: f for s, (f, _) in sides.items()}, settings.repeats)}
        gradient = torch.randn_like(first).to(inputs.tokens.dtype)
        steps = {side: step_of(*work, gradient) for side, work in sides.items()}
        seconds["forward and backward"] = measure.interleaved_medians(steps, settings.repeats)
        for part, both in seconds.items():
            mine, other = both["ours"]["all"], both["transformers"]["all"]
            yield Row(f"sampling, the {what}", size, f"{kind} {part}", mine, other, goals.get(part))
        yield f"sampling, the {what}, {size}, {kind}: the two sides differ by at most {difference:.1g}"


def step_of(forward: Callable[[], Tensor], leaves: Sequence[Tensor], gradient: Tensor) -> Callable[[], None]:
    """A run with gradients of all leaves."""

    def step() -> None:
        forward().backward(gradient)
        for leaf in leaves:
            leaf.grad = None

    return step


@dataclass
class Inputs:
    """What deformable attention looks at, the same for both sides."""

    size: tuple[int, int]  # of the picture
    shapes: list[tuple[int, int]]  # of the levels
    tokens: Tensor  # (B, S, C)
    centres: Tensor  # (1, S, 2, L) in pixels of each level

    @classmethod
    def random(cls, size: tuple[int, int], images: int, device: torch.device, dtype: torch.dtype) -> Inputs:
        torch.manual_seed(0)
        shapes = [(size[0] // stride, size[1] // stride) for stride in STRIDES]
        tokens = torch.randn(images, sum(h * w for h, w in shapes), DIM).to(device, dtype)
        return cls(size, shapes, tokens, token_centres(shapes, like=tokens))

    def shares(self, places: Tensor) -> Tensor:
        """Places (…, 2, [M,] L, [P]) in pixels as shares of each level: x, y last, 0 … 1, as transformers has them."""
        extent = torch.tensor([(w, h) for h, w in self.shapes], device=places.device).T  # (2, L)
        extent = extent[:, None, :, None] if places.ndim > 4 else extent
        return ((places + 0.5) / extent).movedim(2, -1)


def modules(inputs: Inputs) -> dict[str, tuple[Callable[[], Tensor], list[Tensor]]]:
    """Each side's module as a function of nothing, and what it has gradients for."""
    from transformers.models.mask2former.modeling_mask2former import (
        Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as Theirs,
    )

    mine = MultiScaleDeformableAttention(DIM, HEADS, len(inputs.shapes), POINTS)
    for layer in (mine.sampling_offsets, mine.attention_weights):
        nn.init.normal_(layer.weight, std=0.06)  # offsets that differ by about a pixel from query to query
    theirs = Theirs(DIM, HEADS, len(inputs.shapes), POINTS)
    names = {"value_projection": "value_proj", "output_projection": "output_proj"}
    theirs.load_state_dict(
        {".".join((names.get(name.split(".")[0], name.split(".")[0]), name.split(".")[1])): value
         for name, value in mine.state_dict().items()}
    )  # fmt: skip
    mine, theirs = (side.to(inputs.tokens.device, inputs.tokens.dtype) for side in (mine, theirs))
    queries, memory = (inputs.tokens.clone().requires_grad_() for _ in range(2))
    points = inputs.centres[:, :, :, None, :, None].expand(-1, -1, -1, HEADS, -1, POINTS).contiguous()
    shares = inputs.shares(inputs.centres).to(memory.dtype).expand(len(memory), -1, -1, -1)

    def run_theirs() -> Tensor:
        return theirs(
            queries, encoder_hidden_states=memory, reference_points=shares, spatial_shapes_list=inputs.shapes
        )[0]

    return {
        "ours": (lambda: mine(queries, points, memory, inputs.shapes), [queries, memory, *mine.parameters()]),
        "transformers": (run_theirs, [queries, memory, *theirs.parameters()]),
    }


def operations(inputs: Inputs) -> dict[str, tuple[Callable[[], Tensor], list[Tensor]]]:
    """Each side's reading of the values, without any projection."""
    from transformers.models.mask2former import modeling_mask2former as theirs

    B, S, _ = inputs.tokens.shape
    points = HEADS, len(inputs.shapes), POINTS
    dtype, device = inputs.tokens.dtype, inputs.tokens.device
    value = inputs.tokens.unflatten(-1, (HEADS, -1)).clone().requires_grad_()  # (B, S, M, D)
    offsets = 2 * torch.randn(B, S, 2, *points, device=device)
    places = inputs.centres[:, :, :, None, :, None] + offsets  # (B, S, 2, M, L, P)
    weights = torch.randn(B, S, HEADS, points[1] * POINTS, device=device).softmax(-1).unflatten(-1, points[1:])
    weights = weights.to(dtype).requires_grad_()
    shares = inputs.shares(places).to(dtype).contiguous().requires_grad_()  # (B, S, M, L, P, 2)
    places = places.to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    return {
        "ours": (
            lambda: ours.multi_scale_deformable_sampling(value, inputs.shapes, places, weights),
            [value, places, weights],
        ),
        "transformers": (
            lambda: theirs.multi_scale_deformable_attention(value, inputs.shapes, shares, weights),
            [value, shares, weights],
        ),
    }
