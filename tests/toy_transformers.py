"""Toy transformers models with random weights in which nothing is zero, and ours with the same weights."""

import torch

import weights


def randomise(model):
    """Fill every parameter and statistic with random numbers, large enough that each of them shows in the outputs."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or "empty_weight" in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            if name.endswith("running_var"):
                tensor.copy_(noise.square() + 0.5)
            elif tensor.ndim == 1 and name.endswith("weight"):
                tensor.copy_(1 + 0.2 * noise)  # norms
            elif tensor.ndim < 2 or "sampling_offsets" in name:
                tensor.copy_(0.2 * noise)
            else:
                tensor.copy_(noise / tensor[0].numel() ** 0.5 * 1.2)
    return model.eval()


def swin(window_size, embed_dim=16):
    from transformers import SwinConfig

    return SwinConfig(
        embed_dim=embed_dim, depths=[2, 2, 2, 2], num_heads=[2, 2, 4, 4], window_size=window_size, drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


def resnet():
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=64, hidden_sizes=[32, 64, 64, 96], depths=[1, 2, 1, 1], layer_type="bottleneck",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


def mask2former(backbone_config, **changes):
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    sizes = dict(
        hidden_dim=64, feature_size=64, mask_feature_size=64, encoder_layers=2, decoder_layers=5,
        num_attention_heads=4, dim_feedforward=96, encoder_feedforward_dim=80, num_queries=13, num_labels=7,
    )  # fmt: skip
    config = Mask2FormerConfig(backbone_config=backbone_config, **sizes | changes)
    return randomise(Mask2FormerForUniversalSegmentation(config))


def ours_from(model, folder):
    """Save a transformers model as the hub has it, and load that folder with our own reader."""
    model.save_pretrained(folder)
    return weights.create_model(folder).eval()


def relative_difference(ours, theirs):
    """max |ours − theirs| ÷ max |theirs|."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} against {tuple(theirs.shape)}"
    return (ours - theirs).abs().max().item() / theirs.abs().max().item()


def assert_close(ours, theirs, what, tolerance=1e-9):
    difference = relative_difference(ours, theirs)
    assert difference <= tolerance, f"{what}: {difference:.3g} of the largest value apart"
