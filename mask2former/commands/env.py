"""The command that says what it runs on: versions, processor, GPU, and the form each operation takes here."""

from __future__ import annotations

import argparse
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CORE = (
    "torch", "torchvision", "timm", "numpy", "scipy", "safetensors", "huggingface_hub", "filelock", "msgspec", "pillow",
    "tqdm",
)  # fmt: skip
OPTIONAL = ("hotcoco", "pycocotools", "transformers", "open_clip_torch", "triton", "onnxruntime", "openvino")


def env_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", help="which the operations are asked for; default: cuda if there is one, else cpu")


def env(options: argparse.Namespace) -> int:
    """Say what this runs on: versions, processor, GPU, and which form of each operation it takes, and why."""
    import torch

    from mask2former.commands.options import device_or_default

    device = torch.device(device_or_default(options.device))
    print(f"mask2former {version('mask2former-oneformer')}, Python {platform.python_version()}, {platform.platform()}")
    print(", ".join(f"{name} {version(name)}" for name in CORE))
    print("optional: " + ", ".join(f"{name} {version(name)}" for name in OPTIONAL))
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"CPU: {processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, PyTorch uses {capability}")
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    print(f"GPU: {', '.join(gpus) or 'none'}; Apple's MPS: {'yes' if torch.backends.mps.is_available() else 'no'}")
    print(f"\nOperations on {device}:")
    print("\n".join(operations(device)))
    return 0


def operations(device: torch.device) -> list[str]:
    """A line for each operation and way of using it that differ: the form taken, and why not a faster one."""
    import torch
    from torch import nn

    from mask2former.kernels import route

    layers = {"convolution_3x3": [nn.Conv2d(64, 64, 3, padding=1)]}
    lines = [f"{route.VARIABLE}={os.environ.get(route.VARIABLE, 'auto')}"]
    for operation in route.FORMS:
        ways: dict[str, list[str]] = {}
        for dtype in (torch.float32, torch.bfloat16):
            for use, gradient in (("inference", False), ("training", True)):
                with torch.set_grad_enabled(gradient):
                    used = [
                        layer.to(device, dtype) for layer in layers.get(operation, [nn.Linear(64, 64) for _ in "12"])
                    ]
                    x = torch.zeros(1, 64, 8, 8, device=device, dtype=dtype)
                    form, why = route.choose(operation, x, used), route.reason(operation, x, used)
                ways.setdefault(f"{form:9} ({why})", []).append(f"{use} {str(dtype).removeprefix('torch.')}")
        for way, uses in ways.items():
            lines.append(f"  {operation:23} {way}" + (f": {', '.join(uses)}" if len(ways) > 1 else ""))
    return lines


def version(package: str) -> str:
    """Of an installed package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The CPU's name, where the system tells."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
