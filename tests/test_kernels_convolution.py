"""Winograd's convolution equals PyTorch's, at every size and layout; and when it must step aside."""

import pytest
import torch
from torch import nn

from mask2former.kernels import convolution, route
from mask2former.kernels.convolution import convolve_3x3


def pays(layer, x):
    return route.choose("convolution_3x3", x, (layer,)) == "winograd"


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 4), (17, 30), (40, 9)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_equals_pytorch(size, layout, monkeypatch):
    monkeypatch.setattr(convolution, "TILES", 7)  # several rounds, the last one shorter
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 72, 3, padding=1).double()
    x = torch.randn(2, 64, *size, dtype=torch.float64).to(memory_format=layout)
    with torch.no_grad():
        assert pays(layer, x)
        found, expected = convolve_3x3(layer, x), layer(x)
        assert found.shape == expected.shape and (found - expected).abs().max() <= 1e-12 * expected.abs().max()
        found = convolve_3x3(layer.float(), x.float())
        assert (found - expected).abs().max() <= 3e-5 * expected.abs().max()


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 12), (17, 30)], ids=str)
@pytest.mark.parametrize("frozen", ["nothing", "weight", "values"])
def test_gradients_equal_pytorch(size, frozen, monkeypatch):
    monkeypatch.setattr(convolution, "TILES", 7)
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 72, 3, padding=1).double()
    layer.weight.requires_grad_(frozen != "weight")
    x = torch.randn(2, 64, *size, dtype=torch.float64, requires_grad=frozen != "values")
    wanted = [t for t in (x, *layer.parameters()) if t.requires_grad]
    ours, theirs = convolve_3x3(layer, x), layer(x)
    grad = torch.randn_like(ours)
    pairs = zip(torch.autograd.grad(ours, wanted, grad), torch.autograd.grad(theirs, wanted, grad), strict=True)
    for found, expected in pairs:
        assert found.shape == expected.shape and (found - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_steps_aside():
    layer, x = nn.Conv2d(64, 64, 3, padding=1), torch.randn(1, 64, 8, 8)
    assert pays(layer, x) and not pays(layer, x.double()) and not pays(layer.to(torch.bfloat16), x.bfloat16())
    layer = nn.Conv2d(64, 64, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(layer, x)
    others = (
        dict(padding=0), dict(padding=1, stride=2), dict(padding=2, dilation=2), dict(padding=1, groups=2),
        dict(padding=1, padding_mode="reflect"),
    )  # fmt: skip
    for options in others:
        assert not pays(nn.Conv2d(64, 64, 3, **options), x)
    assert not pays(nn.Conv2d(16, 64, 3, padding=1), x)


@torch.no_grad()
def test_compiled_inference_takes_the_same_way():
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 72, 3, padding=1)
    seen = []

    def look(graph, _):
        seen.append({str(node.target) for node in graph.graph.nodes})
        return graph

    compiled = torch.compile(lambda x: convolve_3x3(layer, x), fullgraph=True, backend=look, dynamic=True)
    for size in ((8, 12), (17, 30), (9, 5)):
        x = torch.randn(2, 64, *size)
        assert torch.equal(compiled(x), convolve_3x3(layer, x))
    (targets,) = seen  # one graph for all sizes
    assert any("mask2former.convolve_3x3" in target for target in targets)
