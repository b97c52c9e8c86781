"""The sizes of the networks as the papers have them, against the published configurations.

Cheng et al. 2022 §4.1 and Jain et al. 2023 §4.1; shared/facts/mask2former_configs.json and oneformer_configs.json. What
no configuration tells is in shared/FACTS.md: 1024 and 4 points in the pixel decoder, nine layers, dropout.
"""

import json

import pytest

from mask2former.modeling.config import Mask2FormerConfig
from oneformer.config import OneFormerConfig
from oneformer.dinat import PRESETS
from tests.conftest import SHARED, needs_shared


def test_the_sizes_of_mask2former():
    config = Mask2FormerConfig()
    assert (config.num_queries, config.hidden_dim, config.mask_dim, config.num_heads) == (100, 256, 256, 8)
    assert (config.encoder_layers, config.encoder_feedforward_dim, config.encoder_points) == (6, 1024, 4)
    assert (config.decoder_layers, config.decoder_feedforward_dim, config.dropout) == (9, 2048, 0.0)
    assert config.frozen_batch_norm and config.drop_path_rate == 0.0


def test_the_sizes_of_oneformer():
    config = OneFormerConfig()
    assert (config.num_queries, config.dropout, config.class_decoder_layers) == (150, 0.1, 2)
    assert (config.task_sequence_length, config.decoder_layers, config.encoder_layers) == (77, 9, 6)


@needs_shared
def test_the_defaults_are_those_of_the_published_configurations():
    ours = Mask2FormerConfig()
    for name, config in json.loads((SHARED / "facts" / "mask2former_configs.json").read_text()).items():
        head = config["mask_former"]
        assert (head["HIDDEN_DIM"], head["NHEADS"], head["DIM_FEEDFORWARD"], head["DROPOUT"], head["DEC_LAYERS"]) == (
            ours.hidden_dim,
            ours.num_heads,
            ours.decoder_feedforward_dim,
            ours.dropout,
            ours.decoder_layers + 1,  # theirs counts predictions
        ), name
    ours = OneFormerConfig()
    for name, config in json.loads((SHARED / "facts" / "oneformer_configs.json").read_text()).items():
        assert config["text_encoder"] == {
            "WIDTH": ours.text_width,
            "CONTEXT_LENGTH": ours.text_context_length,
            "NUM_LAYERS": ours.text_layers,
            "VOCAB_SIZE": ours.text_vocabulary,
            "PROJ_NUM_LAYERS": ours.text_projection_layers,
            "N_CTX": ours.text_contexts,
        }, name


@needs_shared
def test_dinat_large_is_that_of_coco():
    configs = json.loads((SHARED / "facts" / "oneformer_configs.json").read_text())
    published = configs["configs/coco/dinat/oneformer_dinat_large_bs16_100ep.yaml"]["dinat"]
    for name, value in PRESETS["dinat_large"].items():
        found = published[name.upper()]
        assert json.loads(json.dumps(value)) == (pytest.approx(found) if isinstance(found, float) else found), name
