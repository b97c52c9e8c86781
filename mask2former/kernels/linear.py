"""Linear layers together with what follows them: an activation, or a sum with what came in.

Activation and residual are passes of their own over a result that has left the cache. Where the CPU has AVX-512,
oneDNN's matrix product, which adds bias, activation or residual itself, takes the place of BLAS: PyTorch's compiler
calls it through the operator used here, in eager mode nobody does. It has no gradient, so the backward pass is
written out.

Forms: `textbook`; `onednn`; `in_place`, without gradient. Proved equal to the textbook form, values and gradients, by
`tests/test_kernels_linear.py`.

Shape letters: … any leading dimensions, N rows of all of them, I channels in, O out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mask2former.kernels import route

ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}
IN_PLACE = {"none": lambda x: x, "relu": torch.relu_, "gelu": torch.ops.aten.gelu_}


def textbook(layer: nn.Module, x: Tensor, activation: str, residual: Tensor | None) -> Tensor:
    """residual + activation(W x + b)."""
    return plus(ACTIVATIONS[activation](layer(x)), residual)


def linear(layer: nn.Module, x: Tensor, activation: str = "none", residual: Tensor | None = None) -> Tensor:
    """residual + activation(layer(x)), for x (…, I) → (…, O); activation: "none", "relu" or exact "gelu".

    `layer` is called as the module it is unless it is a plain `nn.Linear`: adapters and quantised layers work as ever.
    With a residual (…, O) there can be no activation.
    """
    if route.choose("linear", x, (layer,)) == "textbook":
        return textbook(layer, x, activation, residual)
    return fused(x, layer.weight, layer.bias, activation, residual)


def affine(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b with weight (O, I) and bias (O,) taken from the layer's: some of its rows, or in another order."""
    form = route.choose("linear", x, (layer,))
    return F.linear(x, weight, bias) if form == "textbook" else fused(x, weight, bias)


def fused(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    """`onednn`, with gradients where they are wanted, and `in_place`, which is taken where they are not."""
    if torch.is_grad_enabled():
        return plus(ACTIVATIONS[activation](OneDNN.apply(x, weight, bias)), residual)
    return product(x, weight, bias, activation, residual)


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    """The same without gradient, on a CPU, by oneDNN or BLAS: what the forms of other operations are made of, too."""
    if not route.takes_onednn(x):
        y = IN_PLACE[activation](F.linear(x, weight, bias))
        return y if residual is None else y.add_(residual)
    if residual is not None:
        return torch.ops.mkldnn._linear_pointwise(x, residual.contiguous(), weight, bias, "add")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")


class OneDNN(torch.autograd.Function):
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


def plus(x: Tensor, residual: Tensor | None) -> Tensor:
    return x if residual is None else residual + x
