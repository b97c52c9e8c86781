"""Window attention some windows at a time: equal to the textbook form, both ways; and when it must step aside."""

from functools import partial

import pytest
import torch
from torch import nn

from mask2former.kernels import route, window_attention
from mask2former.kernels.windows import cut, in_windows, shift_regions, some_windows
from mask2former.modeling.swin import create_swin

SIDE, HEADS, CHANNELS = 4, 3, 24


def parts_of_attention(qkv_bias=True, dtype=torch.float64):
    torch.manual_seed(0)
    qkv, proj = nn.Linear(CHANNELS, 3 * CHANNELS, qkv_bias).to(dtype), nn.Linear(CHANNELS, CHANNELS).to(dtype)
    return qkv, proj, torch.randn(1, HEADS, SIDE**2, SIDE**2, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("size", [(3, 5), (8, 12), (13, 9)], ids=str)
@pytest.mark.parametrize("wide", [CHANNELS, CHANNELS + 1], ids=["kept", "computed again"])
@pytest.mark.parametrize("logits", [1, 2 * HEADS * SIDE**4, 2**21], ids=["one window", "two windows", "three windows"])
def test_equals_textbook(shift, qkv_bias, size, wide, logits, monkeypatch):
    monkeypatch.setattr(window_attention, "PLACES", 3 * SIDE**2 + 1)  # three windows at a time, the last time fewer
    monkeypatch.setattr(window_attention, "LOGITS", logits)
    monkeypatch.setattr(window_attention, "WIDE", wide)
    qkv, proj, bias = parts_of_attention(qkv_bias)
    x = torch.randn(2, *size, CHANNELS, dtype=torch.float64, requires_grad=True)
    layers = nn.Sequential(qkv), nn.Sequential(proj)  # not plain ones, for PyTorch's own gradients
    textbook = partial(window_attention.textbook, *layers, bias)
    expected = in_windows(textbook, x, SIDE, shift)
    weights = qkv.weight, qkv.bias, proj.weight, proj.bias, bias
    found = window_attention.ByParts.apply(x, *weights, SIDE, shift)
    assert (found - expected).abs().max() <= 1e-12
    with torch.no_grad():
        in_parts = window_attention.by_parts(x, *weights, SIDE, shift)
    assert (in_parts - expected).abs().max() <= 1e-12
    leaves, seed = [x, bias, *qkv.parameters(), *proj.parameters()], torch.randn_like(expected)
    truth = torch.autograd.grad(expected, leaves, seed)
    for _ in range(2):  # what is kept is the same the second time
        for a, b in zip(torch.autograd.grad(found, leaves, seed, retain_graph=True), truth, strict=True):
            assert a.shape == b.shape and (a - b).abs().max() <= 1e-12 * max(1, b.abs().max())


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(3, 5), (8, 12), (13, 9)], ids=str)
def test_some_windows_are_all_windows(shift, size):
    """Every token is in one of them, beside the same neighbours as when all windows are cut at once."""
    x = torch.arange(1.0, 2 * size[0] * size[1] + 1).view(2, *size, 1)  # 0 is padding
    windows, regions = cut(x, SIDE, shift).flatten(1), shift_regions(x, SIDE, shift)
    regions = torch.zeros_like(windows) if regions is None else regions
    expected = {tuple(w): r for w, r in zip(windows.tolist(), regions.tolist(), strict=True)}
    found = {}
    for part in some_windows(x, SIDE, shift, most=3, most_at_borders=2):
        assert part.count <= (3 if part.places is None and part.region is None else 2)
        windows = part.spread(x.flatten(0, 2)[part.rows])
        assert torch.equal(part.gather(windows), x.flatten(0, 2)[part.rows])
        windows = windows.view(part.count, -1)
        regions = torch.zeros_like(windows) if part.region is None else part.region
        for window, region in zip(windows.tolist(), regions.tolist(), strict=True):
            assert tuple(window) not in found
            found[tuple(window)] = region
    assert found == expected


def test_keeps_its_layout_whatever_that_of_its_input():
    """As the compiler is told."""
    qkv, proj, bias = parts_of_attention()
    x = torch.randn(1, CHANNELS, 8, 12, dtype=torch.float64).movedim(1, -1).requires_grad_()
    weights = qkv.weight, qkv.bias, proj.weight, proj.bias, bias
    out = window_attention.ByParts.apply(x, *weights, SIDE, 2)
    assert out.is_contiguous() and not x.is_contiguous()
    same = window_attention.ByParts.apply(x.contiguous(), *weights, SIDE, 2)
    assert torch.equal(out, same)
    assert torch.equal(*(torch.autograd.grad(y, x, torch.ones_like(y))[0] for y in (out, same)))


def test_who_takes_which_way():
    block = create_swin("swin_tiny_patch4_window7_224", {}, 0.0, False).layers[0].blocks[1]
    x = torch.randn(1, 9, 16, 96)

    def written_out(x=x):
        return route.choose("window_attention", x, (block.attn.qkv, block.attn.proj)) == "parts"

    assert written_out() and not written_out(x.double()) and not written_out(x[:0])
    with torch.autocast("cpu", torch.bfloat16):
        assert not written_out()
    block.attn.qkv.register_forward_hook(lambda *_: None)  # somebody wants to see the layer being called
    assert not written_out()
