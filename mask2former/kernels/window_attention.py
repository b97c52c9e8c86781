"""Attention inside windows (Swin, Liu et al. 2021, §3.2).

All windows' queries, keys and values at once are new memory, page by page, at every call; those of a few windows stay
in the cache. And the linear layers need not see the padding of a map: of zeros they make their bias. (A map of 40 ×
40 is 44 % larger in windows of 12.) So on a CPU some windows are worked on after others, and training keeps nothing
but the input (where it is `WIDE`, also queries, keys and values): the backward pass, written out here, computes the
attention again. PyTorch's compiler, which would take all windows at once, gets the whole as one operator in
inference.

Forms: `textbook`; `parts`. Proved equal to the textbook form, values and gradients, by
`tests/test_kernels_window_attention.py`.

Shape letters: B images, H × W a stage's map, C its channels, M heads, D = C / M, w the window's side, T = w² places
of a window, n windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mask2former.kernels import route
from mask2former.kernels.feed_forward import WIDE
from mask2former.kernels.linear import linear, product
from mask2former.kernels.windows import SomeWindows, in_windows, some_windows


def textbook(qkv: nn.Module, proj: nn.Module, bias: Tensor, x: Tensor, region: Tensor | None) -> Tensor:
    """Attention with relative position bias (1, M, T, T) in each window (eq. 4): x (n, T, C) → (n, T, C).

    qkv, proj: the two linear layers. region: (n, T) int, which part of a shifted window a place belongs to; places of
    two parts do not see each other.
    """
    q, k, v = linear(qkv, x).unflatten(-1, (3, bias.shape[1], -1)).permute(2, 0, 3, 1, 4)  # (n, M, T, D)
    added = bias if region is None else bias + between_regions(region, bias)
    return linear(proj, F.scaled_dot_product_attention(q, k, v, added).transpose(1, 2).flatten(2))


def shifted_window_attention(
    qkv: nn.Module, proj: nn.Module, table: Tensor, index: Tensor, x: Tensor, side: int, shift: int
) -> Tensor:
    """Self-attention inside windows of side × side, the map rolled by `shift` first: (B, H, W, C) → (B, H, W, C).

    table (offsets, M): the relative position bias of every offset; index (T, T): which of them lies between two places.
    """
    if route.choose("window_attention", x, (qkv, proj)) == "textbook":
        return in_windows(partial(textbook, qkv, proj, relative_position_bias(table, index)), x, side, shift)
    call = route.called(x, by_parts, ByParts.apply, by_parts_operator)
    return call(x, qkv.weight, qkv.bias, proj.weight, proj.bias, relative_position_bias(table, index), side, shift)


PLACES = 3200  # of the windows that are attended to at once on a CPU
LOGITS = 2**21  # at most, where those of windows that are attended to at once are held


def by_parts(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor,
    bias: Tensor,
    side: int,
    shift: int,
    kept: list[Tensor] | None = None,
) -> Tensor:
    """The same in the windows of a map (B, H, W, C), without gradient; W₁ x + b₁ of each part is put into `kept`."""
    C, (M, T) = x.shape[3], bias.shape[1:3]
    rows = x.flatten(0, 2)  # (B · H · W, C)
    out = x.new_empty(x.shape)
    out_rows = out.view(-1, C)
    # What is kept must be of the same parts as in the backward pass, which holds logits.
    for part in parts(x, bias, side, shift, holding_logits=kept is not None):
        qkv = product(rows.index_select(0, part.rows), w1, b1)
        if kept is not None:
            kept.append(qkv)
        q, k, v = part.spread(qkv, b1).view(-1, T, 3, M, C // M).permute(2, 0, 3, 1, 4)  # (n, M, T, D)
        added = bias if part.region is None else bias + between_regions(part.region, bias)
        attended = F.scaled_dot_product_attention(q, k, v, added).transpose(1, 2).reshape(-1, C)
        out_rows.index_copy_(0, part.rows, product(part.gather(attended), w2, b2))
    return out


class ByParts(torch.autograd.Function):
    """`by_parts` with gradients."""

    @staticmethod
    def forward(ctx, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor, bias: Tensor, side, shift):
        kept = [] if x.shape[3] >= WIDE else None
        out = by_parts(x, w1, b1, w2, b2, bias, side, shift, kept)
        ctx.save_for_backward(x, w1, b1, w2, bias, *(kept or ()))
        ctx.windows = side, shift
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, w1, b1, w2, bias, *kept = ctx.saved_tensors
        C, (M, T) = x.shape[3], bias.shape[1:3]
        scale = (C // M) ** -0.5
        to_input, to_attended = w1.t().contiguous(), w2.t().contiguous()
        grad_w1, grad_w2, grad_b2, grad_bias = (torch.zeros_like(p) for p in (w1, w2, w2[0], bias[0]))
        grad_b1 = None if b1 is None else torch.zeros_like(b1)
        all_rows, all_grad_rows = x.flatten(0, 2), grad.flatten(0, 2)  # (B · H · W, C)
        grad_x = x.new_empty(x.shape)
        grad_x_rows = grad_x.view(-1, C)

        def heads(rows: Tensor) -> Tensor:  # (n · T, C) → (n · M, T, D)
            return rows.view(-1, T, M, C // M).transpose(1, 2).reshape(-1, T, C // M)

        work = list(parts(x, bias, *ctx.windows, holding_logits=True))
        for part, qkv in zip(work, kept or [None] * len(work), strict=True):
            rows, grad_rows = (t.index_select(0, part.rows) for t in (all_rows, all_grad_rows))
            qkv = part.spread(product(rows, w1, b1) if qkv is None else qkv, b1)  # (n · T, 3 C)
            q, k, v = (heads(t) for t in qkv.chunk(3, dim=1))
            q = q * scale
            logits = torch.bmm(q, k.mT).view(-1, M, T, T).add_(bias)
            if part.region is not None:
                logits += between_regions(part.region, bias)
            shares = logits.softmax(3).flatten(0, 1)  # (n · M, T, T)
            attended = torch.bmm(shares, v).view(-1, M, T, C // M).transpose(1, 2).reshape(-1, C)
            grad_w2.addmm_(grad_rows.t(), part.gather(attended))
            grad_b2 += grad_rows.sum(0)

            grad_attended = heads(part.spread(product(grad_rows, to_attended)))
            grad_shares = torch.bmm(grad_attended, v.mT)
            grad_logits = torch.ops.aten._softmax_backward_data(grad_shares, shares, 2, shares.dtype)
            grad_bias += grad_logits.view(-1, M, T, T).sum(0)
            grad_qkv = x.new_empty(part.count, T, 3, M, C // M)
            q_slot, k_slot, v_slot = grad_qkv.permute(2, 0, 3, 1, 4)  # (n, M, T, D) each
            torch.mul(torch.bmm(grad_logits, k).view_as(q_slot), scale, out=q_slot)
            k_slot.copy_(torch.bmm(grad_logits.mT, q).view_as(k_slot))
            v_slot.copy_(torch.bmm(shares.mT, grad_attended).view_as(v_slot))
            grad_qkv = grad_qkv.view(-1, 3 * C)
            if b1 is not None:
                grad_b1 += grad_qkv.sum(0)  # at padding, too: queries, keys and values are the bias there
            grad_qkv = part.gather(grad_qkv)
            grad_w1.addmm_(grad_qkv.t(), rows)
            grad_x_rows.index_copy_(0, part.rows, product(grad_qkv, to_input))
        return grad_x, grad_w1, grad_b1, grad_w2, grad_b2, grad_bias[None], None, None


@torch.library.custom_op("mask2former::shifted_window_attention", mutates_args=())
def by_parts_operator(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor, bias: Tensor, side: int, shift: int
) -> Tensor:
    """`by_parts` as one node of a compiled graph."""
    return by_parts(x, w1, b1, w2, b2, bias, side, shift)


@by_parts_operator.register_fake
def _(x: Tensor, *_: Tensor | int | None) -> Tensor:
    return x.new_empty(x.shape)


def parts(x: Tensor, bias: Tensor, side: int, shift: int, holding_logits: bool) -> Iterator[SomeWindows]:
    """The windows of a map (B, H, W, C), some at a time, fewer if all their logits are held; bias (1, M, T, T).

    At the borders they always are: the mask of the regions is as large.
    """
    most = max(1, PLACES // side**2)
    fewer = max(1, min(most, LOGITS // bias.numel()))
    return some_windows(x, side, shift, fewer if holding_logits else most, fewer)


def relative_position_bias(table: Tensor, index: Tensor) -> Tensor:
    """(1, M, T, T), from the bias of every offset (offsets, M) and which of them lies between two tokens (T, T)."""
    return table[index.flatten()].view(1, *index.shape, -1).permute(0, 3, 1, 2).contiguous()


def between_regions(region: Tensor, like: Tensor) -> Tensor:
    """What is added to the logits of places of two regions, so that they do not meet: (n, T) → (n, 1, T, T)."""
    apart = region[:, None, :, None] != region[:, None, None, :]
    return torch.zeros((), dtype=like.dtype, device=like.device).masked_fill(apart, -100.0)
