"""Linear layers together with what follows them: on a CPU with fewer passes over memory than PyTorch's own form makes.

Two things cost as much there as the arithmetic. Activation and residual are passes of their own over a result that has
left the cache; and an intermediate of more than 32 MB is new memory at every call, which the system hands out page by
page. So a feed-forward works on some rows at a time, and never holds its whole hidden layer; and where the CPU has
AVX-512, oneDNN's matrix product, which adds bias, activation or residual itself, takes the place of BLAS: PyTorch's
compiler calls it through the operator used here, in eager mode nobody does. Neither has a gradient of its own, so the
backward passes are written out. PyTorch's compiler, which would undo all this on a CPU, gets a feed-forward as one
operator in inference. On other devices, under autocast and in training inside the compiler it is plain `F.linear`.

Shape letters: … any leading dimensions, N rows of all of them, I channels in, H hidden, O out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}
IN_PLACE = {"none": lambda x: x, "relu": torch.relu_, "gelu": torch.ops.aten.gelu_}
GRADIENTS = {
    "relu": lambda grad, x: torch.ops.aten.threshold_backward(grad, x, 0),
    "gelu": torch.ops.aten.gelu_backward,
}
ROWS = 2048  # that a feed-forward works on at once: its hidden rows stay in the cache
# From so many channels on, training keeps what lies between two layers: memory costs less time than computing again.
WIDE = 384
# On a CPU with AVX2 alone BLAS is the faster of the two, and oneDNN has no bfloat16.
HAS_ONEDNN = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
HAS_BFLOAT16 = HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()


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
    if torch.compiler.is_compiling() or not on_plain_cpu(x, weight):
        return plus(ACTIVATIONS[activation](F.linear(x, weight, bias)), residual)
    if torch.is_grad_enabled():
        y = Affine.apply(x, weight, bias) if takes_onednn(x) else F.linear(x, weight, bias)
        return plus(ACTIVATIONS[activation](y), residual)
    return product(x, weight, bias, activation, residual)


def feed_forward(
    first: nn.Module, second: nn.Module, x: Tensor, activation: str, residual: Tensor | None = None
) -> Tensor:
    """residual + second(activation(first(x))), for x (…, I) → (…, O).

    On a CPU the hidden layer, H channels wide, is never held whole: in training only x is kept for the backward pass,
    which computes it again. It is the largest part of a network's memory, for a tenth of the time of its two layers.
    Where I is `WIDE` it is the other way round, and it is kept.
    """
    layers = first, second
    if not all(is_plain(layer) and layer.bias is not None and on_plain_cpu(x, layer.weight) for layer in layers):
        return linear(second, linear(first, x, activation), residual=residual)
    weights = first.weight, first.bias, second.weight, second.bias
    if not torch.compiler.is_compiling():
        function = FeedForwardFunction.apply if torch.is_grad_enabled() else feed_forward_rows
        return function(x, residual, *weights, activation)
    if is_compiled_inference():
        return feed_forward_operator(x, residual, *weights, activation)
    return linear(second, linear(first, x, activation), residual=residual)


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    """`affine` without gradient, on a CPU."""
    if not takes_onednn(x):
        y = IN_PLACE[activation](F.linear(x, weight, bias))
        return y if residual is None else y.add_(residual)
    if residual is not None:
        return torch.ops.mkldnn._linear_pointwise(x, residual.contiguous(), weight, bias, "add")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")


def feed_forward_rows(
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
        if takes_onednn(x):
            out_rows.copy_(product(hidden, w2, b2, residual=None if residual is None else residual_rows))
            continue
        torch.addmm(b2, hidden, w2.t(), out=out_rows)
        if residual is not None:
            out_rows += residual_rows
    return out


@torch.library.custom_op("mask2former::feed_forward", mutates_args=())
def feed_forward_operator(
    x: Tensor, residual: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: str
) -> Tensor:
    """`feed_forward_rows` as one node of a compiled graph."""
    return feed_forward_rows(x, residual, w1, b1, w2, b2, activation)


@feed_forward_operator.register_fake
def _(x: Tensor, residual: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], w2.shape[0])


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
        kept = [] if x.shape[-1] >= WIDE else None
        out = feed_forward_rows(x, residual, w1, b1, w2, b2, activation, kept)
        ctx.save_for_backward(x, w1, b1, w2, *(kept or ()))
        ctx.activation = activation
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, w1, b1, w2, *kept = ctx.saved_tensors
        to_hidden, to_input = w2.t().contiguous(), w1.t().contiguous()
        grad_w1, grad_b1, grad_w2, grad_b2 = (torch.zeros_like(w) for w in (w1, b1, w2, w2[:, 0]))
        grad_x = torch.empty_like(x)
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


def on_plain_cpu(x: Tensor, weight: Tensor) -> bool:
    """Whether the routes of this file are open to x: on a CPU, of the layer's type, not under autocast."""
    return (
        x.is_cpu and x.dtype == weight.dtype and x.ndim > 1 and x.numel() > 0 and not torch.is_autocast_enabled("cpu")
    )


def is_compiled_inference() -> bool:
    """Whether PyTorch's compiler is at work, without gradient.

    An export is not meant, which must know every operator; one with `strict=True` cannot be told apart.
    """
    return torch.compiler.is_dynamo_compiling() and not torch.is_grad_enabled()


def takes_onednn(x: Tensor) -> bool:
    return HAS_ONEDNN and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and HAS_BFLOAT16))


def is_plain(layer: nn.Module) -> bool:
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and not any(hooks)


def plus(x: Tensor, residual: Tensor | None) -> Tensor:
    return x if residual is None else residual + x
