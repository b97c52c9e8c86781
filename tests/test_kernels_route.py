"""The one place that decides which form of an operation runs: what it decides, and that no one else does."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mask2former.kernels import route
from mask2former.kernels.convolution import convolve_3x3
from mask2former.kernels.deformable_sampling import multi_scale_deformable_sampling
from mask2former.kernels.feed_forward import feed_forward
from mask2former.kernels.linear import linear
from mask2former.kernels.neighborhood_attention import neighborhood_attention
from mask2former.kernels.window_attention import shifted_window_attention
from tests.test_kernels_deformable_sampling import sampling_inputs

ROOT = Path(__file__).resolve().parents[1]


def window_inputs(*size):
    table, index = nn.Parameter(torch.randn(49, 3)), torch.randint(49, (16, 16))
    layers = nn.Linear(24, 72), nn.Linear(24, 24)
    return (lambda x: shifted_window_attention(*layers, table, index, x, side=4, shift=2)), torch.randn(*size, 24)


def feed_forward_inputs(*size):
    layers = nn.Linear(24, 96), nn.Linear(96, 24)
    return (lambda x: feed_forward(*layers, x, "gelu", x)), torch.randn(*size, 24)


def linear_inputs(*size):
    layer = nn.Linear(24, 40)
    return (lambda x: linear(layer, x, "relu")), torch.randn(*size, 24)


def convolution_inputs(*size):
    layer = nn.Conv2d(64, 65, 3, padding=1)
    return (lambda x: convolve_3x3(layer, x.movedim(-1, 1))), torch.randn(*size, 64)


def sampling(*size):
    shapes, queries = [(size[1], size[2]), (2, 3)], size[1]
    _, _, locations, weights = sampling_inputs(shapes, size[0], queries, dtype=torch.float32)

    def run(x):
        value = torch.cat((x.flatten(1, 2), x.new_ones(len(x), 6, 4 * 8)), dim=1)
        return multi_scale_deformable_sampling(value.unflatten(2, (4, 8)), shapes, locations, weights)

    return run, torch.randn(*size, 4 * 8)


def neighborhood(*size):
    k, v, bias = torch.randn(size[0], 2, 9, 13, 4), torch.randn(size[0], 2, 9, 13, 4), torch.randn(2, 5, 5)
    return (lambda x: neighborhood_attention(x.unflatten(-1, (2, 4)).permute(0, 3, 1, 2, 4), k, v, bias, 3, 2)), (
        torch.randn(*size, 8)
    )


OPERATIONS = {
    "linear": linear_inputs,
    "feed_forward": feed_forward_inputs,
    "convolution_3x3": convolution_inputs,
    "window_attention": window_inputs,
    "deformable_sampling": sampling,
    "neighborhood_attention": neighborhood,
}


def test_every_operation_is_compared():
    assert set(OPERATIONS) == set(route.FORMS)
    assert all(list(forms)[-1] == "textbook" and forms["textbook"] == () for forms in route.FORMS.values())


@pytest.mark.parametrize("size", [(1, 7, 9), (2, 9, 13), (2, 1, 1), (0, 4, 4)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels first in memory", "a part of a larger tensor"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_chosen_form_equals_the_textbook(operation, layout, size):
    """Values and the input's gradient at odd sizes, empty batches, and whatever the strides of the input."""
    run, x = OPERATIONS[operation](*size)
    if layout == "channels first in memory":
        x = x.movedim(-1, 1).contiguous().movedim(1, -1)
    elif layout == "a part of a larger tensor":
        x = torch.cat((x, x, x), dim=2)[:, :, : x.shape[2]]
    x.requires_grad_()
    with torch.no_grad():
        inference = run(x)
    recorded = run(x)
    with route.using("textbook"):
        expected = run(x)
    bound = 2e-5 * (expected.detach().abs().max() if expected.numel() else 1)
    assert inference.shape == recorded.shape == expected.shape
    assert ((inference - expected).abs() <= bound).all() and ((recorded - expected).abs() <= bound).all()
    seed = torch.randn_like(expected)
    (found,), (truth,) = (torch.autograd.grad(y, x, seed) for y in (recorded, expected))
    assert ((found - truth).abs() <= 2e-5 * (truth.abs().max() if truth.numel() else 1)).all()


def test_textbook_is_the_textbook():
    x, layer = torch.randn(3, 24), nn.Linear(24, 24)
    with route.using("textbook"):
        assert {route.choose(operation, x, (layer,)) for operation in route.FORMS} == {"textbook"}
        with route.using("auto"):
            assert route.choose("feed_forward", x, (layer, layer)) == "rows"
        assert route.reason("feed_forward", x, (layer, layer)) == "demanded"


def test_it_says_why():
    x, layer = torch.randn(3, 24), nn.Linear(24, 24)
    assert route.choose("feed_forward", x, (layer, layer)) == "rows"
    assert route.reason("feed_forward", x, (layer, layer)) == "the fastest"
    with torch.autocast("cpu", torch.bfloat16):
        assert route.reason("feed_forward", x, (layer, layer)) == "rows needs autocast to be off"
    assert route.reason("feed_forward", x.double(), (layer, layer)) == "rows needs input and weights of one type"
    assert "a bias in every layer" in route.reason("feed_forward", x, (layer, nn.Linear(24, 24, bias=False)))
    layer.register_forward_hook(lambda *_: None)
    assert "without hooks" in route.reason("window_attention", x, (layer, layer))
    assert all(need.__doc__ for forms in route.FORMS.values() for needs in forms.values() for need in needs)


def test_a_form_that_is_demanded_is_taken_or_an_error():
    x, layer = torch.randn(3, 24), nn.Linear(24, 24)
    with route.using("feed_forward=rows"):
        assert route.choose("feed_forward", x, (layer, layer)) == "rows"
        with pytest.raises(ValueError, match="demands feed_forward=rows, which needs input and weights of one type"):
            feed_forward(layer, layer, x.double(), "relu")
    assert route.choose("feed_forward", x.double(), (layer, layer)) == "textbook"


@pytest.mark.parametrize("choice", ["fast", "sampling=triton", "linear=rows", "linear", "textbook,auto"])
def test_an_unknown_choice_names_what_there_is(choice):
    with pytest.raises(ValueError, match=r"expected auto, textbook, or some of linear=onednn\|in_place\|textbook"):
        route.parsed(choice)


def test_the_environment_overrides():
    code = (
        "import torch; from mask2former.kernels.route import choose; "
        "print(*(choose(name, torch.zeros(1)) for name in ('deformable_sampling', 'neighborhood_attention')))"
    )
    variables = os.environ | {"MASK2FORMER_KERNELS": "deformable_sampling=textbook"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.stdout.split() == ["textbook", "tiles"], done.stderr


def test_the_papers_nouns_ask_no_such_question():
    """What device, type, compiler or gradient it is, only the kernels ask; a student need not meet it."""
    asked = re.compile(
        r"is_cuda|is_cpu|device\.type|autocast|compiler|is_compiling|grad_enabled|no_grad|inference_mode|requires_grad"
        r"|promote_types|dtype\s*(==|!=|in|is)\b|environ|cpu_capability|mkldnn|onednn|triton|lru_cache",
        re.IGNORECASE,
    )
    files = [*(ROOT / "mask2former/modeling").glob("*.py"), *(ROOT / "oneformer").glob("*.py")]
    assert len(files) > 12
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):  # documentation may speak of them
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value = ast.Constant("")
        found = [line for line in ast.unparse(tree).splitlines() if asked.search(line)]
        assert not [line for line in found if "without_autocast" not in line], (file, found)
