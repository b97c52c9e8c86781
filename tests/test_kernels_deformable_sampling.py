"""Deformable attention: against the original module's outputs, against `grid_sample`, and its own gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mask2former.kernels.deformable_sampling import multi_scale_deformable_sampling
from mask2former.modeling.deformable_attention import MultiScaleDeformableAttention
from tests.conftest import SHARED, needs_shared

SHAPES = [(3, 4), (6, 7), (12, 13)]


def sampling_inputs(shapes, batch=2, queries=11, heads=4, points=4, channels=8, spread=1.3, dtype=torch.float64):
    value = torch.randn(batch, sum(h * w for h, w in shapes), heads, channels, dtype=dtype)
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=dtype)
    locations = (torch.rand(batch, queries, 2, heads, len(shapes), points, dtype=dtype) - 0.5) * spread + 0.5
    locations = locations * sizes.T[:, None, :, None] - 0.5
    weights = torch.rand(batch, queries, heads, len(shapes), points, dtype=dtype)
    return value, shapes, locations, weights


def sample_with_grid_sample(value, shapes, locations, weights):
    """PyTorch's own bilinear reading: every level with `grid_sample`, weighed and added."""
    B, _, M, D = value.shape
    total = 0
    for i, level in enumerate(value.split([h * w for h, w in shapes], dim=1)):
        h, w = shapes[i]
        image = level.permute(0, 2, 3, 1).reshape(B * M, D, h, w)
        size = torch.tensor([w, h], dtype=value.dtype)
        grid = (locations[:, :, :, :, i].movedim(2, -1) + 0.5) / size * 2 - 1
        grid = grid.transpose(1, 2).flatten(0, 1)  # (B·M, N, P, 2)
        read = F.grid_sample(image, grid, padding_mode="zeros", align_corners=False)  # (B·M, D, N, P)
        weight = weights[:, :, :, i].transpose(1, 2).flatten(0, 1)[:, None]  # (B·M, 1, N, P)
        total = total + (read * weight).sum(-1)
    return total.view(B, M, D, -1).permute(0, 3, 1, 2).flatten(2)


@pytest.mark.parametrize(
    "shapes", [SHAPES, [(1, 1), (2, 2), (4, 4)], [(1, 5), (2, 9), (3, 18)], [(5, 5), (1, 1), (1, 9)], [(7, 3)]]
)
@pytest.mark.parametrize("spread", [0.5, 1.3, 20.0])
def test_sampling_equals_grid_sample(shapes, spread, forms):
    inputs = sampling_inputs(shapes, spread=spread)
    ours, theirs = multi_scale_deformable_sampling(*inputs), sample_with_grid_sample(*inputs)
    assert (ours - theirs).abs().max() <= 1e-12 * max(1.0, theirs.abs().max())


def test_gradients_equal_grid_sample_also_at_whole_pixels(forms):
    """At whole pixels the bilinear form has a kink; both take the derivative to the right."""
    powers_of_two = [(4, 8), (8, 16), (16, 16)]  # there grid_sample's own normalisation loses no bit
    value, shapes, locations, weights = sampling_inputs(powers_of_two, spread=1.2)
    locations[:, ::2] = locations[:, ::2].round()
    edge = (locations == -1) | (locations == torch.tensor(shapes).T.flip(0)[:, None, :, None])
    locations = torch.where(edge, 0.25, locations)  # at the very edge of the frame neither derivative is defined
    leaves = [t.requires_grad_() for t in (value, locations, weights)]
    seed = torch.randn(2, 11, 32, dtype=torch.float64)
    ours = torch.autograd.grad(multi_scale_deformable_sampling(value, shapes, locations, weights), leaves, seed)
    theirs = torch.autograd.grad(sample_with_grid_sample(value, shapes, locations, weights), leaves, seed)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()


def test_gradcheck(forms):
    value, shapes, locations, weights = sampling_inputs([(2, 3), (4, 5)], batch=1, queries=3, heads=2, channels=2)
    leaves = [t.requires_grad_() for t in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, p, w: multi_scale_deformable_sampling(v, shapes, p, w), leaves)


def test_a_far_away_location_reads_zero_and_huge_neighbours_do_not_leak(forms):
    value, shapes, locations, weights = sampling_inputs(SHAPES)
    far = torch.full_like(locations, 1e6)
    assert multi_scale_deformable_sampling(value, shapes, far, weights).abs().max() == 0
    assert multi_scale_deformable_sampling(value, shapes, -far, weights).abs().max() == 0


def test_bfloat16_values_keep_exact_positions(forms):
    """Positions of a large map do not fit in bfloat16; they must not be computed in it."""
    value, shapes, locations, weights = sampling_inputs([(4, 300)], dtype=torch.float32)
    exact = multi_scale_deformable_sampling(value, shapes, locations, weights)
    low = multi_scale_deformable_sampling(value.bfloat16(), shapes, locations, weights.bfloat16())
    assert low.dtype == torch.bfloat16
    assert (low.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_bfloat16_gradients_stay_close(forms):
    value, shapes, locations, weights = sampling_inputs(SHAPES, dtype=torch.float32)
    exact = [t.requires_grad_() for t in (value, locations, weights)]
    low = [value.detach().bfloat16().requires_grad_(), locations, weights.detach().bfloat16().requires_grad_()]
    seed = torch.randn(2, 11, 32)
    wanted, found = (
        torch.autograd.grad(multi_scale_deformable_sampling(v, shapes, p, w), (v, p, w), seed.to(v.dtype))
        for v, p, w in (exact, low)
    )
    for leaf, a, b in zip(low, wanted, found, strict=True):
        assert b.dtype == leaf.dtype
        assert (a - b.float()).abs().max() <= 0.05 * a.abs().max()


@needs_shared
def test_module_equals_the_original(forms):
    stored = {k: torch.from_numpy(v) for k, v in np.load(SHARED / "reference/units/ms_deform_attn.npz").items()}
    module = MultiScaleDeformableAttention(32, num_heads=4, num_levels=3, num_points=4).double()
    renamed = {"value_proj": "value_projection", "output_proj": "output_projection"}
    state = {}
    for name, tensor in stored.items():
        if name.startswith("param_"):
            layer, kind = name.removeprefix("param_").split(".")
            state[f"{renamed.get(layer, layer)}.{kind}"] = tensor
    module.load_state_dict(state)
    shapes = [tuple(s) for s in stored["spatial_shapes"].tolist()]
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float64)
    centres = stored["reference_points"] * sizes - 0.5  # the original's are shares of the map's width and height
    centres = centres.transpose(2, 3)[:, :, :, None, :, None]
    out = module(stored["query"], centres, stored["input_flatten"], shapes)
    assert (out - stored["out"]).abs().max() <= 1e-9 * stored["out"].abs().max()


@torch.no_grad()
def test_compiled_inference_is_one_operator():
    """Whose sizes are free: other shapes compile nothing anew."""
    seen = []

    def look(graph, _):
        seen.append({node.target for node in graph.graph.nodes})
        return graph

    def forward(value, locations, weights, sizes):
        return multi_scale_deformable_sampling(value, sizes, locations, weights)

    compiled = torch.compile(forward, fullgraph=True, backend=look, dynamic=True)
    for shapes in (SHAPES, [(5, 6), (11, 9), (21, 17)], [(4, 4), (8, 8), (16, 16)]):
        value, _, locations, weights = sampling_inputs(shapes, dtype=torch.float32)
        expected = multi_scale_deformable_sampling(value, shapes, locations, weights)
        assert torch.equal(compiled(value, locations, weights, shapes), expected)
    (targets,) = seen
    assert any("deformable_sampling_pytorch" in str(target) for target in targets)
    assert F.embedding_bag not in targets
