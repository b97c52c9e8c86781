"""Attention inside windows (Swin, Liu et al. 2021, §3.2), some windows at a time on a CPU.

All windows' queries, keys and values at once are new memory, page by page, at every call; those of a few windows stay
in the cache. So inference and training on a CPU work on some windows after another, and training keeps nothing but the
input (where it is `WIDE`, also queries, keys and values): the backward pass, written out here, computes the attention
again. PyTorch's compiler, which would take all windows at once, gets the whole as one operator in inference. On other
devices, under autocast, in training inside the compiler and with layers that are no plain `nn.Linear` it is the
textbook form.

Shape letters: B images, H × W a stage's map, C its channels, M heads, D = C / M, w the window's side, T = w² tokens of
a window, n windows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import repeat

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor
from torch.autograd.function import once_differentiable

from mask2former.modeling.linear import WIDE, affine, is_compiled_inference, is_plain, linear, on_plain_cpu, product

TOKENS = 3200  # in the windows that are attended to at once on a CPU


def shifted_window_attention(block: SwinTransformerBlock, x: Tensor) -> Tensor:
    """Self-attention inside windows, shifted by half a window in odd blocks (§3.2): (B, H, W, C) → (B, H, W, C)."""
    attention, side, shift = block.attn, block.window_size[0], block.shift_size[0]
    qkv, proj = attention.qkv, attention.proj
    table, index = attention.relative_position_bias_table, attention.relative_position_index
    plain = is_plain(qkv) and is_plain(proj)
    if plain and x.is_cpu and is_compiled_inference():
        return attention_operator(x, qkv.weight, qkv.bias, proj.weight, proj.bias, table, index, side, shift)
    bias = relative_position_bias(table, index)
    if plain and on_plain_cpu(x, qkv.weight) and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        weights = qkv.weight, qkv.bias, proj.weight, proj.bias
        attend = partial(WindowAttention.apply, *weights, bias)
    else:
        attend = partial(window_attention, partial(linear, qkv), partial(linear, proj), bias)
    return in_windows(attend, x, side, shift)


def in_windows(attend: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, side: int, shift: int) -> Tensor:
    """attend(windows (n, T, C), region (n, T) or None) → (n, T, C), for the windows of a map (B, H, W, C), put together
    again."""
    B, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, padding(W, side), 0, padding(H, side)))
    rows, columns = x.shape[1] // side, x.shape[2] // side
    if shift:
        x = torch.roll(x, (-shift, -shift), dims=(1, 2))
    x = x.view(B, rows, side, columns, side, C).transpose(2, 3).reshape(-1, side * side, C)  # (n, T, C)
    region = shift_regions(rows, columns, side, shift, x.device).repeat(B, 1) if shift else None  # (n, T)
    x = attend(x, region)
    x = x.view(B, rows, columns, side, side, C).transpose(2, 3).reshape(B, rows * side, columns * side, C)
    if shift:
        x = torch.roll(x, (shift, shift), dims=(1, 2))
    return crop(x, H, W)


def window_attention(
    qkv: Callable[[Tensor], Tensor],
    proj: Callable[[Tensor], Tensor],
    bias: Tensor,
    x: Tensor,
    region: Tensor | None,
) -> Tensor:
    """Attention with relative position bias (1, M, T, T) in each window (eq. 4): x (n, T, C) → (n, T, C).

    qkv, proj: the two linear layers. region: (n, T) int, which part of a shifted window a token belongs to; tokens of
    two parts are no neighbours in the map, and do not see each other.
    """

    def attend(x: Tensor, region: Tensor | None) -> Tensor:
        q, k, v = qkv(x).unflatten(-1, (3, bias.shape[1], -1)).permute(2, 0, 3, 1, 4)  # (n, M, T, D)
        added = bias if region is None else bias + between_regions(region, bias)
        return proj(F.scaled_dot_product_attention(q, k, v, added).transpose(1, 2).flatten(2))

    if x.is_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return torch.cat([attend(*part) for part in parts(x, region)])
    return attend(x, region)


class WindowAttention(torch.autograd.Function):
    """`window_attention` in training on a CPU."""

    @staticmethod
    def forward(ctx, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor, bias: Tensor, x: Tensor, region):
        kept = []

        def qkv(part: Tensor) -> Tensor:
            y = affine(part, w1, b1)
            if x.shape[2] >= WIDE:
                kept.append(y)
            return y

        out = window_attention(qkv, partial(affine, weight=w2, bias=b2), bias, x, region)
        ctx.save_for_backward(w1, b1, w2, bias, x, region, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        w1, b1, w2, bias, x, region, *kept = ctx.saved_tensors
        C, M, T = x.shape[2], *bias.shape[1:3]
        scale = (C // M) ** -0.5
        to_input, to_attended = w1.t().contiguous(), w2.t().contiguous()
        grad_w1, grad_w2, grad_b2, grad_bias = (torch.zeros_like(p) for p in (w1, w2, w2[0], bias[0]))
        grad_b1 = None if b1 is None else torch.zeros_like(b1)
        grad_x = torch.empty_like(x)

        def heads(rows: Tensor) -> Tensor:  # (n · T, C) → (n · M, T, D)
            return rows.view(-1, T, M, C // M).transpose(1, 2).reshape(-1, T, C // M)

        grad_parts = split(grad)
        kept = kept or [None] * len(grad_parts)
        work = zip(parts(x, region), grad_parts, split(grad_x), kept, strict=True)
        for (part, part_region), grad_part, out, qkv in work:
            x_rows, grad_rows = part.flatten(0, 1), grad_part.flatten(0, 1)  # (n · T, C)
            qkv = product(x_rows, w1, b1) if qkv is None else qkv.flatten(0, 1)
            q, k, v = (heads(t) for t in qkv.chunk(3, dim=1))
            q = q * scale
            logits = torch.bmm(q, k.mT).view(-1, M, T, T).add_(bias)
            if part_region is not None:
                logits += between_regions(part_region, bias)
            shares = logits.softmax(3).flatten(0, 1)  # (n · M, T, T)
            attended = torch.bmm(shares, v).view(-1, M, T, C // M).transpose(1, 2).reshape(-1, C)
            grad_w2.addmm_(grad_rows.t(), attended)
            grad_b2 += grad_rows.sum(0)

            grad_attended = heads(product(grad_rows, to_attended))
            grad_shares = torch.bmm(grad_attended, v.mT)
            grad_logits = torch.ops.aten._softmax_backward_data(grad_shares, shares, 2, shares.dtype)
            grad_bias += grad_logits.view(-1, M, T, T).sum(0)
            grad_qkv = x.new_empty(len(part), T, 3, M, C // M)
            q_slot, k_slot, v_slot = grad_qkv.permute(2, 0, 3, 1, 4)  # (n, M, T, D) each
            torch.mul(torch.bmm(grad_logits, k).view_as(q_slot), scale, out=q_slot)
            k_slot.copy_(torch.bmm(grad_logits.mT, q).view_as(k_slot))
            v_slot.copy_(torch.bmm(shares.mT, grad_attended).view_as(v_slot))
            rows = grad_qkv.view(-1, 3 * C)
            grad_w1.addmm_(rows.t(), x_rows)
            if b1 is not None:
                grad_b1 += rows.sum(0)
            out.copy_(product(rows, to_input).view_as(out))
        return grad_w1, grad_b1, grad_w2, grad_b2, grad_bias[None], grad_x, None


@torch.library.custom_op("mask2former::shifted_window_attention", mutates_args=())
def attention_operator(
    x: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor | None,
    proj_weight: Tensor,
    proj_bias: Tensor,
    bias_table: Tensor,
    bias_index: Tensor,
    side: int,
    shift: int,
) -> Tensor:
    """`shifted_window_attention` as one node of a compiled graph in inference on a CPU."""
    qkv, proj = (partial(affine, weight=w, bias=b) for w, b in ((qkv_weight, qkv_bias), (proj_weight, proj_bias)))
    attend = partial(window_attention, qkv, proj, relative_position_bias(bias_table, bias_index))
    return in_windows(attend, x, side, shift).contiguous()


@attention_operator.register_fake
def _(x: Tensor, *_: Tensor | int | None) -> Tensor:
    return x.new_empty(x.shape)


def relative_position_bias(table: Tensor, index: Tensor) -> Tensor:
    """(1, M, T, T), from the bias of every offset (offsets, M) and which of them lies between two tokens (T, T)."""
    return table[index.flatten()].view(1, *index.shape, -1).permute(0, 3, 1, 2)


def between_regions(region: Tensor, like: Tensor) -> Tensor:
    """What is added to the logits of tokens of two regions, so that they do not meet: (n, T) → (n, 1, T, T)."""
    apart = region[:, None, :, None] != region[:, None, None, :]
    return torch.zeros((), dtype=like.dtype, device=like.device).masked_fill(apart, -100.0)


def parts(x: Tensor, region: Tensor | None) -> zip:
    """Some windows and their regions after another."""
    return zip(split(x), repeat(None) if region is None else split(region), strict=False)


def split(windows: Tensor) -> tuple[Tensor, ...]:
    """(n, T, …) in parts of no more than TOKENS tokens."""
    return windows.split(max(1, TOKENS // windows.shape[1]))


def shift_regions(rows: int, columns: int, side: int, shift: int, device: torch.device) -> Tensor:
    """(windows, T) int: which part of its window each token belongs to.

    After the roll, the last window of a row (of a column) holds two regions that are no neighbours in the map.
    """

    def regions(windows: int) -> Tensor:  # (windows, side): which of the two regions a line of pixels belongs to
        line = torch.arange(windows * side, device=device)
        return (line >= windows * side - shift).view(windows, side)

    row, column = regions(rows), regions(columns)
    return (row[:, None, :, None] * 2 + column[None, :, None, :]).view(rows * columns, side * side)


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The top left of a map (B, H, W, C), as a view; inside the compiler as a copy, fused with what follows.

    Whether a cropped view is contiguous depends on whether anything was cut off, and a compiler that asks makes graphs
    of their own for sizes that need no padding.
    """
    if not torch.compiler.is_compiling():
        return x[:, :height, :width]
    rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
    return x.index_select(1, rows).index_select(2, columns)


def padding(length: int, multiple: int) -> int:
    """What is missing to the next multiple. (Written without %, which symbolic sizes simplify less well.)"""
    return -(-length // multiple) * multiple - length
