"""Names of the original files (Mask2Former's Detectron2 `.pkl`, OneFormer's `.pth`) beside our own.

Rows as in `keys_backbone.py`, whole names on both sides.
"""

PIXEL_DECODER = (
    ("sem_seg_head.pixel_decoder.input_proj.{s}.{k}.{p}", "pixel_decoder.input_projections.{s}.{k}.{p}"),
    ("sem_seg_head.pixel_decoder.transformer.level_embed", "pixel_decoder.level_embedding"),
    *(
        (f"sem_seg_head.pixel_decoder.transformer.encoder.layers.{{i}}.{theirs}", f"pixel_decoder.encoder.{{i}}.{ours}")
        for theirs, ours in (
            ("self_attn.sampling_offsets.{p}", "attention.sampling_offsets.{p}"),
            ("self_attn.attention_weights.{p}", "attention.attention_weights.{p}"),
            ("self_attn.value_proj.{p}", "attention.value_projection.{p}"),
            ("self_attn.output_proj.{p}", "attention.output_projection.{p}"),
            ("norm1.{p}", "attention_norm.{p}"),
            ("linear1.{p}", "feedforward.linear1.{p}"),
            ("linear2.{p}", "feedforward.linear2.{p}"),
            ("norm2.{p}", "feedforward_norm.{p}"),
        )
    ),
    ("sem_seg_head.pixel_decoder.adapter_1.weight", "pixel_decoder.lateral.0.weight"),
    ("sem_seg_head.pixel_decoder.adapter_1.norm.{p}", "pixel_decoder.lateral.1.{p}"),
    ("sem_seg_head.pixel_decoder.layer_1.weight", "pixel_decoder.output.0.weight"),
    ("sem_seg_head.pixel_decoder.layer_1.norm.{p}", "pixel_decoder.output.1.{p}"),
    ("sem_seg_head.pixel_decoder.mask_features.{p}", "pixel_decoder.mask_projection.{p}"),
)

_PREDICTOR = "sem_seg_head.predictor."
TRANSFORMER_DECODER = tuple(
    (_PREDICTOR + theirs, "transformer_decoder." + ours)
    for theirs, ours in (
        ("query_feat.weight", "query_features"),  # Mask2Former alone
        ("query_embed.weight", "query_positions"),
        ("level_embed.weight", "level_embedding"),
        (
            "transformer_cross_attention_layers.{i}.multihead_attn.in_proj_{p}",
            "layers.{i}.cross_attention.in_projection.{p}",
        ),
        (
            "transformer_cross_attention_layers.{i}.multihead_attn.out_proj.{p}",
            "layers.{i}.cross_attention.out_projection.{p}",
        ),
        ("transformer_cross_attention_layers.{i}.norm.{p}", "layers.{i}.cross_attention_norm.{p}"),
        ("transformer_self_attention_layers.{i}.self_attn.in_proj_{p}", "layers.{i}.self_attention.in_projection.{p}"),
        (
            "transformer_self_attention_layers.{i}.self_attn.out_proj.{p}",
            "layers.{i}.self_attention.out_projection.{p}",
        ),
        ("transformer_self_attention_layers.{i}.norm.{p}", "layers.{i}.self_attention_norm.{p}"),
        ("transformer_ffn_layers.{i}.linear1.{p}", "layers.{i}.feedforward.linear1.{p}"),
        ("transformer_ffn_layers.{i}.linear2.{p}", "layers.{i}.feedforward.linear2.{p}"),
        ("transformer_ffn_layers.{i}.norm.{p}", "layers.{i}.feedforward_norm.{p}"),
        ("decoder_norm.{p}", "norm.{p}"),
        ("class_embed.{p}", "class_head.{p}"),
        ("mask_embed.layers.{k}.{p}", "mask_head.layers.{k}.{p}"),
    )
)

ONEFORMER = (
    ("task_mlp.layers.{k}.{p}", "task_mlp.layers.{k}.{p}"),
    ("criterion.logit_scale", "criterion.logit_scale"),  # learned by the contrastive loss, no part of the network
    (_PREDICTOR + "class_input_proj.{p}", "transformer_decoder.class_projection.{p}"),
    (_PREDICTOR + "class_transformer.decoder.norm.{p}", "transformer_decoder.class_transformer.norm.{p}"),
    *(
        (
            f"{_PREDICTOR}class_transformer.decoder.layers.{{i}}.{theirs}",
            f"transformer_decoder.class_transformer.layers.{{i}}.{ours}",
        )
        for theirs, ours in (
            ("self_attn.in_proj_{p}", "self_attention.in_projection.{p}"),
            ("self_attn.out_proj.{p}", "self_attention.out_projection.{p}"),
            ("norm1.{p}", "self_attention_norm.{p}"),
            ("multihead_attn.in_proj_{p}", "cross_attention.in_projection.{p}"),
            ("multihead_attn.out_proj.{p}", "cross_attention.out_projection.{p}"),
            ("norm2.{p}", "cross_attention_norm.{p}"),
            ("linear1.{p}", "feedforward.linear1.{p}"),
            ("linear2.{p}", "feedforward.linear2.{p}"),
            ("norm3.{p}", "feedforward_norm.{p}"),
        )
    ),
)

# The branch that only training needs.
TEXT_BRANCH = (
    ("text_encoder.token_embedding.weight", "text_encoder.token_embedding.weight"),
    ("text_encoder.positional_embedding", "text_encoder.position_embedding"),
    *(
        (f"text_encoder.transformer.resblocks.{{i}}.{theirs}", f"text_encoder.layers.{{i}}.{ours}")
        for theirs, ours in (
            ("attn.in_proj_{p}", "attention.in_projection.{p}"),
            ("attn.out_proj.{p}", "attention.out_projection.{p}"),
            ("ln_1.{p}", "attention_norm.{p}"),
            ("mlp.c_fc.{p}", "feedforward.linear1.{p}"),
            ("mlp.c_proj.{p}", "feedforward.linear2.{p}"),
            ("ln_2.{p}", "feedforward_norm.{p}"),
        )
    ),
    ("text_encoder.ln_final.{p}", "text_encoder.norm.{p}"),
    ("text_projector.layers.{k}.{p}", "text_projector.layers.{k}.{p}"),
    ("prompt_ctx.weight", "text_context"),
)

# (theirs, the entry of ours each goes with, how it is made when written)
MADE = (("criterion.empty_weight", "transformer_decoder.class_head.bias", "class_weights"),)
MADE_ONEFORMER = (("criterion.logit_scale", "task_mlp.layers.0.bias", "logit_scale"),)

# The original code migrates files whose modules state no version and would rename the pixel decoder wrongly.
VERSIONS = {"sem_seg_head": {"version": 2}, "sem_seg_head.predictor": {"version": 2}}
