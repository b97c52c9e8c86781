"""Names of the Hugging Face files beside our own. Rows as in `keys_backbone.py`, whole names on both sides."""

_PIXEL = "model.pixel_level_module.decoder."
PIXEL_DECODER = (
    (_PIXEL + "input_projections.{s}.{k}.{p}", "pixel_decoder.input_projections.{s}.{k}.{p}"),
    (_PIXEL + "level_embed", "pixel_decoder.level_embedding"),
    *(
        (f"{_PIXEL}encoder.layers.{{i}}.{theirs}", f"pixel_decoder.encoder.{{i}}.{ours}")
        for theirs, ours in (
            ("self_attn.sampling_offsets.{p}", "attention.sampling_offsets.{p}"),
            ("self_attn.attention_weights.{p}", "attention.attention_weights.{p}"),
            ("self_attn.value_proj.{p}", "attention.value_projection.{p}"),
            ("self_attn.output_proj.{p}", "attention.output_projection.{p}"),
            ("self_attn_layer_norm.{p}", "attention_norm.{p}"),
            ("fc1.{p}", "feedforward.linear1.{p}"),
            ("fc2.{p}", "feedforward.linear2.{p}"),
            ("final_layer_norm.{p}", "feedforward_norm.{p}"),
        )
    ),
    (_PIXEL + "adapter_1.{k}.{p}", "pixel_decoder.lateral.{k}.{p}"),
    (_PIXEL + "layer_1.{k}.{p}", "pixel_decoder.output.{k}.{p}"),
    (_PIXEL + "mask_projection.{p}", "pixel_decoder.mask_projection.{p}"),
)

_MODULE = "model.transformer_module."
_LAYER = (_MODULE + "decoder.layers.{i}.", "transformer_decoder.layers.{i}.")

MASK2FORMER = (
    (_MODULE + "queries_features.weight", "transformer_decoder.query_features"),
    (_MODULE + "queries_embedder.weight", "transformer_decoder.query_positions"),
    (_MODULE + "level_embed.weight", "transformer_decoder.level_embedding"),
    *(
        (_LAYER[0] + theirs, _LAYER[1] + ours)
        for theirs, ours in (
            ("cross_attn.in_proj_{p}", "cross_attention.in_projection.{p}"),
            ("cross_attn.out_proj.{p}", "cross_attention.out_projection.{p}"),
            ("cross_attn_layer_norm.{p}", "cross_attention_norm.{p}"),
            ("self_attn.out_proj.{p}", "self_attention.out_projection.{p}"),
            ("self_attn_layer_norm.{p}", "self_attention_norm.{p}"),
            ("fc1.{p}", "feedforward.linear1.{p}"),
            ("fc2.{p}", "feedforward.linear2.{p}"),
            ("final_layer_norm.{p}", "feedforward_norm.{p}"),
        )
    ),
    (_MODULE + "decoder.layernorm.{p}", "transformer_decoder.norm.{p}"),
    ("class_predictor.{p}", "transformer_decoder.class_head.{p}"),
    (_MODULE + "decoder.mask_predictor.mask_embedder.{k}.0.{p}", "transformer_decoder.mask_head.layers.{k}.{p}"),
)

_QUERY_LAYER = (
    _MODULE + "decoder.query_transformer.decoder.layers.{i}.",
    "transformer_decoder.class_transformer.layers.{i}.",
)
ONEFORMER = (
    ("model.task_encoder.task_mlp.layers.{k}.0.{p}", "task_mlp.layers.{k}.{p}"),
    ("criterion.logit_scale", "criterion.logit_scale"),  # learned by the contrastive loss, no part of the network
    (_MODULE + "queries_embedder.weight", "transformer_decoder.query_positions"),
    (_MODULE + "level_embed.weight", "transformer_decoder.level_embedding"),
    (_MODULE + "decoder.query_input_projection.{p}", "transformer_decoder.class_projection.{p}"),
    *(
        (_QUERY_LAYER[0] + theirs, _QUERY_LAYER[1] + ours)
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
    (_MODULE + "decoder.query_transformer.decoder.norm.{p}", "transformer_decoder.class_transformer.norm.{p}"),
    *(
        (_LAYER[0] + theirs, _LAYER[1] + ours)
        for theirs, ours in (
            ("cross_attn.multihead_attn.in_proj_{p}", "cross_attention.in_projection.{p}"),
            ("cross_attn.multihead_attn.out_proj.{p}", "cross_attention.out_projection.{p}"),
            ("cross_attn.norm.{p}", "cross_attention_norm.{p}"),
            ("self_attn.self_attn.out_proj.{p}", "self_attention.out_projection.{p}"),
            ("self_attn.norm.{p}", "self_attention_norm.{p}"),
            ("ffn.linear1.{p}", "feedforward.linear1.{p}"),
            ("ffn.linear2.{p}", "feedforward.linear2.{p}"),
            ("ffn.norm.{p}", "feedforward_norm.{p}"),
        )
    ),
    (_MODULE + "decoder.decoder_norm.{p}", "transformer_decoder.norm.{p}"),
    (_MODULE + "decoder.class_embed.{p}", "transformer_decoder.class_head.{p}"),
    (_MODULE + "decoder.mask_embed.layers.{k}.0.{p}", "transformer_decoder.mask_head.layers.{k}.{p}"),
)

# The branch that only training needs.
_TEXT = "model.text_mapper."
TEXT_BRANCH = (
    (_TEXT + "text_encoder.token_embedding.weight", "text_encoder.token_embedding.weight"),
    (_TEXT + "text_encoder.positional_embedding", "text_encoder.position_embedding"),
    *(
        (f"{_TEXT}text_encoder.transformer.layers.{{i}}.{theirs}", f"text_encoder.layers.{{i}}.{ours}")
        for theirs, ours in (
            ("self_attn.in_proj_{p}", "attention.in_projection.{p}"),
            ("self_attn.out_proj.{p}", "attention.out_projection.{p}"),
            ("layer_norm1.{p}", "attention_norm.{p}"),
            ("mlp.fc1.{p}", "feedforward.linear1.{p}"),
            ("mlp.fc2.{p}", "feedforward.linear2.{p}"),
            ("layer_norm2.{p}", "feedforward_norm.{p}"),
        )
    ),
    (_TEXT + "text_encoder.ln_final.{p}", "text_encoder.norm.{p}"),
    (_TEXT + "text_projector.layers.{k}.0.{p}", "text_projector.layers.{k}.{p}"),
    (_TEXT + "prompt_ctx.weight", "text_context"),
)

# Surgery: three tensors of theirs are the thirds of one of ours, along the first axis.
MASK2FORMER_FUSED = (
    (tuple(f"{_LAYER[0]}self_attn.{x}_proj.{{p}}" for x in "qkv"), _LAYER[1] + "self_attention.in_projection.{p}"),
)
ONEFORMER_FUSED = (
    (
        tuple(f"{_LAYER[0]}self_attn.self_attn.{x}_proj.{{p}}" for x in "qkv"),
        _LAYER[1] + "self_attention.in_projection.{p}",
    ),
)

# (theirs, the entry of ours each goes with, how it is made when written)
MADE = (("criterion.empty_weight", "transformer_decoder.class_head.bias", "class_weights"),)
MADE_ONEFORMER = (("criterion.logit_scale", "task_mlp.layers.0.bias", "logit_scale"),)

# What a OneFormer repository has beside the weights: the tokenizer of the texts. Not read here, but carried along.
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
