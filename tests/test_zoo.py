"""The zoo against the published tables: every model, its network, its test protocol, its scores, its licence."""

import json
import re

import pytest
import torch

import weights
import weights.infer
from mask2former.data.classes import dataset_classes
from tests.conftest import SHARED, needs_shared
from weights.checkpoint import build_model
from weights.zoo import ZOO, find_model, guess_model, nearest_models

TASKS = {
    "COCO Panoptic": ("panoptic", "instance", "semantic"),
    "Cityscapes Panoptic": ("panoptic", "instance", "semantic"),
    "ADE20K Panoptic": ("panoptic", "instance", "semantic"),
    "Mapillary Vistas Panoptic": ("panoptic", "semantic"),
}
# Mask2Former's published table names a configuration for this one that is not in the repository
WITHOUT_CONFIG = "mask2former_resnet50_mapillary_vistas_semantic"
SCORES = {
    **{"PQ": "PQ", "PQTh": "PQTh", "PQSt": "PQSt", "AP": "AP", "AP50": "AP50", "Boundary AP": "Boundary_AP"},
    **{"mIoU": "mIoU", "mIoU (s.s)": "mIoU", "mIoU (ms+flip)": "mIoU_ms"},
}


def facts(name):
    return json.loads((SHARED / "facts" / name).read_text())


def scores(published):
    named = {SCORES.get(re.sub(" +", " ", k)): v for k, v in published.items()}
    return {k: float(v) for k, v in named.items() if k}


@needs_shared
def test_every_mask2former():
    published = [row for row in facts("mask2former_zoo.json") if "Video" not in row["task"]]
    configs = facts("mask2former_configs.json")
    rows = {row.url.partition("/maskformer/")[2]: row for row in ZOO.values() if row.family == "mask2former"}
    assert len(published) == 47 and set(rows) == {p["file"] for p in published}
    for p in published:
        row = rows[p["file"]]
        assert row.scores == scores(p), row.name
        assert row.md5_prefix == re.search(r"_(\w{6})\.pkl", p["file"])[1]
        assert row.tasks == TASKS.get(f"{p['dataset']} {p['task'].split()[0]}", (p["task"].split()[0].lower(),))
        assert (row.weight_licence, row.code_licence) == ("CC-BY-NC-4.0", "MIT")
        config, protocol = row.config, row.config.protocol
        if row.name == WITHOUT_CONFIG:
            assert p["config"] not in configs
            continue
        c = configs[p["config"]]
        assert config.num_classes == c["num_classes"] == len(config.classes), row.name
        head = c["mask_former"]
        assert config.num_queries == head["NUM_OBJECT_QUERIES"]
        assert (config.hidden_dim, config.num_heads) == (head["HIDDEN_DIM"], head["NHEADS"])
        assert (config.decoder_layers, config.decoder_feedforward_dim) == (
            head["DEC_LAYERS"] - 1,
            head["DIM_FEEDFORWARD"],
        )
        assert protocol.short_side == (c.get("min_size_test") or 800), row.name
        assert protocol.long_side == (c.get("max_size_test") or 1333), row.name
        assert protocol.object_mask_threshold == head["TEST"]["OBJECT_MASK_THRESHOLD"]
        assert protocol.overlap_threshold == head["TEST"]["OVERLAP_THRESHOLD"]
        assert (list(protocol.pixel_mean), list(protocol.pixel_std)) == (c["pixel_mean"], c["pixel_std"])
        if "Swin" in c["backbone"]:
            assert config.backbone == weights.infer.backbone_name(swin_sizes(c))[0], row.name
        else:
            assert config.backbone == f"resnet{c['resnet_depth']}" and c["resnet_stem"] == "basic"


@needs_shared
def test_every_oneformer():
    published, configs = facts("oneformer_zoo.json"), facts("oneformer_configs.json")
    rows = {row.url.partition("/oneformer/")[2]: row for row in ZOO.values() if row.family == "oneformer" and row.url}
    assert len(published) == 20 and set(rows) == {p["file"] for p in published}
    # some published addresses of configurations differ from the files' names in the repository
    by_name = {path.rpartition("/")[2]: c for path, c in configs.items()}
    for p in published:
        row = rows[p["file"]]
        name = p["config"].rpartition("/")[2].replace("_coco_pretrain.yaml", ".yaml")
        c = configs.get(p["config"]) or by_name[name]
        config, protocol = row.config, row.config.protocol
        assert row.scores == scores(p), row.name
        assert (row.weight_licence, row.code_licence, row.md5_prefix) == ("MIT", "MIT", None)
        assert config.num_classes == c["num_classes"] == len(config.classes)
        assert config.num_queries == protocol.instances_per_image == int(re.search(r"(\d+)_16_", p["file"])[1])
        assert protocol.short_side == (c.get("min_size_test") or 800), row.name
        assert protocol.long_side == (c.get("max_size_test") or 1333), row.name
        assert protocol.object_mask_threshold == c["oneformer_test"]["OBJECT_MASK_THRESHOLD"]
        if "dinat" in c:
            sizes = {key: c["dinat"][key.upper()] for key in ("embed_dim", "depths", "num_heads", "kernel_size")}
            sizes |= {"dilations": c["dinat"]["DILATIONS"], "mlp_ratio": c["dinat"]["MLP_RATIO"], "family": "dinat"}
        elif "convnext" in c:
            sizes = {"depths": c["convnext"]["DEPTHS"], "dims": c["convnext"]["DIMS"]}
            sizes |= {"layer_scale": True, "family": "convnext"}
        else:
            sizes = swin_sizes(c)
        assert (config.backbone, dict(config.backbone_options)) == weights.infer.backbone_name(sizes), row.name


def swin_sizes(c):
    sizes = {"embed_dim": c["swin_embed_dim"], "depths": c["swin_depths"], "num_heads": c["swin_heads"]}
    return {**sizes, "window_size": c["swin_window"], "mlp_ratio": 4.0, "qkv_bias": True, "family": "swin"}


def test_hub_ids():
    """Every row under the name of its hub repository, and the repositories that exist."""
    ids = {row.hub_id for row in ZOO.values() if row.hub_id}
    tails = [f"swin-{size}-{test}" for size in ("tiny", "small", "base", "base-IN21k", "large")
             for test in ("coco-instance", "coco-panoptic", "ade-semantic")]  # fmt: skip
    tails += ["swin-large-ade-panoptic"]
    tails += [f"swin-{size}-cityscapes-{task}" for size in ("tiny", "small", "large")
              for task in ("instance", "panoptic", "semantic")]  # fmt: skip
    tails += [f"swin-base-IN21k-cityscapes-{task}" for task in ("panoptic", "semantic")]
    tails += [f"swin-large-mapillary-vistas-{task}" for task in ("panoptic", "semantic")]
    oneformer = ["ade20k_swin_tiny"] + [
        f"{dataset}_{backbone}_large" for dataset in ("ade20k", "coco", "cityscapes") for backbone in ("swin", "dinat")
    ]
    expected = {f"facebook/mask2former-{tail}" for tail in tails} | {f"shi-labs/oneformer_{tail}" for tail in oneformer}
    assert ids == expected
    for row in ZOO.values():
        assert row.hub_id is None or row.hub_id.rpartition("/")[2].replace("-", "_") == row.name
        assert row.hub_id or row.url


def test_listing_and_finding():
    assert len(weights.list_models()) == len(ZOO) == 68
    tiny = weights.list_models("*swin_tiny*")
    assert len(tiny) == 7 and "oneformer_ade20k_swin_tiny" in tiny and tiny == sorted(tiny)
    row = ZOO["mask2former_swin_tiny_coco_panoptic"]
    assert find_model(row.name) is find_model(row.hub_id) is row and find_model("mask2former") is None
    for path in (
        "/some/model_final_9fd0ae.pkl",
        "C:\\some\\model_final_9fd0ae.pkl",
        "my/mask2former-swin-tiny-coco-panoptic",
    ):
        assert guess_model(path) is row
    assert guess_model("model_final.pkl") is None and guess_model(".") is None
    assert nearest_models("facebook/mask2former-swin-tiny-coco-panoptc")[0] == row.name
    assert nearest_models("resnet50_coco_panoptic")[0] == "mask2former_resnet50_coco_panoptic"


@pytest.mark.parametrize("name", ZOO)
def test_every_row_describes_itself(name):
    row = ZOO[name]
    assert row.dataset in row.test and type(row.config).from_dict(row.config.to_dict()) == row.config


NETWORKS = {(row.family, row.backbone): row for row in ZOO.values()}  # one row each


@pytest.mark.parametrize("network", NETWORKS, ids=" ".join)
def test_every_network_builds(network):
    config = NETWORKS[network].config
    with torch.device("meta"):
        state = build_model(config).state_dict()
    assert state["transformer_decoder.class_head.weight"].shape[0] == len(config.classes) + 1
    inferred = weights.infer.infer_config(state, config.backbone_options.get("dilations"))
    assert (inferred.backbone, inferred.backbone_options) == (config.backbone, config.backbone_options)


def test_fresh_models_need_no_download(monkeypatch):
    monkeypatch.setattr("weights.load.hub_folder", lambda *_: pytest.fail("downloads"))
    monkeypatch.setattr("weights.load.original_file", lambda *_: pytest.fail("downloads"))
    small = {"hidden_dim": 32, "mask_dim": 32, "decoder_layers": 1, "backbone_options": {"embed_dim": 24}}
    name = "mask2former_swin_tiny_cityscapes_instance"
    for source in (name, "facebook/mask2former-swin-tiny-cityscapes-instance"):
        model = weights.create_model(source, pretrained=False, **small)
        assert model.config.classes == dataset_classes("cityscapes_instance")
    model = weights.create_model(name, pretrained=False, num_classes=7, **small)
    assert model.transformer_decoder.class_head.out_features == 8
