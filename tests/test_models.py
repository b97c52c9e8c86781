"""One suite over all models: shapes, odd sizes, gradients, saving, compiling, exporting, independence of neighbours."""

import copy

import pytest
import torch

from mask2former import Mask2Former, Mask2FormerConfig
from mask2former.kernels import route
from oneformer import OneFormer, OneFormerConfig

TOY = dict(
    num_classes=7,
    num_queries=12,
    hidden_dim=64,
    mask_dim=32,
    num_heads=4,
    encoder_layers=2,
    encoder_feedforward_dim=96,
    decoder_layers=4,
    decoder_feedforward_dim=128,
)
SWIN = ("swin_tiny_patch4_window7_224", dict(embed_dim=16, depths=(2, 2, 2, 2), num_heads=(2, 2, 4, 4)))
BACKBONES = {
    "swin_window7": SWIN,
    "swin_window12": ("swin_base_patch4_window12_384", SWIN[1]),
    "resnet50": ("resnet50", dict(layers=(1, 2, 1, 1), channels=(8, 16, 16, 24))),
    "resnet101_three_convolution_stem": ("resnet101c", dict(layers=(1, 1, 2, 1), channels=(8, 16, 16, 24))),
    "convnext": ("convnext_tiny", dict(depths=(1, 1, 2, 1), dims=(16, 24, 32, 48))),
    "efficientnet_lite": ("tf_efficientnet_lite0", {}),
}
MODELS = {
    f"mask2former_{name}": lambda name=name, **changes: Mask2Former(
        Mask2FormerConfig(*BACKBONES[name], **TOY | changes)
    )
    for name in BACKBONES
}
DINAT = dict(embed_dim=16, depths=(2, 2, 3, 2), num_heads=(2, 2, 4, 4), kernel_size=5)
DINAT["dilations"] = ((1, 4), (1, 3), (1, 2, 1), (1, 2))
MODELS |= {
    f"oneformer_{name}": lambda backbone=backbone, **changes: OneFormer(OneFormerConfig(*backbone, **TOY | changes))
    for name, backbone in {"swin": SWIN, "convnext": BACKBONES["convnext"], "dinat": ("dinat_large", DINAT)}.items()
}


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def every_tensor(outputs):
    for prediction in (*outputs.auxiliary, outputs):
        yield from (prediction.class_logits, prediction.mask_logits)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 131), (64, 160)])
def test_shapes(model, size):
    with torch.no_grad():
        features = model.backbone(torch.randn(2, 3, *size))
        outputs = model(torch.randn(2, 3, *size))
    assert [f.shape[1] for f in features] == list(model.backbone.channels)
    for feature, stride in zip(features, (4, 8, 16, 32), strict=True):
        for actual, side in zip(feature.shape[2:], size, strict=True):
            assert side // stride <= actual <= -(-side // stride)
    assert outputs.class_logits.shape == (2, 12, 8)
    assert outputs.mask_logits.shape == (2, 12, *features[0].shape[2:])
    assert len(outputs.auxiliary) == 4
    assert all(tensor.isfinite().all() for tensor in every_tensor(outputs))


def test_every_parameter_learns(model):
    model = copy.deepcopy(model).train()
    outputs = model(torch.randn(2, 3, 96, 128))
    sum(tensor.square().mean() for tensor in every_tensor(outputs)).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert not [name for name, g in gradients.items() if g is None or not g.isfinite().all()]
    # At first offsets and attention weights do not depend on the queries of the deformable attention (its weights start
    # at zero), so that what is added to those queries alone cannot matter yet; everything else must.
    assert [name for name, g in gradients.items() if not g.abs().max() > 0] == ["pixel_decoder.level_embedding"]


def test_training_mode_changes_dropout_only(model):
    """Without dropout and drop-path, nothing depends on `training`: frozen batch norms keep their statistics."""
    if model.config.dropout:
        pytest.skip("this model has dropout")
    pixel_values = torch.randn(1, 3, 64, 96)
    trained = copy.deepcopy(model).train()
    with torch.no_grad():
        for a, b in zip(every_tensor(model(pixel_values)), every_tensor(trained(pixel_values)), strict=True):
            assert torch.equal(a, b)


def test_drop_path_acts_in_training_only():
    model = MODELS["mask2former_swin_window7"](drop_path_rate=0.9)
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(model(pixel_values).class_logits, model(pixel_values).class_logits)
        model.eval()
        assert torch.equal(model(pixel_values).class_logits, model(pixel_values).class_logits)


def test_backbones_that_keep_channels_last():
    """The layout is what timm says, not a guess from sizes: here the first map is as high as it has channels."""
    model = Mask2Former(Mask2FormerConfig("mambaout_femto", dict(dims=(16, 24, 32, 48), depths=(1, 1, 1, 1)), **TOY))
    with torch.no_grad():
        features = model.backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(f.shape[1:]) for f in features] == [(16, 16, 24), (24, 8, 12), (32, 4, 6), (48, 2, 3)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_stays_close(model, dtype):
    """Classes and masks of the first prediction, before an attention mask could flip, within half precision's error."""
    pixel_values = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        exact = model(pixel_values).auxiliary[0]
        low = copy.deepcopy(model).to(dtype)(pixel_values.to(dtype)).auxiliary[0]
    for a, b in zip((exact.class_logits, exact.mask_logits), (low.class_logits, low.mask_logits), strict=True):
        assert b.dtype == dtype
        assert (a - b.float()).abs().max() <= 0.1 * a.abs().max()


def test_state_dict_round_trip(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    again = type(model)(type(model.config).from_dict(model.config.to_dict())).eval()
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    pixel_values = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(every_tensor(model(pixel_values)), every_tensor(again(pixel_values)), strict=True):
            assert torch.equal(a, b)


def test_neighbours_do_not_matter(model):
    """An image's outputs are the same alone and in a batch, up to float rounding of other kernels: float64 shows it."""
    model = copy.deepcopy(model).double()
    pixel_values = torch.randn(3, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        together, alone = model(pixel_values), model(pixel_values[1:2])
    for a, b in zip(every_tensor(together), every_tensor(alone), strict=True):
        assert (a[1:2] - b).abs().max() <= 1e-9 * b.abs().max()


@pytest.mark.slow
def test_compiles_without_graph_breaks(model):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    with torch.no_grad():
        for size in [(64, 96), (96, 64)]:
            pixel_values = torch.randn(1, 3, *size)
            for a, b in zip(every_tensor(model(pixel_values)), every_tensor(compiled(pixel_values)), strict=True):
                assert (a - b).abs().max() <= 1e-4 * a.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask2former_swin_window7", "oneformer_convnext"])
@pytest.mark.parametrize("operators", [True, False], ids=["with the CPU's operators", "as on other devices"])
def test_one_graph_serves_every_size(name, operators, monkeypatch):
    """Compiled for dynamic sizes, three more sizes need no further graph: a recompilation would raise.

    In float64, where rounding flips no pixel of an attention mask.
    """
    if not operators:
        monkeypatch.setattr(route, "is_compiled_inference", lambda: False)
    torch._dynamo.reset()
    model = MODELS[name]().eval().double()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for size in [(256, 320), (320, 256), (288, 288), (416, 352)]:
            pixel_values = torch.randn(1, 3, *size, dtype=torch.float64)
            for a, b in zip(every_tensor(model(pixel_values)), every_tensor(compiled(pixel_values)), strict=True):
                assert (a - b).abs().max() <= 1e-9 * a.abs().max()


@pytest.mark.slow
def test_exports(model):
    class Tensors(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixel_values):
            outputs = self.model(pixel_values)
            return outputs.class_logits, outputs.mask_logits

    pixel_values = torch.randn(1, 3, 64, 96)
    program = torch.export.export(Tensors(), (pixel_values,))
    with torch.no_grad():
        for a, b in zip(Tensors()(pixel_values), program.module()(pixel_values), strict=True):
            assert (a - b).abs().max() <= 1e-4 * a.abs().max()


@pytest.mark.parametrize(
    "pixel_values", [torch.randn(3, 64, 64), torch.randn(1, 4, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)]
)
def test_wrong_input_says_what_is_expected(model, pixel_values):
    with pytest.raises(ValueError, match=r"expected a float tensor \(B, 3, H, W\)"):
        model(pixel_values)


def test_too_small_input(model):
    with pytest.raises(ValueError, match="at least 32"):
        model(torch.randn(1, 3, 31, 64))
