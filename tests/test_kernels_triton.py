"""The Triton kernel against the textbook form: on a GPU where there is one, else under Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

SHAPES = {
    "ordinary": [(3, 4), (6, 7), (12, 13)],
    "single_pixels_and_lines": [(1, 1), (2, 2), (1, 9)],
    "one_level": [(5, 8)],
}


def compare(dtype, tolerance):
    """Outputs and the three gradients, at borders, far outside, and with heads whose width is no power of two."""
    from mask2former.kernels.deformable_sampling import textbook, triton
    from tests.test_kernels_deformable_sampling import sampling_inputs

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for shapes in SHAPES.values():
        for channels, spread in ((8, 1.5), (6, 10.0)):
            inputs = sampling_inputs(shapes, queries=37, heads=2, channels=channels, spread=spread, dtype=torch.float32)
            value, _, locations, weights = (t.to(device) if isinstance(t, torch.Tensor) else t for t in inputs)
            value, weights = value.to(dtype), weights.to(dtype)
            leaves = [t.requires_grad_() for t in (value, locations, weights)]
            expected = textbook(value.float(), shapes, locations, weights.float())
            found = triton.sample(value, shapes, locations, weights)
            seed = torch.randn_like(expected)
            assert found.dtype == dtype
            pairs = [(found.float(), expected)]
            pairs += zip(
                torch.autograd.grad(found, leaves, seed.to(dtype)),
                torch.autograd.grad(expected, leaves, seed),
                strict=True,
            )
            for ours, reference in pairs:
                error = (ours.float() - reference.float()).abs().max()
                assert error <= tolerance * reference.abs().max().clamp_min(1e-3), (shapes, channels, spread, error)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)], ids=str
)
def test_kernel_on_gpu(dtype, tolerance):
    compare(dtype, tolerance)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernel itself is tested on this GPU")
def test_kernel_under_the_interpreter():
    """The interpreter is chosen when Triton is imported, hence a process of its own."""
    code = "import torch; from tests.test_kernels_triton import compare; compare(torch.float32, 1e-5)"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
