"""Two linear layers with an activation between them, added to what came in.

The hidden layer is two to eight times as wide as what goes in. Held whole it is the largest part of a network's
memory, and new memory at every call, which the system hands out page by page. So on a CPU it is made for some rows at
a time and stays in the cache; the backward pass, written out here, computes it again. PyTorch's compiler, which would
undo this, gets the whole as one operator in inference.

Forms: `textbook`; `rows`. Proved equal to the textbook form, values and gradients, by `tests/test_kernels_linear.py`.

Shape letters: … any leading dimensions, I channels in, H hidden, O out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mask2former.kernels import route
from mask2former.kernels.linear import ACTIVATIONS, linear, product


def textbook(first: nn.Module, second: nn.Module, x: Tensor, activation: str, residual: Tensor | None) -> Tensor:
    """residual + W₂ activation(W₁ x + b₁) + b₂ (Vaswani et al. 2017, eq. 2)."""
    return linear(second, linear(first, x, activation), residual=residual)


def feed_forward(
    first: nn.Module, second: nn.Module, x: Tensor, activation: str, residual: Tensor | None = None
) -> Tensor:
    """residual + second(activation(first(x))), for x (…, I) → (…, O); activation: "relu" or exact "gelu"."""
    if route.choose("feed_forward", x, (first, second)) == "textbook":
        return textbook(first, second, x, activation, residual)
    call = route.called(x, by_rows, ByRows.apply, by_rows_operator)
    return call(x, residual, first.weight, first.bias, second.weight, second.bias, activation)


GRADIENTS = {
    "relu": lambda grad, x: torch.ops.aten.threshold_backward(grad, x, 0),
    "gelu": torch.ops.aten.gelu_backward,
}
ROWS = 2048  # worked on at once: their hidden rows stay in the cache
# From so many channels on, training keeps what lies between two layers: memory costs less time than computing again.
WIDE = 384


def by_rows(
    x: Tensor,
    residual: Tensor | None,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    activation: str,
    kept: list[Tensor] | None = None,
) -> Tensor:
    """residual + W₂ activation(W₁ x + b₁) + b₂, some rows at a time, without gradient; W₁ x + b₁ is put into `kept`."""
    out = x.new_empty(*x.shape[:-1], len(w2))
    parts = [t.flatten(0, -2).split(ROWS) for t in (x, out, out if residual is None else residual)]
    for x_rows, out_rows, residual_rows in zip(*parts, strict=True):
        if kept is None:
            hidden = product(x_rows, w1, b1, activation)  # (ROWS, H)
        else:
            kept.append(product(x_rows, w1, b1))
            hidden = ACTIVATIONS[activation](kept[-1])
        if route.takes_onednn(x):
            out_rows.copy_(product(hidden, w2, b2, residual=None if residual is None else residual_rows))
            continue
        torch.addmm(b2, hidden, w2.t(), out=out_rows)
        if residual is not None:
            out_rows += residual_rows
    return out


@torch.library.custom_op("mask2former::feed_forward", mutates_args=())
def by_rows_operator(
    x: Tensor, residual: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: str
) -> Tensor:
    """`by_rows` as one node of a compiled graph."""
    return by_rows(x, residual, w1, b1, w2, b2, activation)


@by_rows_operator.register_fake
def _(x: Tensor, residual: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], w2.shape[0])


class ByRows(torch.autograd.Function):
    """`by_rows` with gradients. Where the input is `WIDE`, W₁ x + b₁ is kept, else nothing but the input."""

    @staticmethod
    def forward(ctx, x: Tensor, residual: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation):
        kept = [] if x.shape[-1] >= WIDE else None
        out = by_rows(x, residual, w1, b1, w2, b2, activation, kept)
        ctx.save_for_backward(x, w1, b1, w2, *(kept or ()))
        ctx.activation = activation
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, w1, b1, w2, *kept = ctx.saved_tensors
        to_hidden, to_input = w2.t().contiguous(), w1.t().contiguous()
        grad_w1, grad_b1, grad_w2, grad_b2 = (torch.zeros_like(w) for w in (w1, b1, w2, w2[:, 0]))
        grad_x = x.new_empty(x.shape)  # contiguous, whatever x is, so that its rows are views
        parts = [t.flatten(0, -2).split(ROWS) for t in (x, grad.contiguous(), grad_x)]
        parts.append(kept or [None] * len(parts[0]))
        for x_rows, grad_rows, out_rows, before in zip(*parts, strict=True):
            if before is None:
                before = product(x_rows, w1, b1)  # (ROWS, H)
            grad_hidden = GRADIENTS[ctx.activation](product(grad_rows, to_hidden), before)
            grad_w2.addmm_(grad_rows.t(), ACTIVATIONS[ctx.activation](before))
            grad_b2 += grad_rows.sum(0)
            grad_w1.addmm_(grad_hidden.t(), x_rows)
            grad_b1 += grad_hidden.sum(0)
            out_rows.copy_(product(grad_hidden, to_input))
        grad_residual = grad if ctx.needs_input_grad[1] else None
        return grad_x, grad_residual, grad_w1, grad_b1, grad_w2, grad_b2, None
