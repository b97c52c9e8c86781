"""Linear layers with what follows them, and feed-forwards: equal to their textbook form, and when they step aside."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mask2former.kernels import feed_forward as kernel
from mask2former.kernels.feed_forward import feed_forward
from mask2former.kernels.linear import affine, linear

PLAIN = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}


def inputs(*shape, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(*shape, 24, dtype=dtype), torch.randn(*shape, 40, dtype=dtype), nn.Linear(24, 40).to(dtype)


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 5), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("activation", PLAIN)
def test_inference_equals_pytorch(shape, activation):
    x, residual, layer = inputs(*shape)
    with torch.no_grad():
        expected = PLAIN[activation](F.linear(x, layer.weight, layer.bias))
        assert (linear(layer, x, activation) - expected).abs().max() <= 1e-5
        assert (affine(layer, x, layer.weight, None) - F.linear(x, layer.weight)).abs().max() <= 1e-5
        assert (
            linear(layer, x, residual=residual) - F.linear(x, layer.weight, layer.bias) - residual
        ).abs().max() <= 1e-5


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("wide", [24, 25], ids=["kept", "computed again"])
def test_feed_forward_gradients_equal_pytorch(activation, with_residual, wide, monkeypatch):
    monkeypatch.setattr(kernel, "ROWS", 16)  # several rounds, the last one shorter
    monkeypatch.setattr(kernel, "WIDE", wide)
    torch.manual_seed(0)
    first, second = nn.Linear(24, 96), nn.Linear(96, 24)
    x, residual, seed = (torch.randn(2, 21, 24, requires_grad=True) for _ in range(3))
    leaves = [x, *first.parameters(), *second.parameters()] + [residual] * with_residual
    ours = feed_forward(first, second, x, activation, residual if with_residual else None)
    theirs = second(PLAIN[activation](first(x))) + (residual if with_residual else 0)
    assert type(ours.grad_fn).__name__ == "ByRowsBackward"  # this test tests what it is meant to
    assert (ours - theirs).abs().max() <= 1e-5
    expected = torch.autograd.grad(theirs, leaves, seed)
    for _ in range(2):  # what is kept is the same the second time
        for a, b in zip(torch.autograd.grad(ours, leaves, seed, retain_graph=True), expected, strict=True):
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_affine_gradients_equal_pytorch():
    x, seed, layer = inputs(2, 21)
    leaves = [x.requires_grad_(), *layer.parameters()]
    ours, theirs = linear(layer, x, "relu"), F.relu(layer(x))
    for a, b in zip(torch.autograd.grad(ours, leaves, seed), torch.autograd.grad(theirs, leaves, seed), strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    layer.requires_grad_(False)
    assert torch.autograd.grad(linear(layer, x).sum(), x)[0].shape == x.shape


def test_float64_is_exact():
    x, _, layer = inputs(3, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(linear(layer, x), layer(x))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_changed_layers_are_called_as_they_are():
    """Adapters replace a layer by a subclass or a wrapper, quantisers its weight; hooks watch it."""
    x, _, plain = inputs(3)
    doubled = Doubled(24, 40)
    doubled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert (linear(doubled, x) - 2 * plain(x)).abs().max() <= 1e-5
        seen = []
        plain.register_forward_hook(lambda *_: seen.append(True))
        linear(plain, x)
        assert seen == [True]


def test_steps_aside_under_autocast():
    x, _, layer = inputs(3)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(layer, x).dtype == torch.bfloat16
        assert feed_forward(layer, nn.Linear(40, 24), x, "relu").dtype == torch.bfloat16


def test_empty_input():
    _, _, layer = inputs(1)
    assert linear(layer, torch.zeros(0, 24)).shape == (0, 40)
