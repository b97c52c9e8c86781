"""DiNAT: its module against the original's numbers, its maps, what it refuses."""

import numpy as np
import pytest
import torch

from oneformer.dinat import DiNAT, NeighborhoodAttention
from tests.conftest import SHARED, needs_shared

TOY = {
    "embed_dim": 16,
    "depths": (2, 2, 3, 2),
    "num_heads": (2, 2, 4, 4),
    "kernel_size": 5,
    "dilations": ((1, 4), (1, 3), (1, 2, 1), (1, 2)),
    "mlp_ratio": 2.0,
}
MODULE_CASES = {"mod0": (5, 2), "mod1": (7, 1), "mod2": (5, 3)}


def relative_error(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def compared_with_original(case):
    """(ours, theirs) of a module with all its parts, float64."""
    stored = np.load(SHARED / "reference/units/neighborhood_attention.npz")
    prefix = f"{case}_param_"
    weights = {name.removeprefix(prefix): torch.from_numpy(stored[name]) for name in stored if name.startswith(prefix)}
    weights["relative_position_bias"] = weights.pop("rpb")
    module = NeighborhoodAttention(8, 2, *MODULE_CASES[case]).double()
    module.load_state_dict(weights)
    return module(torch.from_numpy(stored[f"{case}_x"])), torch.from_numpy(stored[f"{case}_y"])


@needs_shared
@pytest.mark.parametrize("case", MODULE_CASES)
def test_module_against_the_original(case, forms):
    """All three maps are smaller than kernel × dilation, at least one way."""
    assert relative_error(*compared_with_original(case)) <= 1e-9


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 131)])
def test_maps(size):
    model = DiNAT(**TOY).eval()
    with torch.no_grad():
        maps = model(torch.randn(2, 3, *size))
    assert model.channels == (16, 32, 64, 128)
    for m, channels, stride in zip(maps, model.channels, (4, 8, 16, 32), strict=True):
        assert m.shape == (2, channels, *(-(-side // stride) for side in size))
        assert m.isfinite().all()


def test_drop_path_grows_with_depth_and_acts_in_training_only():
    model = DiNAT(**TOY, drop_path_rate=0.8)
    rates = [block.drop_path.drop_prob for level in model.levels for block in level.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(9)])
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(model(x)[3], model(x)[3])
        model.eval()
        assert torch.equal(model(x)[3], model(x)[3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (2, 2, 2, 2)}, "dilations for"),
        ({"kernel_size": 4}, "expected odd"),
        ({"num_heads": (3, 3, 3, 3)}, "not a multiple of num_heads"),
    ],
)
def test_impossible_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        DiNAT(**TOY | changes)
