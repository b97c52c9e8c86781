"""transformers' Mask2Former in other runtimes: exported, and run by ONNX Runtime and by OpenVINO.

Every runtime becomes a function from pixel values to (class logits, mask logits). ONNX Runtime runs what PyTorch's
`torch.export` based exporter writes: in the older exporter's file the sampling points are float64, for which it has no
operator. OpenVINO converts the module itself: it cannot compile that ONNX file.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

PACKAGES = {
    "ONNX Runtime": ("onnx", "onnxscript", "onnxruntime"),
    "OpenVINO float32": ("openvino",),
    "OpenVINO bfloat16": ("openvino",),
}
Runtime = Callable[[np.ndarray], tuple[Tensor, Tensor]]


class TwoOutputs(nn.Module):
    """A transformers model that returns what is compared and nothing else: class logits, mask logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model(pixel_values=pixel_values)
        return outputs.class_queries_logits, outputs.masks_queries_logits


def missing(runtime: str) -> list[str]:
    """Packages that a runtime needs and that are not installed."""
    return [package for package in PACKAGES[runtime] if importlib.util.find_spec(package) is None]


def load(model: nn.Module, pixel_values: Tensor, threads: int) -> tuple[dict[str, Runtime], dict[str, str]]:
    """The runtimes whose packages are installed, for inputs of this shape only; and why one of them does not work."""
    module, loaded, reasons = TwoOutputs(model).eval(), {}, {}
    for name, load_one in {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino}.items():
        kinds = [kind for kind in PACKAGES if kind.startswith(name) and not missing(kind)]
        if not kinds:
            continue
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                loaded |= load_one(module, pixel_values, threads)
        except Exception as error:  # whatever a converter stumbles over, the others are still worth a number
            reasons |= dict.fromkeys(kinds, " ".join(str(error).split())[-300:] or type(error).__name__)
    for kind in PACKAGES:
        if not missing(kind) and kind not in loaded:
            reasons.setdefault(kind, "this CPU has no instructions for it")
    return loaded, reasons


def onnx_runtime(module: nn.Module, pixel_values: Tensor, threads: int) -> dict[str, Runtime]:
    import onnxruntime

    logging.getLogger("onnxscript").setLevel(logging.WARNING)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "transformers.onnx")
        torch.onnx.export(module, (pixel_values,), file, dynamo=True, opset_version=20, verbose=False)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return {"ONNX Runtime": lambda array: tuple(map(torch.from_numpy, session.run(None, {name: array})))}


def openvino(module: nn.Module, pixel_values: Tensor, threads: int) -> dict[str, Runtime]:
    """In float32, and in bfloat16 on a CPU that computes in it: on any other OpenVINO silently takes float32."""
    import openvino as ov

    core = ov.Core()
    converted = ov.convert_model(module, example_input=pixel_values, input=[list(pixel_values.shape)])
    precisions = {"OpenVINO float32": "f32"}
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        precisions["OpenVINO bfloat16"] = "bf16"

    def compiled(precision: str) -> Runtime:
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        network = core.compile_model(converted, "CPU", options)

        def run(array: np.ndarray) -> tuple[Tensor, Tensor]:
            found = network(array)
            return torch.from_numpy(found[0]), torch.from_numpy(found[1])

        return run

    return {name: compiled(precision) for name, precision in precisions.items()}
