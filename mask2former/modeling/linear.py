"""Linear layers together with what follows them: on a CPU in one pass where PyTorch's own form takes three.

PyTorch ships oneDNN, whose matrix product adds bias, activation or residual while a result is still in cache, and is
itself faster than the product behind `F.linear` on most machines. PyTorch's compiler calls it through the operator used
here; in eager mode nobody does. It has no gradient of its own, so the backward passes are written out. On other
devices, in other types, under autocast and inside the compiler all of this is plain `F.linear`.

Shape letters: … any leading dimensions, N rows of all of them, I channels in, H hidden, O out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}
GRADIENTS = {
    "relu": lambda grad, x: torch.ops.aten.threshold_backward(grad, x, 0),
    "gelu": torch.ops.aten.gelu_backward,
}
FUSED_DTYPES = (torch.float32, torch.bfloat16)
HAS_FUSED = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
ROWS = 8192  # that a backward pass works on at once, which bounds the memory it takes


def linear(layer: nn.Module, x: Tensor, activation: str = "none", residual: Tensor | None = None) -> Tensor:
    """residual + activation(layer(x)), for x (…, I) → (…, O); activation: "none", "relu" or exact "gelu".

    `layer` is called as the module it is unless it is a plain `nn.Linear`: adapters and quantised layers work as ever.
    With a residual (…, O) there can be no activation.
    """
    if is_plain(layer):
        return affine(x, layer.weight, layer.bias, activation, residual)
    return plus(ACTIVATIONS[activation](layer(x)), residual)


def affine(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    """The same for a bare weight (O, I) and bias (O,)."""
    if not can_fuse(x, weight):
        return plus(ACTIVATIONS[activation](F.linear(x, weight, bias)), residual)
    if torch.is_grad_enabled():
        return plus(ACTIVATIONS[activation](Affine.apply(x, weight, bias)), residual)
    return product(x, weight, bias, activation, residual)


def feed_forward(
    first: nn.Module, second: nn.Module, x: Tensor, activation: str, residual: Tensor | None = None
) -> Tensor:
    """residual + second(activation(first(x))), for x (…, I) → (…, O).

    In training on a CPU only x is kept for the backward pass, which computes the hidden layer, H channels wide, again:
    the largest part of a network's memory for a tenth of the time of its two layers.
    """
    layers = first, second
    if torch.is_grad_enabled() and all(is_plain(n) and n.bias is not None and can_fuse(x, n.weight) for n in layers):
        weights = first.weight, first.bias, second.weight, second.bias
        return FeedForwardFunction.apply(x, residual, *weights, activation)
    return linear(second, linear(first, x, activation), residual=residual)


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    """`affine` in one pass, without gradient."""
    if residual is not None:
        return torch.ops.mkldnn._linear_pointwise(x, residual.contiguous(), weight, bias, "add")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")


class Affine(torch.autograd.Function):
    """x Wᵀ + b."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)  # (N, O)
        return (
            product(grad, weight.t().contiguous()) if need_x else None,
            rows.t() @ x.flatten(0, -2) if need_weight else None,
            rows.sum(0) if need_bias else None,
        )


class FeedForwardFunction(torch.autograd.Function):
    """residual + W₂ activation(W₁ x + b₁) + b₂."""

    @staticmethod
    def forward(ctx, x: Tensor, residual: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation):
        ctx.save_for_backward(x, w1, b1, w2)
        ctx.activation = activation
        return product(product(x, w1, b1, activation), w2, b2, residual=residual)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, w1, b1, w2 = ctx.saved_tensors
        to_hidden, to_input = w2.t().contiguous(), w1.t().contiguous()
        grad_w1, grad_b1, grad_w2, grad_b2 = (torch.zeros_like(w) for w in (w1, b1, w2, w2[:, 0]))
        grad_x = []
        rows = zip(x.flatten(0, -2).split(ROWS), grad.flatten(0, -2).split(ROWS), strict=True)
        for x_rows, grad_rows in rows:
            before = product(x_rows, w1, b1)  # (N, H)
            grad_hidden = GRADIENTS[ctx.activation](product(grad_rows, to_hidden), before)
            grad_w2.addmm_(grad_rows.t(), ACTIVATIONS[ctx.activation](before))
            grad_b2 += grad_rows.sum(0)
            grad_w1.addmm_(grad_hidden.t(), x_rows)
            grad_b1 += grad_hidden.sum(0)
            grad_x.append(product(grad_hidden, to_input))
        grad_residual = grad if ctx.needs_input_grad[1] else None
        return torch.cat(grad_x).view(x.shape), grad_residual, grad_w1, grad_b1, grad_w2, grad_b2, None


def can_fuse(x: Tensor, weight: Tensor) -> bool:
    return (
        HAS_FUSED
        and x.is_cpu
        and x.dtype in FUSED_DTYPES
        and x.dtype == weight.dtype
        and x.ndim > 1
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def is_plain(layer: nn.Module) -> bool:
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and not any(hooks)


def plus(x: Tensor, residual: Tensor | None) -> Tensor:
    return x if residual is None else residual + x
