"""Folders that transformers writes, read strictly, computing the same, and written back for transformers to read."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import weights
import weights.zoo
from mask2former import ClassInfo, Mask2FormerConfig, Protocol
from mask2former.data.classes import dataset_classes
from mask2former.inference.preprocess import Preprocess
from mask2former.kernels.neighborhood_attention import neighborhood_attention
from oneformer.dinat import Block
from tests.conftest import SHARED, needs_shared
from tests.toy_transformers import mask2former as toy_mask2former
from tests.toy_transformers import swin as toy_swin
from weights.checkpoint import build_model, read_checkpoint, write_hub
from weights.class_names import complete
from weights.hub_config import _protocol, config_from_hub
from weights.translate import layout_for

transformers = pytest.importorskip("transformers")

CONFIG_133 = Mask2FormerConfig(num_classes=133)
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN = {"embed_dim": 16, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 4}
RESNET = {"embedding_size": 64, "hidden_sizes": [32, 48, 64, 96], "depths": [1, 2, 1, 1]}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1], "layer_scale_init_value": 0.5}
MASK2FORMER = {"hidden_dim": 32, "feature_size": 32, "mask_feature_size": 24, "num_attention_heads": 4}
ONEFORMER = {
    **{"hidden_dim": 64, "conv_dim": 64, "mask_dim": 64, "num_attention_heads": 4},
    **{"text_encoder_width": 64, "text_encoder_vocab_size": 100, "text_encoder_num_layers": 1},
    **{"text_encoder_n_ctx": 2, "num_queries": 6},
}
SMALL = {
    "encoder_layers": 1,
    "decoder_layers": 4,
    "dim_feedforward": 48,
    "encoder_feedforward_dim": 40,
    "num_labels": 3,
}
BACKBONES = {
    "swin": ("SwinConfig", SWIN),
    "resnet": ("ResNetConfig", RESNET),
    "convnext": ("ConvNextConfig", CONVNEXT),
}
# the queries of OneFormer include the task token and (in training) two learned contexts
CASES = [
    ("mask2former", "swin", {}),
    ("mask2former", "resnet", {}),
    ("oneformer", "swin", {}),
    ("oneformer", "swin", {"is_training": True}),
    ("oneformer", "convnext", {}),
]


def toy(family, backbone, **extra):
    """A toy of transformers with random weights of which none is zero, and with named classes."""
    transformers.logging.set_verbosity_error()
    name, sizes = BACKBONES[backbone]
    backbone_config = getattr(transformers, name)(**sizes, out_features=STAGES)
    if family == "mask2former":
        config = transformers.Mask2FormerConfig(backbone_config=backbone_config, **MASK2FORMER, **SMALL, num_queries=5)
        model = transformers.Mask2FormerForUniversalSegmentation(config)
    else:
        config = transformers.OneFormerConfig(backbone_config=backbone_config, **ONEFORMER, **SMALL, **extra)
        model = transformers.OneFormerForUniversalSegmentation(config)
    config.id2label = {0: "cat", 1: "lawn", 2: "sky"}
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not name.startswith("criterion.empty") and "swin.layernorm" not in name:
            value.uniform_(0.5, 1.5) if name.endswith("running_var") else value.normal_(0.1, 0.3)
    return model.eval()


@pytest.fixture(params=CASES, ids=lambda c: "-".join([*c[:2], *c[2]]))
def folder(request, tmp_path):
    model = toy(request.param[0], request.param[1], **request.param[2])
    model.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_written_back_bit_for_bit(folder, tmp_path):
    weights.convert(folder, tmp_path / "native", to="native")
    weights.convert(tmp_path / "native", tmp_path / "hub", to="hub")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "hub" / "model.safetensors")
    assert set(before) == set(after)
    different = [k for k in before if before[k].dtype != after[k].dtype or not torch.equal(before[k], after[k])]
    assert not different
    ours = json.loads((tmp_path / "native" / "config.json").read_text())
    assert [c["name"] for c in ours["classes"]] == ["cat", "lawn", "sky"]


def test_transformers_loads_what_is_written(folder, tmp_path):
    checkpoint = read_checkpoint(folder)
    write_hub(checkpoint, tmp_path / "hub")
    cls = {"mask2former": "Mask2FormerForUniversalSegmentation", "oneformer": "OneFormerForUniversalSegmentation"}
    cls = getattr(transformers, cls[checkpoint.config.family])
    theirs, info = cls.from_pretrained(tmp_path / "hub", output_loading_info=True)
    assert not any(info.values()), {k: list(v)[:5] for k, v in info.items()}
    assert theirs.config.id2label == {0: "cat", 1: "lawn", 2: "sky"}
    assert theirs.config.num_labels == 3
    before = json.loads((folder / "config.json").read_text())
    after = theirs.config.to_dict()
    unread = {"transformers_version", "dtype", "init_std", "init_xavier_std", "encoder_stride", "image_size"}
    for name in set(before) - unread - {"backbone_config", "id2label", "label2id"}:
        assert after[name] == before[name], name
    for name in set(before["backbone_config"]) - unread - {"id2label", "label2id", "layer_scale_init_value"}:
        assert after["backbone_config"][name] == before["backbone_config"][name], name
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hub")
    assert dict(processor.size) == {"shortest_edge": 800, "longest_edge": 1333}


@torch.no_grad()
def test_oneformer_with_texts_computes_the_same(tmp_path):
    """As it does with its text branch left out. (The parity tests do the other networks, through this same door.)"""
    toy("oneformer", "swin", is_training=True).save_pretrained(tmp_path)
    theirs = transformers.OneFormerForUniversalSegmentation.from_pretrained(tmp_path, dtype=torch.float64).eval()
    for module in theirs.modules():
        module.is_training = False  # or it would ask for texts, and drop out
    with pytest.warns(UserWarning, match="left out the 21 entries that only training needs"):
        ours = weights.create_model(tmp_path, dtype=torch.float64)
    pixel_values, task = torch.randn(1, 3, 64, 96, dtype=torch.float64), torch.zeros(1, 77, dtype=torch.int64)
    task[0, :5] = torch.tensor([49406, 7, 8, 9, 49407])
    expected = theirs.model(pixel_values=pixel_values, task_inputs=task.double())
    found = ours(pixel_values, task)
    for a, b in (
        (found.class_logits, expected.transformer_decoder_class_predictions),
        (found.mask_logits, expected.transformer_decoder_mask_predictions),
    ):
        assert (a - b).abs().max() <= 1e-9 * b.abs().max()


@pytest.mark.parametrize("form", ["shards", "bin"])
def test_other_files_of_weights(tmp_path, form):
    model = toy("mask2former", "swin")
    model.save_pretrained(tmp_path / "whole")
    whole = read_checkpoint(tmp_path / "whole").state
    if form == "shards":
        model.save_pretrained(tmp_path / "other", max_shard_size="100KB")
        assert len(list((tmp_path / "other").glob("*.safetensors"))) > 1
    else:
        model.save_pretrained(tmp_path / "other")
        torch.save(load_file(tmp_path / "other" / "model.safetensors"), tmp_path / "other" / "pytorch_model.bin")
        (tmp_path / "other" / "model.safetensors").unlink()
    other = read_checkpoint(tmp_path / "other").state
    assert set(other) == set(whole) and all(torch.equal(other[k], whole[k]) for k in whole)


def test_every_entry_that_does_not_fit_is_listed(tmp_path):
    model = toy("mask2former", "swin")
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    prefix = "model.pixel_level_module.encoder."
    del state["model.transformer_module.decoder.layers.1.self_attn.k_proj.weight"]
    state["model.surplus"] = torch.zeros(1)
    state["class_predictor.weight"] = torch.zeros(4, 31)
    # what 4.x wrote and 5.x does not, and what 5.x writes and 4.x did not, do not count
    index = prefix + "encoder.layers.0.blocks.0.attention.self.relative_position_index"
    state[index] = torch.zeros(16, 16, dtype=torch.int64)
    del state[prefix + "swin.layernorm.weight"], state["criterion.empty_weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(weights.CheckpointError) as error:
        weights.create_model(tmp_path)
    assert error.value.unknown == ["model.surplus"]
    assert error.value.missing == ["model.transformer_module.decoder.layers.1.self_attn.k_proj.weight"]
    assert error.value.misshapen == ["class_predictor.weight: (4, 31) instead of (4, 32)"]
    for name in ("model.surplus", "k_proj.weight", "class_predictor.weight: (4, 31) instead of (4, 32)", str(tmp_path)):
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "maskformer"}, "'maskformer'"),
        ({"model_type": None}, "neither this library's"),
        ({"hidden_dim": None, "num_queries": None}, "lacks num_queries, hidden_dim"),
        ({"backbone_config": {"model_type": "swin", "embed_dim": 16}}, "lacks backbone_config.depths"),
        ({"backbone_config": {"model_type": "focalnet"}}, "'focalnet'"),
        ({"backbone_config": None}, "no backbone"),
        ({"pre_norm": True}, "pre_norm=True"),
        ({"id2label": {"0": "cat"}}, "1 classes, the weights have 3"),
        ({"id2label": {"1": "a", "2": "b", "3": "c"}}, "no entry '0'"),
    ],
)
def test_wrong_config(tmp_path, change, message):
    toy("mask2former", "swin").save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values = {k: v for k, v in {**values, **change}.items() if v is not None}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="config.json") as error:
        weights.create_model(tmp_path)
    assert message in str(error.value)


@needs_shared
@pytest.mark.parametrize(
    ("repository", "name"),
    [
        ("facebook/mask2former-swin-tiny-ade-semantic", "mask2former_swin_tiny_ade_semantic"),
        ("shi-labs/oneformer_ade20k_swin_tiny", "oneformer_ade20k_swin_tiny"),
        ("shi-labs/oneformer_ade20k_dinat_large", "oneformer_ade20k_dinat_large"),
    ],
)
def test_released_configs(repository, name):
    """With their stray and missing fields they describe the network of the zoo's row."""
    values = json.loads((SHARED / "facts" / "hub_configs.json").read_text())
    preprocessor = values["preprocessor_config.json, Mask2Former"]
    row = weights.zoo.ZOO[name]
    assert row.hub_id == repository
    with torch.device("meta"):
        state = build_model(row.config).state_dict()
    config = complete(config_from_hub(values[repository], state, preprocessor), row)
    # the stochastic depth of one release differs from that of the original's recipe; it is for training only
    assert replace(config, drop_path_rate=row.config.drop_path_rate) == row.config


@needs_shared
def test_classes_and_protocol_of_a_local_copy(tmp_path):
    """A folder holds names alone; what else there is to know comes from the dataset or the folder's own name."""
    names = [c["name"] for c in json.loads((SHARED / "facts" / "classes.json").read_text())["cityscapes"]]
    names[0] = "Road!"
    model = toy("mask2former", "swin")
    model.class_predictor = torch.nn.Linear(model.class_predictor.in_features, 20)
    model.criterion.empty_weight = torch.ones(20)
    model.config.id2label = dict(enumerate(names))
    model.save_pretrained(tmp_path / "copy")
    config = weights.create_model(tmp_path / "copy").config
    assert [c.name for c in config.classes] == names
    assert [c.dataset_id for c in config.classes][:3] == [7, 8, 11] and not config.classes[0].is_thing
    assert config.protocol == weights.zoo.ZOO["mask2former_swin_tiny_cityscapes_panoptic"].config.protocol
    semantic = (tmp_path / "copy").rename(tmp_path / "mask2former-swin-tiny-cityscapes-semantic")
    assert weights.create_model(semantic).config.protocol.tasks == ("semantic",)
    misnamed = semantic.rename(tmp_path / "mask2former-swin-tiny-cityscapes-instance")  # that one has 8 classes
    assert weights.create_model(misnamed).config == config
    values = json.loads((misnamed / "config.json").read_text())
    values["id2label"] = {str(k): f"thing {k}" for k in range(19)}
    (misnamed / "config.json").write_text(json.dumps(values))
    other = weights.create_model(misnamed.rename(semantic)).config
    assert other.classes[3].name == "thing 3" and other.protocol == Protocol()


def test_names_of_dinat(monkeypatch, tmp_path):
    """transformers cannot run its DiNAT any more, but it can build one and save it."""
    from transformers.models.dinat import modeling_dinat

    monkeypatch.setattr(modeling_dinat, "requires_backends", lambda *_: None)
    sizes = {"embed_dim": 16, "depths": [2, 1, 1, 1], "num_heads": [1, 2, 2, 4], "kernel_size": 3, "mlp_ratio": 2.0}
    dilations = [[1, 3], [2], [1], [1]]
    monkeypatch.setitem(BACKBONES, "dinat", ("DinatConfig", {**sizes, "dilations": dilations}))
    model = toy("oneformer", "dinat")
    model.save_pretrained(tmp_path / "theirs")
    before = load_file(tmp_path / "theirs" / "model.safetensors")
    checkpoint = read_checkpoint(tmp_path / "theirs")
    assert checkpoint.config.backbone == "dinat_large"
    options = {**sizes, "dilations": dilations}
    assert options.pop("mlp_ratio") == 2.0  # that of the preset
    assert checkpoint.config.backbone_options == options
    write_hub(checkpoint, tmp_path / "hub")
    after = load_file(tmp_path / "hub" / "model.safetensors")
    assert set(before) == set(after) and all(torch.equal(before[k], after[k]) for k in before)
    written = transformers.AutoConfig.from_pretrained(tmp_path / "hub").backbone_config
    assert (written.dilations, written.kernel_size, written.mlp_ratio) == (dilations, 3, 2.0)
    # thirds of the fused projection stand in the order query, key, value
    q = before["model.pixel_level_module.encoder.encoder.levels.0.layers.0.attention.self.query.weight"]
    assert torch.equal(checkpoint.state["backbone.levels.0.blocks.0.attn.qkv.weight"][:16], q)


@pytest.mark.parametrize(
    "values, hub_size, hub_sides, resized",
    [
        ({"size": {"height": 256, "width": 320}}, (256, 320), None, (256, 320)),
        ({"size": {"shortest_edge": 512, "longest_edge": 600}}, None, (512, 600), (450, 600)),
        ({"size": 320, "max_size": 400}, None, (320, 400), (300, 400)),
        ({"size": 480}, None, (480, 1333), (480, 640)),
        ({}, (384, 384), None, (384, 384)),
    ],
)
@pytest.mark.parametrize("named", [None, "copy", "mask2former-swin-tiny-coco-panoptic"])
def test_the_preprocessor_config_is_kept(tmp_path, values, hub_size, hub_sides, resized, named):
    """Whatever the names of the classes and of the folder add; the preset "paper" is the test protocol's."""
    names = [c.name for c in dataset_classes("coco_panoptic")] if named else [f"thing {k}" for k in range(133)]
    config = replace(CONFIG_133, classes=tuple(ClassInfo(name, True, (0, 0, 0), k) for k, name in enumerate(names)))
    protocol = _protocol({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.5], **values})
    completed = complete(replace(config, protocol=protocol), guess=weights.zoo.guess_model(str(tmp_path / str(named))))
    protocol = completed.protocol
    assert (protocol.hub_size, protocol.hub_sides) == (hub_size, hub_sides)
    assert (protocol.pixel_mean, protocol.pixel_std) == ((127.5, 127.5, 127.5), (63.75, 127.5, 127.5))
    assert Preprocess.from_protocol(protocol, "hub").sizes((480, 640)).resized == resized
    if named:
        assert not completed.classes[-1].is_thing and (protocol.short_side, protocol.long_side) == (800, 1333)
        assert Preprocess.from_protocol(protocol).sizes((480, 640)).resized == (800, 1067)


def test_the_preprocessor_config_is_read_from_the_folder(tmp_path):
    toy_mask2former(toy_swin(4)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 320, "max_size": 400}))
    assert weights.create_model(tmp_path).config.protocol.hub_sides == (320, 400)
    weights.convert(tmp_path, tmp_path / "native")
    weights.convert(tmp_path / "native", tmp_path / "hub", to="hub")
    assert weights.create_model(tmp_path / "hub").config.protocol.hub_sides == (320, 400)


@torch.no_grad()
@pytest.mark.parametrize("size, dilation", [((9, 12), 2), ((12, 12), 1)])
def test_a_block_of_dinat_means_the_same(monkeypatch, size, dilation):
    """Their block, with our neighborhood attention in place of a library's, on weights translated to their names."""
    from transformers.models.dinat import modeling_dinat

    scores = {}  # theirs are made in one call and used in the next

    def make_scores(q, k, bias, kernel_size, dilation):
        scores.update(q=q, k=k, bias=bias)
        return torch.zeros(1)

    def use_scores(_, v, kernel_size, dilation):
        q, k, v = (t.permute(0, 3, 2, 1, 4) for t in (scores["q"], scores["k"], v))  # (B, W, H, N, D) → (B, N, H, W, D)
        return neighborhood_attention(q, k, v, scores["bias"], kernel_size, dilation)

    monkeypatch.setattr(modeling_dinat, "natten2dqkrpb", make_scores, raising=False)
    monkeypatch.setattr(modeling_dinat, "natten2dav", use_scores, raising=False)
    ours = Block(16, 2, 5, dilation, 2.0, 0.0).double().eval()
    for parameter in ours.parameters():
        parameter.normal_(0.1, 0.5)
    prefix = "backbone.levels.0.blocks.0."
    names = layout_for("hub", "oneformer", "dinat").from_native({prefix + k: v for k, v in ours.state_dict().items()})
    theirs_prefix = "model.pixel_level_module.encoder.encoder.levels.0.layers.0."
    config = transformers.DinatConfig(kernel_size=5, mlp_ratio=2.0, layer_scale_init_value=0.0)
    theirs = modeling_dinat.DinatLayer(config, 16, 2, dilation).double().eval()
    theirs.load_state_dict({name.removeprefix(theirs_prefix): tensor for name, tensor in names.items()})
    x = torch.randn(1, *size, 16, dtype=torch.float64)
    expected = theirs(x)[0]
    assert scores and (ours(x) - expected).abs().max() <= 1e-9 * expected.abs().max()
