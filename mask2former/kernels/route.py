"""Which form of an operation runs: the one place that decides, and can say why.

Every operation has a textbook form, valid everywhere, and faster ones for some machines and situations. A faster form
lists what it needs; of each operation's forms, the first whose needs are all met is taken. A form that fails raises:
nothing is tried in its place.

The environment variable MASK2FORMER_KERNELS, or `using(…)`, overrides this: "auto" (the default), "textbook" (every
operation in its textbook form), or a list such as "deformable_sampling=table,feed_forward=textbook".
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

VARIABLE = "MASK2FORMER_KERNELS"
HAS_TRITON = importlib.util.find_spec("triton") is not None
# On a CPU with AVX2 alone BLAS is the faster of the two, and oneDNN has no bfloat16.
HAS_ONEDNN = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
HAS_BFLOAT16 = HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()
FEWEST_CHANNELS = 64  # of a convolution by Winograd: below, the mapping there and back costs more than it saves

Need = Callable[[Tensor, Sequence[nn.Module]], bool]
F = TypeVar("F", bound=Callable[..., Tensor])


# --- What a form may need. Each line of text completes "it needs …". -------------------------------------------------


def plain_layers(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """layers that are plain nn.Linear or nn.Conv2d, without hooks, adapters or quantised weights"""
    return all(
        type(layer) in (nn.Linear, nn.Conv2d)
        and type(layer.weight) is nn.Parameter
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
        for layer in layers
    )


def biases(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """a bias in every layer"""
    return all(layer.bias is not None for layer in layers)


def cpu(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """a CPU"""
    return x.is_cpu


def one_type(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """input and weights of one type"""
    return all(layer.weight.dtype == x.dtype for layer in layers)


def rows(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """an input that is not empty, of two dimensions or more"""
    return x.ndim > 1 and x.numel() > 0


def not_empty(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """an input that is not empty"""
    return x.numel() > 0


def no_autocast(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """autocast to be off"""
    return not torch.is_autocast_enabled("cpu")


def eager(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """eager mode, not the compiler or an export"""
    return not torch.compiler.is_compiling()


def eager_or_compiled_inference(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """eager mode, or the compiler without gradient; no export"""
    return not torch.compiler.is_compiling() or is_compiled_inference()


def no_gradient(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """no gradient to be recorded"""
    return not torch.is_grad_enabled()


def onednn(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """oneDNN on a CPU with AVX-512, in float32, or in bfloat16 where the CPU has instructions for it"""
    return HAS_ONEDNN and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and HAS_BFLOAT16))


def float32_or_64(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """float32 or float64"""
    return x.dtype in (torch.float32, torch.float64)


def plain_3x3(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """a 3 × 3 convolution of at least 64 channels with stride 1, zero padding 1 and no groups or dilation"""
    return all(
        (layer.kernel_size, layer.stride, layer.dilation, layer.groups) == ((3, 3), (1, 1), (1, 1), 1)
        and layer.padding == (1, 1)
        and layer.padding_mode == "zeros"
        and min(layer.in_channels, layer.out_channels) >= FEWEST_CHANNELS
        for layer in layers
    )


def triton(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """Triton, installed, and a GPU it compiles for (or its interpreter)"""
    return HAS_TRITON and (x.is_cuda or bool(os.environ.get("TRITON_INTERPRET")))


def no_float64(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """float32, bfloat16 or float16"""
    return x.dtype != torch.float64


# --- The forms of each operation, the fastest first. -----------------------------------------------------------------

PLAIN_CPU = (plain_layers, cpu, one_type, rows, no_autocast)
FORMS: Mapping[str, Mapping[str, tuple[Need, ...]]] = {
    "linear": {
        "onednn": (*PLAIN_CPU, eager, onednn),
        "in_place": (*PLAIN_CPU, eager, no_gradient),
        "textbook": (),
    },
    "feed_forward": {"rows": (*PLAIN_CPU, biases, eager_or_compiled_inference), "textbook": ()},
    "convolution_3x3": {
        "winograd": (plain_layers, cpu, one_type, no_autocast, float32_or_64, plain_3x3, eager_or_compiled_inference),
        "textbook": (),
    },
    "window_attention": {"parts": (*PLAIN_CPU, eager_or_compiled_inference), "textbook": ()},
    "deformable_sampling": {"triton": (not_empty, triton, no_float64), "table": (not_empty,), "textbook": ()},
    "neighborhood_attention": {"tiles": (not_empty,), "textbook": ()},
}


def choose(operation: str, x: Tensor, layers: Sequence[nn.Module] = ()) -> str:
    """The form that an operation takes for an input and the layers it goes through.

    Raises ValueError where a form is demanded by name whose needs are not met.
    """
    demanded = _demanded.get(operation, "")
    for form, needs in FORMS[operation].items():
        if demanded and form != demanded:
            continue
        met = True
        for need in needs:
            met = met and need(x, layers)
        if met:
            return form
    raise ValueError(
        f"{VARIABLE} demands {operation}={demanded}, which needs {unmet(operation, demanded, x, layers)}; "
        "take auto or textbook"
    )


def unmet(operation: str, form: str, x: Tensor, layers: Sequence[nn.Module] = ()) -> str | None:
    """The first thing that a form needs and does not have, in words; None if it could run."""
    return next((need.__doc__ for need in FORMS[operation][form] if not need(x, layers)), None)


def reason(operation: str, x: Tensor, layers: Sequence[nn.Module] = ()) -> str:
    """Why `choose` chooses as it does, in words."""
    chosen = choose(operation, x, layers)
    if _demanded.get(operation):
        return "demanded"
    passed_over = list(FORMS[operation])[: list(FORMS[operation]).index(chosen)]
    return "; ".join(f"{form} needs {unmet(operation, form, x, layers)}" for form in passed_over) or "the fastest"


def called(x: Tensor, direct: F, recorded: F, compiled: F) -> F:
    """How a form with a backward pass of its own is called: `direct` without gradient, `recorded` with one.

    `compiled` is an operator that PyTorch's compiler takes as one node: in inference on a CPU, where its own code is
    the slower. An export is not meant, which must know every operator; one with `strict=True` cannot be told apart.
    """
    if is_compiled_inference() and x.is_cpu:
        return compiled
    return recorded if torch.is_grad_enabled() else direct


def is_compiled_inference() -> bool:
    """Whether PyTorch's compiler is at work, without gradient."""
    return torch.compiler.is_dynamo_compiling() and not torch.is_grad_enabled()


def is_traced() -> bool:
    """Whether the compiler or an export records what happens, for other sizes too."""
    return torch.compiler.is_compiling()


def takes_onednn(x: Tensor) -> bool:
    """Whether the products inside a form on a CPU are oneDNN's: it adds bias, activation or residual itself."""
    return onednn(x, ())


@contextmanager
def using(choice: str) -> Iterator[None]:
    """In here, in the whole process, forms are chosen by another rule: "auto", "textbook", or OPERATION=FORM,…"""
    global _demanded
    before, _demanded = _demanded, parsed(choice)
    try:
        yield
    finally:
        _demanded = before


def parsed(choice: str) -> dict[str, str]:
    """The form demanded of each operation. Raises ValueError naming what there is."""
    if choice in ("", "auto"):
        return {}
    if choice == "textbook":
        return dict.fromkeys(FORMS, "textbook")
    demanded = {}
    for part in choice.split(","):
        operation, _, form = (word.strip() for word in part.partition("="))
        if form not in FORMS.get(operation, {}):
            known = "; ".join(f"{name}={'|'.join(forms)}" for name, forms in FORMS.items())
            raise ValueError(
                f"{VARIABLE}={choice!r}: {part!r} is not known; expected auto, textbook, or some of {known}"
            )
        demanded[operation] = form
    return demanded


_demanded = parsed(os.environ.get(VARIABLE, "auto"))
