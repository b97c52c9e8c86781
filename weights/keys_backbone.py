"""Backbone names of the two published layouts beside our own.

How to read a row: (theirs, ours). `{s}`, `{b}` and `{k}` stand for the same number on both sides, `{s+1}` for one more;
`{p}` for weight, bias, running_mean or running_var. Theirs lacks the layout's prefix (`ORIGINAL_PREFIX`, `HUB_PREFIX`),
ours lacks `backbone.`.
"""

ORIGINAL_PREFIX = "backbone."
HUB_PREFIX = "model.pixel_level_module.encoder."

# The backbone is of that family if some name, in any of the three layouts, contains this; the first match counts.
FAMILY_MARKS = (
    ("relative_position_bias_table", "swin"),
    (".rpb", "dinat"),
    ("attn.relative_position_bias", "dinat"),
    ("dwconv", "convnext"),
    ("body.stages_0.blocks.0.conv_dw", "convnext"),
    ("backbone.stem.conv3", "resnet_deep_stem"),
    ("backbone.body.conv1.6", "resnet_deep_stem"),
    ("backbone.res2", "resnet"),
    ("encoder.embedder.embedder", "resnet"),
    ("backbone.body.layer1.0.bn1", "resnet"),
)

# Output norms: one a stage, the same in every family that has them.
_ORIGINAL_NORMS = (("norm{s}.{p}", "norms.{s}.{p}"),)
_HUB_NORMS = (("hidden_states_norms.stage{s+1}.{p}", "norms.{s}.{p}"),)

# Theirs merges patches at the end of a stage, timm at the start of the next.
_SWIN_MERGING = (
    ("layers.{s}.downsample.norm.{p}", "body.layers.{s+1}.downsample.norm.{p}"),
    ("layers.{s}.downsample.reduction.{p}", "body.layers.{s+1}.downsample.reduction.{p}"),
)
_SWIN_BLOCK = ("layers.{s}.blocks.{b}.", "body.layers.{s}.blocks.{b}.")
_DINAT_BLOCK_ORIGINAL = ("levels.{s}.blocks.{b}.", "levels.{s}.blocks.{b}.")
_DINAT_BLOCK_HUB = ("encoder.levels.{s}.layers.{b}.", "levels.{s}.blocks.{b}.")
_DINAT_DOWNSAMPLE = (
    ("levels.{s}.downsample.reduction.{p}", "levels.{s}.downsample.reduction.{p}"),
    ("levels.{s}.downsample.norm.{p}", "levels.{s}.downsample.norm.{p}"),
)
_CONVNEXT_BLOCK_ORIGINAL = ("stages.{s}.{b}.", "body.stages_{s}.blocks.{b}.")
_CONVNEXT_BLOCK_HUB = ("encoder.stages.{s}.layers.{b}.", "body.stages_{s}.blocks.{b}.")


def _under(prefixes, rows):
    """The same rows inside a block: both sides behind their own prefix."""
    return tuple((prefixes[0] + theirs, prefixes[1] + ours) for theirs, ours in rows)


_RESNET_STAGES_ORIGINAL = (
    ("res{s+2}.{b}.conv{k}.weight", "body.layer{s+1}.{b}.conv{k}.weight"),
    ("res{s+2}.{b}.conv{k}.norm.{p}", "body.layer{s+1}.{b}.bn{k}.{p}"),
    ("res{s+2}.{b}.shortcut.weight", "body.layer{s+1}.{b}.downsample.0.weight"),
    ("res{s+2}.{b}.shortcut.norm.{p}", "body.layer{s+1}.{b}.downsample.1.{p}"),
)

ORIGINAL = {
    "swin": (
        ("patch_embed.proj.{p}", "body.patch_embed.proj.{p}"),
        ("patch_embed.norm.{p}", "body.patch_embed.norm.{p}"),
        *_under(
            _SWIN_BLOCK,
            (
                ("norm1.{p}", "norm1.{p}"),
                ("attn.relative_position_bias_table", "attn.relative_position_bias_table"),
                ("attn.qkv.{p}", "attn.qkv.{p}"),
                ("attn.proj.{p}", "attn.proj.{p}"),
                ("norm2.{p}", "norm2.{p}"),
                ("mlp.fc1.{p}", "mlp.fc1.{p}"),
                ("mlp.fc2.{p}", "mlp.fc2.{p}"),
            ),
        ),
        *_SWIN_MERGING,
        *_ORIGINAL_NORMS,
    ),
    "dinat": (
        ("patch_embed.proj.{k}.{p}", "patch_embed.proj.{k}.{p}"),
        ("patch_embed.norm.{p}", "patch_embed.norm.{p}"),
        *_under(
            _DINAT_BLOCK_ORIGINAL,
            (
                ("norm1.{p}", "norm1.{p}"),
                ("attn.rpb", "attn.relative_position_bias"),
                ("attn.qkv.{p}", "attn.qkv.{p}"),
                ("attn.proj.{p}", "attn.proj.{p}"),
                ("norm2.{p}", "norm2.{p}"),
                ("mlp.fc1.{p}", "mlp.fc1.{p}"),
                ("mlp.fc2.{p}", "mlp.fc2.{p}"),
            ),
        ),
        *_DINAT_DOWNSAMPLE,
        *_ORIGINAL_NORMS,
    ),
    "convnext": (
        ("downsample_layers.0.{k}.{p}", "body.stem_{k}.{p}"),
        ("downsample_layers.{s}.{k}.{p}", "body.stages_{s}.downsample.{k}.{p}"),
        *_under(
            _CONVNEXT_BLOCK_ORIGINAL,
            (
                ("gamma", "gamma"),
                ("dwconv.{p}", "conv_dw.{p}"),
                ("norm.{p}", "norm.{p}"),
                ("pwconv1.{p}", "mlp.fc1.{p}"),
                ("pwconv2.{p}", "mlp.fc2.{p}"),
            ),
        ),
        *_ORIGINAL_NORMS,
    ),
    "resnet": (
        ("stem.conv1.weight", "body.conv1.weight"),
        ("stem.conv1.norm.{p}", "body.bn1.{p}"),
        *_RESNET_STAGES_ORIGINAL,
    ),
    "resnet_deep_stem": (
        ("stem.conv1.weight", "body.conv1.0.weight"),
        ("stem.conv1.norm.{p}", "body.conv1.1.{p}"),
        ("stem.conv2.weight", "body.conv1.3.weight"),
        ("stem.conv2.norm.{p}", "body.conv1.4.{p}"),
        ("stem.conv3.weight", "body.conv1.6.weight"),
        ("stem.conv3.norm.{p}", "body.bn1.{p}"),
        *_RESNET_STAGES_ORIGINAL,
    ),
}

HUB = {
    "swin": (
        ("embeddings.patch_embeddings.projection.{p}", "body.patch_embed.proj.{p}"),
        ("embeddings.norm.{p}", "body.patch_embed.norm.{p}"),
        *_under(
            ("encoder." + _SWIN_BLOCK[0], _SWIN_BLOCK[1]),
            (
                ("layernorm_before.{p}", "norm1.{p}"),
                ("attention.self.relative_position_bias_table", "attn.relative_position_bias_table"),
                ("attention.output.dense.{p}", "attn.proj.{p}"),
                ("layernorm_after.{p}", "norm2.{p}"),
                ("intermediate.dense.{p}", "mlp.fc1.{p}"),
                ("output.dense.{p}", "mlp.fc2.{p}"),
            ),
        ),
        *_under(("encoder.", ""), _SWIN_MERGING),
        *_HUB_NORMS,
    ),
    "dinat": (
        ("embeddings.patch_embeddings.projection.{k}.{p}", "patch_embed.proj.{k}.{p}"),
        ("embeddings.norm.{p}", "patch_embed.norm.{p}"),
        *_under(
            _DINAT_BLOCK_HUB,
            (
                ("layernorm_before.{p}", "norm1.{p}"),
                ("attention.self.rpb", "attn.relative_position_bias"),
                ("attention.output.dense.{p}", "attn.proj.{p}"),
                ("layernorm_after.{p}", "norm2.{p}"),
                ("intermediate.dense.{p}", "mlp.fc1.{p}"),
                ("output.dense.{p}", "mlp.fc2.{p}"),
            ),
        ),
        *_under(("encoder.", ""), _DINAT_DOWNSAMPLE),
        *_HUB_NORMS,
    ),
    "convnext": (
        ("embeddings.patch_embeddings.{p}", "body.stem_0.{p}"),
        ("embeddings.layernorm.{p}", "body.stem_1.{p}"),
        ("encoder.stages.{s}.downsampling_layer.{k}.{p}", "body.stages_{s}.downsample.{k}.{p}"),
        *_under(
            _CONVNEXT_BLOCK_HUB,
            (
                ("layer_scale_parameter", "gamma"),
                ("dwconv.{p}", "conv_dw.{p}"),
                ("layernorm.{p}", "norm.{p}"),
                ("pwconv1.{p}", "mlp.fc1.{p}"),
                ("pwconv2.{p}", "mlp.fc2.{p}"),
            ),
        ),
        *_HUB_NORMS,
    ),
    "resnet": (
        ("embedder.embedder.convolution.weight", "body.conv1.weight"),
        ("embedder.embedder.normalization.{p}", "body.bn1.{p}"),
        ("encoder.stages.{s}.layers.{b}.layer.{k}.convolution.weight", "body.layer{s+1}.{b}.conv{k+1}.weight"),
        ("encoder.stages.{s}.layers.{b}.layer.{k}.normalization.{p}", "body.layer{s+1}.{b}.bn{k+1}.{p}"),
        ("encoder.stages.{s}.layers.{b}.shortcut.convolution.weight", "body.layer{s+1}.{b}.downsample.0.weight"),
        ("encoder.stages.{s}.layers.{b}.shortcut.normalization.{p}", "body.layer{s+1}.{b}.downsample.1.{p}"),
    ),
}

# Surgery: three tensors of theirs are the thirds of one of ours, along the first axis.
_HUB_DINAT_QKV = tuple(f"{_DINAT_BLOCK_HUB[0]}attention.self.{name}.{{p}}" for name in ("query", "key", "value"))
_HUB_SWIN_QKV = tuple(f"encoder.{_SWIN_BLOCK[0]}attention.self.{name}.{{p}}" for name in ("query", "key", "value"))
HUB_FUSED = {
    "swin": ((_HUB_SWIN_QKV, _SWIN_BLOCK[1] + "attn.qkv.{p}"),),
    "dinat": ((_HUB_DINAT_QKV, _DINAT_BLOCK_HUB[1] + "attn.qkv.{p}"),),
}

# Entries of theirs that say nothing: (theirs, the entry of ours each goes with, how it is made when written).
ORIGINAL_MADE = {
    "swin": (
        (
            _SWIN_BLOCK[0] + "attn.relative_position_index",
            _SWIN_BLOCK[1] + "attn.relative_position_bias_table",
            "relative_position_index",
        ),
    ),
}
HUB_MADE = {
    "swin": (
        ("swin.layernorm.weight", "norms.3.weight", "ones"),
        ("swin.layernorm.bias", "norms.3.bias", "zeros"),
    ),
    "resnet": tuple(
        (theirs.replace("{p}", "num_batches_tracked"), ours.replace("{p}", "running_var"), "zero_count")
        for theirs, ours in HUB["resnet"]
        if theirs.endswith("normalization.{p}")
    ),
}
# Entries that older files have and that are never written.
HUB_IGNORED = {"swin": (f"encoder.{_SWIN_BLOCK[0]}attention.self.relative_position_index",)}
