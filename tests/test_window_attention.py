"""Window attention some windows at a time: equal to the textbook form, both ways; and when it must step aside."""

from functools import partial

import pytest
import torch
from torch import nn

from mask2former.modeling import window_attention as windows
from mask2former.modeling.linear import linear
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
def test_equals_textbook(shift, qkv_bias, size, wide, monkeypatch):
    monkeypatch.setattr(windows, "TOKENS", 3 * SIDE**2 + 1)  # three windows at a time, the last time fewer
    monkeypatch.setattr(windows, "WIDE", wide)
    qkv, proj, bias = parts_of_attention(qkv_bias)
    x = torch.randn(2, *size, CHANNELS, dtype=torch.float64, requires_grad=True)
    textbook = partial(windows.window_attention, partial(linear, qkv), partial(linear, proj), bias)
    by_parts = partial(windows.WindowAttention.apply, qkv.weight, qkv.bias, proj.weight, proj.bias, bias)
    expected = windows.in_windows(textbook, x, SIDE, shift)
    found = windows.in_windows(by_parts, x, SIDE, shift)
    assert (found - expected).abs().max() <= 1e-12
    with torch.no_grad():
        in_parts = windows.in_windows(textbook, x, SIDE, shift)
    assert (in_parts - expected).abs().max() <= 1e-12
    leaves, seed = [x, bias, *qkv.parameters(), *proj.parameters()], torch.randn_like(expected)
    truth = torch.autograd.grad(expected, leaves, seed)
    for _ in range(2):  # what is kept is the same the second time
        for a, b in zip(torch.autograd.grad(found, leaves, seed, retain_graph=True), truth, strict=True):
            assert a.shape == b.shape and (a - b).abs().max() <= 1e-12 * max(1, b.abs().max())


def test_who_takes_which_way():
    block = create_swin("swin_tiny_patch4_window7_224", {}, 0.0, False).layers[0].blocks[1]
    x = torch.randn(1, 9, 16, 96)

    def node():
        attended = windows.shifted_window_attention(block, x).grad_fn
        names, todo = set(), [attended]
        while todo:
            node = todo.pop()
            names.add(type(node).__name__)
            todo += [before for before, _ in node.next_functions if before is not None]
        return "WindowAttentionBackward" in names

    assert node()
    with torch.autocast("cpu", torch.bfloat16):
        assert not node()
    block.attn.qkv.register_forward_hook(lambda *_: None)  # somebody wants to see the layer being called
    assert not node()
