"""Neighborhood attention, in both forms: against its definition and the original's numbers."""

import numpy as np
import pytest
import torch

from mask2former.kernels import neighborhood_attention as kernel
from mask2former.kernels.neighborhood_attention import neighborhood_attention
from tests.conftest import SHARED, needs_shared

FUNCTION_CASES = {"fn0": (7, 1), "fn1": (7, 1), "fn2": (3, 3), "fn3": (5, 2), "fn4": (3, 5), "fn5": (5, 2)}


def by_definition(q, k, v, bias, kernel_size, dilation):
    """One query at a time: the window of the nearest keys in the query's dilation group, whole at every border."""

    def window(i, length):
        group = list(range(i % dilation, length, dilation))
        place = group.index(i)
        start = min(max(place - kernel_size // 2, 0), len(group) - kernel_size)
        return group[start : start + kernel_size], [start + j - place + kernel_size - 1 for j in range(kernel_size)]

    out = torch.empty_like(q)
    for i in range(q.shape[2]):
        rows, row_offsets = window(i, k.shape[2])
        for j in range(q.shape[3]):
            columns, column_offsets = window(j, k.shape[3])
            keys, values = (t[:, :, rows][:, :, :, columns].flatten(2, 3) for t in (k, v))  # (B, N, K², D)
            logits = (keys @ q[:, :, i, j, :, None]).squeeze(-1)
            logits = logits + bias[:, row_offsets][:, :, column_offsets].flatten(1)
            out[:, :, i, j] = (logits.softmax(-1)[:, :, None] @ values).squeeze(2)
    return out


def random_inputs(size, key_size, kernel_size, dtype=torch.float64):
    q = torch.randn(2, 3, *size, 4, dtype=dtype)
    k, v = torch.randn(2, 2, 3, *key_size, 4, dtype=dtype)
    return q, k, v, torch.randn(3, 2 * kernel_size - 1, 2 * kernel_size - 1, dtype=dtype)


def relative_error(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(
    ("size", "key_size", "kernel_size", "dilation"),
    [
        ((9, 29), (9, 29), 3, 1),  # several tiles, some interior
        ((7, 7), (7, 7), 7, 1),  # one window is the whole map
        ((25, 11), (25, 11), 5, 2),  # groups of unequal sizes
        ((12, 31), (12, 31), 3, 4),
        ((4, 13), (15, 15), 5, 3),  # an extended map
        ((2, 3), (12, 12), 3, 4),  # fewer queries than groups
    ],
)
def test_attention_is_its_definition(size, key_size, kernel_size, dilation, forms):
    inputs = random_inputs(size, key_size, kernel_size)
    expected = by_definition(*inputs, kernel_size, dilation)
    assert relative_error(neighborhood_attention(*inputs, kernel_size, dilation), expected) <= 1e-12


def test_gradients_are_those_of_the_definition(forms):
    inputs = [t.requires_grad_() for t in random_inputs((10, 6), (10, 9), 3)]
    weight = torch.randn_like(inputs[0])
    expected = torch.autograd.grad((by_definition(*inputs, 3, 3) * weight).sum(), inputs)
    actual = torch.autograd.grad((neighborhood_attention(*inputs, 3, 3) * weight).sum(), inputs)
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) <= 1e-12


def test_large_maps_are_done_in_pieces(monkeypatch):
    """What is copied at once stays below the bound, and the pieces make the same whole."""
    inputs = random_inputs((33, 40), (33, 40), 3)
    whole = neighborhood_attention(*inputs, 3, 1)
    copied = []
    gather = kernel.gather
    monkeypatch.setattr(kernel, "ELEMENTS_AT_ONCE", 10_000)
    monkeypatch.setattr(
        kernel, "gather", lambda x, places: copied.append(places.numel() * x[:, 0].numel()) or gather(x, places)
    )
    assert relative_error(neighborhood_attention(*inputs, 3, 1), whole) <= 1e-12
    assert len(copied) > 3 * 9 and max(copied) <= 10_000


def test_too_small_a_map_says_so(forms):
    with pytest.raises(ValueError, match="kernel × dilation = 12"):
        neighborhood_attention(*random_inputs((11, 20), (11, 20), 3), 3, 4)


def test_mixed_precision(forms):
    """The attention takes the dtype of its queries, whatever the bias has."""
    q, k, v, bias = random_inputs((8, 8), (8, 8), 3, torch.float32)
    out = neighborhood_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), bias, 3, 2)
    assert out.dtype == torch.bfloat16
    assert relative_error(out.float(), neighborhood_attention(q, k, v, bias, 3, 2)) < 0.05


def compared_with_original(case):
    """(ours, theirs), float64."""
    stored = np.load(SHARED / "reference/units/neighborhood_attention.npz")
    inputs = [torch.from_numpy(stored[f"{case}_{name}"]) for name in ("q", "k", "v", "rpb")]
    return neighborhood_attention(*inputs, *FUNCTION_CASES[case]), torch.from_numpy(stored[f"{case}_out"])


@needs_shared
@pytest.mark.parametrize("case", FUNCTION_CASES)
def test_attention_against_the_original(case, forms):
    assert relative_error(*compared_with_original(case)) <= 1e-9
