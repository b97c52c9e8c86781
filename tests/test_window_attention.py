"""Window attention some windows at a time: equal to the textbook form, both ways; and when it must step aside."""

from functools import partial

import pytest
import torch
from torch import nn

from mask2former.modeling import window_attention
from mask2former.modeling.shifted_windows import cut, in_windows, shift_regions, some_windows
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
    textbook = partial(window_attention.window_attention, nn.Sequential(qkv), nn.Sequential(proj), bias)
    expected = in_windows(textbook, x, SIDE, shift)
    weights = qkv.weight, qkv.bias, proj.weight, proj.bias, bias
    found = window_attention.WindowAttention.apply(x, *weights, SIDE, shift)
    assert (found - expected).abs().max() <= 1e-12
    with torch.no_grad():
        in_parts = window_attention.attention_by_parts(x, *weights, SIDE, shift)
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
    x = torch.arange(1.0, 2 * size[0] * size[1] + 1).view(2, *size, 1)
    rows, columns = (-(-length // SIDE) * SIDE for length in size)
    regions = shift_regions(rows, columns, SIDE, shift, x.device).repeat(2, 1) if shift else None
    expected = {}
    for i, window in enumerate(cut(x, SIDE, shift)[..., 0].tolist()):
        region = tuple(regions[i].tolist()) if shift else (0,) * SIDE**2
        expected[tuple(window)] = region if len(set(region)) > 1 else (region[0],) * SIDE**2
    found, counts = {}, []
    for part in some_windows(x, SIDE, shift, most=3, most_at_borders=2):
        windows = part.spread(x.flatten(0, 2)[part.rows]).view(part.count, -1)
        assert torch.equal(part.gather(windows.view(-1, 1))[:, 0], x.flatten()[part.rows])
        whole = bool((windows > 0).all())
        counts.append((part.count, whole and part.region is None))
        for i, window in enumerate(windows.tolist()):
            found[tuple(window)] = tuple(part.region[i].tolist()) if part.region is not None else None
    assert found.keys() == expected.keys()
    for window, region in found.items():
        assert len(set(expected[window])) == 1 if region is None else len(set(region)) == len(set(expected[window]))
        assert region is None or len(set(region)) == 1 or region == expected[window]
    assert all(count <= (3 if inside else 2) for count, inside in counts)


def test_who_takes_which_way():
    block = create_swin("swin_tiny_patch4_window7_224", {}, 0.0, False).layers[0].blocks[1]
    x = torch.randn(1, 9, 16, 96)

    def node():
        attended = window_attention.shifted_window_attention(block, x).grad_fn
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
