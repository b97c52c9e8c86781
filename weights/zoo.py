"""The zoo: one row for each published model.

Every row says where the weights are, what the network is, how it was tested and what it scored then. The code these
models came with is MIT-licensed; their weights have a licence of their own, `PublishedModel.weight_licence`.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from mask2former.data.classes import dataset_classes
from mask2former.modeling.config import Mask2FormerConfig
from mask2former.structures import Protocol
from oneformer.config import OneFormerConfig


@dataclass(frozen=True)
class PublishedModel:
    """A row of the zoo."""

    name: str
    family: str  # mask2former or oneformer
    backbone: str  # a key of BACKBONES
    num_queries: int
    test: str  # a key of TESTS: classes and protocol
    hub_id: str | None  # Hugging Face repository, preferred where there is one
    url: str | None  # the original file
    md5_prefix: str | None  # of the original file, where its name tells
    scores: Mapping[str, float] = field(default_factory=dict)  # as published; mIoU_ms: several scales and flipped
    weight_licence: str = "MIT"
    code_licence: str = "MIT"

    @property
    def dataset(self) -> str:
        return TESTS[self.test][1].dataset

    @property
    def tasks(self) -> tuple[str, ...]:
        return TESTS[self.test][1].tasks

    @property
    def config(self) -> Mask2FormerConfig:
        """The network and its test protocol, classes named."""
        table, protocol = TESTS[self.test]
        backbone, options, drop_path_rate = BACKBONES[self.backbone]
        classes = dataset_classes(table)
        if self.family == "oneformer":
            protocol = replace(protocol, instances_per_image=self.num_queries)
        return {"mask2former": Mask2FormerConfig, "oneformer": OneFormerConfig}[self.family](
            backbone=backbone,
            backbone_options=options,
            drop_path_rate=drop_path_rate,
            num_classes=len(classes),
            num_queries=self.num_queries,
            classes=classes,
            protocol=protocol,
        )


def list_models(pattern: str = "*") -> list[str]:
    """Names of the published models that match a shell pattern such as `*swin_tiny*`, sorted."""
    return sorted(fnmatch.filter(ZOO, pattern))


def find_model(source: str) -> PublishedModel | None:
    """The row with this name or this hub id, or None."""
    return next((row for row in ZOO.values() if source in (row.name, row.hub_id)), None)


def guess_model(path: str) -> PublishedModel | None:
    """The row a local file or folder is named after: its original file's name, its hub repository's, or its own."""
    name = PurePosixPath(path.replace("\\", "/")).name
    for row in ZOO.values():
        if name and name in (row.name, (row.hub_id or "").rpartition("/")[2], (row.url or "").rpartition("/")[2]):
            return row
    return None


def nearest_models(name: str) -> list[str]:
    """Up to five names of published models that look most like `name`."""
    name = name.rpartition("/")[2].replace("-", "_")
    return difflib.get_close_matches(name, ZOO, 5, 0.4)


# of DiNAT-L with 7 × 7 neighborhoods
CITYSCAPES_DILATIONS = [
    [1, 18, 1],
    [1, 5, 1, 9],
    [1, 2, 1, 3, 1, 4, 1, 2, 1, 3, 1, 4, 1, 2, 1, 3, 1, 4],
    [1, 2, 1, 2, 1],
]
DILATIONS_1280 = [
    [1, 28, 1],
    [1, 7, 1, 14],
    [1, 3, 1, 5, 1, 5, 1, 7, 1, 3, 1, 5, 1, 5, 1, 7, 1, 7],
    [1, 3, 1, 3, 1],
]
# timm name (or DiNAT preset), options over its own, stochastic depth in training
BACKBONES = {
    "resnet50": ("resnet50", {}, 0.0),
    "resnet101": ("resnet101", {}, 0.0),
    "swin_tiny": ("swin_tiny_patch4_window7_224", {}, 0.3),
    "swin_small": ("swin_small_patch4_window7_224", {}, 0.3),
    "swin_base": ("swin_base_patch4_window12_384", {}, 0.3),
    "swin_base_IN21k": ("swin_base_patch4_window12_384", {}, 0.3),
    "swin_large": ("swin_large_patch4_window12_384", {}, 0.3),
    "convnext_large": ("convnext_large", {}, 0.4),
    "convnext_xlarge": ("convnext_xlarge", {}, 0.4),
    "dinat_large": ("dinat_large", {}, 0.3),
    "dinat_large_cityscapes": ("dinat_large", {"kernel_size": 7, "dilations": CITYSCAPES_DILATIONS}, 0.3),
    "dinat_large_1280": ("dinat_large", {"dilations": DILATIONS_1280}, 0.3),
}


def _test(classes: str, dataset: str, tasks: str, short: int, long: int, score: float = 0.8) -> tuple[str, Protocol]:
    return classes, Protocol(dataset, tuple(tasks.split()), short, long, object_mask_threshold=score)


ALL = "panoptic instance semantic"
# class table, and protocol: dataset, tasks, short and long side, score a panoptic segment must exceed
TESTS = {
    "coco_panoptic": _test("coco_panoptic", "coco", ALL, 800, 1333),
    "coco_instance": _test("coco_instance", "coco", "instance", 800, 1333),
    "cityscapes_panoptic": _test("cityscapes", "cityscapes", ALL, 1024, 2048),
    "cityscapes_instance": _test("cityscapes_instance", "cityscapes", "instance", 1024, 2048),
    "cityscapes_semantic": _test("cityscapes", "cityscapes", "semantic", 1024, 2048),
    "ade20k_panoptic": _test("ade20k", "ade20k", ALL, 640, 2560),
    "ade20k_instance": _test("ade20k_instance", "ade20k", "instance", 640, 2560),
    "ade20k_semantic_512": _test("ade20k", "ade20k", "semantic", 512, 2048),
    "ade20k_semantic_640": _test("ade20k", "ade20k", "semantic", 640, 2560),
    "mapillary_vistas_panoptic": _test("mapillary_vistas", "mapillary_vistas", "panoptic semantic", 2048, 2048, 0.0),
    "mapillary_vistas_semantic": _test("mapillary_vistas", "mapillary_vistas", "semantic", 2048, 2048, 0.0),
    "oneformer_coco": _test("coco_panoptic", "coco", ALL, 800, 1333),
    "oneformer_cityscapes": _test("cityscapes", "cityscapes", ALL, 1024, 2048),
    "oneformer_ade20k_512": _test("ade20k", "ade20k", ALL, 512, 2048, 0.5),
    "oneformer_ade20k_640": _test("ade20k", "ade20k", ALL, 640, 2560, 0.5),
    "oneformer_ade20k_896": _test("ade20k", "ade20k", ALL, 896, 3584, 0.5),
    "oneformer_ade20k_1280": _test("ade20k", "ade20k", ALL, 1280, 5120, 0.5),
    "oneformer_mapillary_vistas": _test("mapillary_vistas", "mapillary_vistas", ALL, 2048, 2048),
}

MASK2FORMER_FILES = "https://dl.fbaipublicfiles.com/maskformer/mask2former/"
ONEFORMER_FILES = "https://shi-labs.com/projects/oneformer/"
HUB = True  # the model is on the hub, under its name
# fmt: off
# name, backbone, queries, test, on the hub, folder of the original file, first digits of its md5, published scores
MASK2FORMER = (
    ("mask2former_resnet50_coco_panoptic", "resnet50", 100, "coco_panoptic", None,
     "coco/panoptic/maskformer2_R50_bs16_50ep", "94dc52", {"PQ": 51.9, "AP": 41.7, "mIoU": 61.7}),
    ("mask2former_resnet101_coco_panoptic", "resnet101", 100, "coco_panoptic", None,
     "coco/panoptic/maskformer2_R101_bs16_50ep", "b807bd", {"PQ": 52.6, "AP": 42.6, "mIoU": 62.4}),
    ("mask2former_swin_tiny_coco_panoptic", "swin_tiny", 100, "coco_panoptic", HUB,
     "coco/panoptic/maskformer2_swin_tiny_bs16_50ep", "9fd0ae", {"PQ": 53.2, "AP": 43.3, "mIoU": 63.2}),
    ("mask2former_swin_small_coco_panoptic", "swin_small", 100, "coco_panoptic", HUB,
     "coco/panoptic/maskformer2_swin_small_bs16_50ep", "a407fd", {"PQ": 54.6, "AP": 44.7, "mIoU": 64.2}),
    ("mask2former_swin_base_coco_panoptic", "swin_base", 100, "coco_panoptic", HUB,
     "coco/panoptic/maskformer2_swin_base_384_bs16_50ep", "9d7f02", {"PQ": 55.1, "AP": 45.2, "mIoU": 65.1}),
    ("mask2former_swin_base_IN21k_coco_panoptic", "swin_base_IN21k", 100, "coco_panoptic", HUB,
     "coco/panoptic/maskformer2_swin_base_IN21k_384_bs16_50ep", "54b88a", {"PQ": 56.4, "AP": 46.3, "mIoU": 67.1}),
    ("mask2former_swin_large_coco_panoptic", "swin_large", 200, "coco_panoptic", HUB,
     "coco/panoptic/maskformer2_swin_large_IN21k_384_bs16_100ep", "f07440", {"PQ": 57.8, "AP": 48.6, "mIoU": 67.4}),
    ("mask2former_resnet50_coco_instance", "resnet50", 100, "coco_instance", None,
     "coco/instance/maskformer2_R50_bs16_50ep", "3c8ec9", {"AP": 43.7, "Boundary_AP": 30.6}),
    ("mask2former_resnet101_coco_instance", "resnet101", 100, "coco_instance", None,
     "coco/instance/maskformer2_R101_bs16_50ep", "eba159", {"AP": 44.2, "Boundary_AP": 31.1}),
    ("mask2former_swin_tiny_coco_instance", "swin_tiny", 100, "coco_instance", HUB,
     "coco/instance/maskformer2_swin_tiny_bs16_50ep", "86143f", {"AP": 45.0, "Boundary_AP": 31.8}),
    ("mask2former_swin_small_coco_instance", "swin_small", 100, "coco_instance", HUB,
     "coco/instance/maskformer2_swin_small_bs16_50ep", "1e7f22", {"AP": 46.3, "Boundary_AP": 32.9}),
    ("mask2former_swin_base_coco_instance", "swin_base", 100, "coco_instance", HUB,
     "coco/instance/maskformer2_swin_base_384_bs16_50ep", "f6e0f6", {"AP": 46.7, "Boundary_AP": 33.2}),
    ("mask2former_swin_base_IN21k_coco_instance", "swin_base_IN21k", 100, "coco_instance", HUB,
     "coco/instance/maskformer2_swin_base_IN21k_384_bs16_50ep", "83d103", {"AP": 48.1, "Boundary_AP": 34.4}),
    ("mask2former_swin_large_coco_instance", "swin_large", 200, "coco_instance", HUB,
     "coco/instance/maskformer2_swin_large_IN21k_384_bs16_100ep", "e5f453", {"AP": 50.1, "Boundary_AP": 36.2}),
    ("mask2former_resnet50_cityscapes_panoptic", "resnet50", 100, "cityscapes_panoptic", None,
     "cityscapes/panoptic/maskformer2_R50_bs16_90k", "4ab90c", {"PQ": 62.1, "AP": 37.3, "mIoU": 77.5}),
    ("mask2former_resnet101_cityscapes_panoptic", "resnet101", 100, "cityscapes_panoptic", None,
     "cityscapes/panoptic/maskformer2_R101_bs16_90k", "04d286", {"PQ": 62.4, "AP": 37.7, "mIoU": 78.6}),
    ("mask2former_swin_tiny_cityscapes_panoptic", "swin_tiny", 100, "cityscapes_panoptic", HUB,
     "cityscapes/panoptic/maskformer2_swin_tiny_bs16_90k", "ceba0f", {"PQ": 63.9, "AP": 39.1, "mIoU": 80.5}),
    ("mask2former_swin_small_cityscapes_panoptic", "swin_small", 100, "cityscapes_panoptic", HUB,
     "cityscapes/panoptic/maskformer2_swin_small_bs16_90k", "23efb7", {"PQ": 64.8, "AP": 40.7, "mIoU": 81.8}),
    ("mask2former_swin_base_IN21k_cityscapes_panoptic", "swin_base_IN21k", 100, "cityscapes_panoptic", HUB,
     "cityscapes/panoptic/maskformer2_swin_base_IN21k_384_bs16_90k", "fa840f", {"PQ": 66.1, "AP": 42.8, "mIoU": 82.7}),
    ("mask2former_swin_large_cityscapes_panoptic", "swin_large", 200, "cityscapes_panoptic", HUB,
     "cityscapes/panoptic/maskformer2_swin_large_IN21k_384_bs16_90k", "064788", {"PQ": 66.6, "AP": 43.6, "mIoU": 82.9}),
    ("mask2former_resnet50_cityscapes_instance", "resnet50", 100, "cityscapes_instance", None,
     "cityscapes/instance/maskformer2_R50_bs16_90k", "01a8ed", {"AP": 37.4, "AP50": 61.9}),
    ("mask2former_resnet101_cityscapes_instance", "resnet101", 100, "cityscapes_instance", None,
     "cityscapes/instance/maskformer2_R101_bs16_90k", "c2b8c8", {"AP": 38.5, "AP50": 63.9}),
    ("mask2former_swin_tiny_cityscapes_instance", "swin_tiny", 100, "cityscapes_instance", HUB,
     "cityscapes/instance/maskformer2_swin_tiny_bs16_90k", "6a63f8", {"AP": 39.7, "AP50": 66.9}),
    ("mask2former_swin_small_cityscapes_instance", "swin_small", 100, "cityscapes_instance", HUB,
     "cityscapes/instance/maskformer2_swin_small_bs16_90k", "974824", {"AP": 41.8, "AP50": 70.4}),
    ("mask2former_swin_base_IN21k_cityscapes_instance", "swin_base_IN21k", 100, "cityscapes_instance", None,
     "cityscapes/instance/maskformer2_swin_base_IN21k_384_bs16_90k", "7a3b6d", {"AP": 42.0, "AP50": 68.8}),
    ("mask2former_swin_large_cityscapes_instance", "swin_large", 200, "cityscapes_instance", HUB,
     "cityscapes/instance/maskformer2_swin_large_IN21k_384_bs16_90k", "dfa862", {"AP": 43.7, "AP50": 71.4}),
    ("mask2former_resnet50_cityscapes_semantic", "resnet50", 100, "cityscapes_semantic", None,
     "cityscapes/semantic/maskformer2_R50_bs16_90k", "cc1b1f", {"mIoU": 79.4, "mIoU_ms": 82.2}),
    ("mask2former_resnet101_cityscapes_semantic", "resnet101", 100, "cityscapes_semantic", None,
     "cityscapes/semantic/maskformer2_R101_bs16_90k", "257ce8", {"mIoU": 80.1, "mIoU_ms": 81.9}),
    ("mask2former_swin_tiny_cityscapes_semantic", "swin_tiny", 100, "cityscapes_semantic", HUB,
     "cityscapes/semantic/maskformer2_swin_tiny_bs16_90k", "2d58d4", {"mIoU": 82.1, "mIoU_ms": 83.0}),
    ("mask2former_swin_small_cityscapes_semantic", "swin_small", 100, "cityscapes_semantic", HUB,
     "cityscapes/semantic/maskformer2_swin_small_bs16_90k", "fa26ae", {"mIoU": 82.6, "mIoU_ms": 83.6}),
    ("mask2former_swin_base_IN21k_cityscapes_semantic", "swin_base_IN21k", 100, "cityscapes_semantic", HUB,
     "cityscapes/semantic/maskformer2_swin_base_IN21k_384_bs16_90k", "1c6b65", {"mIoU": 83.3, "mIoU_ms": 84.5}),
    ("mask2former_swin_large_cityscapes_semantic", "swin_large", 100, "cityscapes_semantic", HUB,
     "cityscapes/semantic/maskformer2_swin_large_IN21k_384_bs16_90k", "17c1ee", {"mIoU": 83.3, "mIoU_ms": 84.3}),
    ("mask2former_resnet50_ade_panoptic", "resnet50", 100, "ade20k_panoptic", None,
     "ade20k/panoptic/maskformer2_R50_bs16_160k", "5c90d4", {"PQ": 39.7, "AP": 26.5, "mIoU": 46.1}),
    ("mask2former_swin_large_ade_panoptic", "swin_large", 200, "ade20k_panoptic", HUB,
     "ade20k/panoptic/maskformer2_swin_large_IN21k_384_bs16_160k", "e0c58e", {"PQ": 48.1, "AP": 34.2, "mIoU": 54.5}),
    ("mask2former_resnet50_ade_instance", "resnet50", 100, "ade20k_instance", None,
     "ade20k/instance/maskformer2_R50_bs16_160k", "67e945", {"AP": 26.4}),
    ("mask2former_swin_large_ade_instance", "swin_large", 200, "ade20k_instance", None,
     "ade20k/instance/maskformer2_swin_large_IN21k_384_bs16_160k", "92dae9", {"AP": 34.9}),
    ("mask2former_resnet50_ade_semantic", "resnet50", 100, "ade20k_semantic_512", None,
     "ade20k/semantic/maskformer2_R50_bs16_160k", "500878", {"mIoU": 47.2, "mIoU_ms": 49.2}),
    ("mask2former_resnet101_ade_semantic", "resnet101", 100, "ade20k_semantic_512", None,
     "ade20k/semantic/maskformer2_R101_bs16_90k", "0d68be", {"mIoU": 47.8, "mIoU_ms": 50.1}),
    ("mask2former_swin_tiny_ade_semantic", "swin_tiny", 100, "ade20k_semantic_512", HUB,
     "ade20k/semantic/maskformer2_swin_tiny_bs16_160k", "5274a6", {"mIoU": 47.7, "mIoU_ms": 49.6}),
    ("mask2former_swin_small_ade_semantic", "swin_small", 100, "ade20k_semantic_512", HUB,
     "ade20k/semantic/maskformer2_swin_small_bs16_160k", "011c6d", {"mIoU": 51.3, "mIoU_ms": 52.4}),
    ("mask2former_swin_base_ade_semantic", "swin_base", 100, "ade20k_semantic_640", HUB,
     "ade20k/semantic/maskformer2_swin_base_384_bs16_160k_res640", "503e96", {"mIoU": 52.4, "mIoU_ms": 53.7}),
    ("mask2former_swin_base_IN21k_ade_semantic", "swin_base_IN21k", 100, "ade20k_semantic_640", HUB,
     "ade20k/semantic/maskformer2_swin_base_IN21k_384_bs16_160k_res640", "7e47bf", {"mIoU": 53.9, "mIoU_ms": 55.1}),
    ("mask2former_swin_large_ade_semantic", "swin_large", 100, "ade20k_semantic_640", HUB,
     "ade20k/semantic/maskformer2_swin_large_IN21k_384_bs16_160k_res640", "6b4a3a", {"mIoU": 56.1, "mIoU_ms": 57.3}),
    ("mask2former_resnet50_mapillary_vistas_panoptic", "resnet50", 100, "mapillary_vistas_panoptic", None,
     "mapillary_vistas/panoptic/maskformer_R50_bs16_300k", "4e9874", {"PQ": 36.3, "mIoU": 50.7}),
    ("mask2former_swin_large_mapillary_vistas_panoptic", "swin_large", 200, "mapillary_vistas_panoptic", HUB,
     "mapillary_vistas/panoptic/maskformer2_swin_large_IN21k_384_bs16_300k", "132c71", {"PQ": 45.5, "mIoU": 60.8}),
    ("mask2former_resnet50_mapillary_vistas_semantic", "resnet50", 100, "mapillary_vistas_semantic", None,
     "mapillary_vistas/semantic/maskformer_R50_bs16_300k", "6c66d0", {"mIoU": 57.4, "mIoU_ms": 59.0}),
    ("mask2former_swin_large_mapillary_vistas_semantic", "swin_large", 100, "mapillary_vistas_semantic", HUB,
     "mapillary_vistas/semantic/maskformer2_swin_large_IN21k_384_bs16_300k", "90ee2d", {"mIoU": 63.2, "mIoU_ms": 64.7}),
)
# name, backbone, queries, test, on the hub, original file, published scores
ONEFORMER = (
    ("oneformer_ade20k_swin_tiny", "swin_tiny", 150, "oneformer_ade20k_512", HUB,
     None, {}),
    ("oneformer_ade20k_swin_large", "swin_large", 250, "oneformer_ade20k_640", HUB,
     "ade20k/250_16_swin_l_oneformer_ade20k_160k.pth", {"PQ": 49.8, "AP": 35.9, "mIoU": 57.0, "mIoU_ms": 57.7}),
    ("oneformer_ade20k_swin_large_896", "swin_large", 250, "oneformer_ade20k_896", None,
     "ade20k/896x896_250_16_swin_l_oneformer_ade20k_160k.pth", {"PQ": 51.1, "AP": 37.6, "mIoU": 57.4, "mIoU_ms": 58.3}),
    ("oneformer_ade20k_swin_large_1280", "swin_large", 250, "oneformer_ade20k_1280", None,
     "ade20k/1280x1280_250_16_swin_l_oneformer_ade20k_160k.pth",
     {"PQ": 51.4, "AP": 37.8, "mIoU": 57.0, "mIoU_ms": 57.7}),
    ("oneformer_ade20k_convnext_large", "convnext_large", 250, "oneformer_ade20k_640", None,
     "ade20k/250_16_convnext_l_oneformer_ade20k_160k.pth", {"PQ": 50.0, "AP": 36.2, "mIoU": 56.6, "mIoU_ms": 57.4}),
    ("oneformer_ade20k_dinat_large", "dinat_large", 250, "oneformer_ade20k_640", HUB,
     "ade20k/250_16_dinat_l_oneformer_ade20k_160k.pth", {"PQ": 50.5, "AP": 36.0, "mIoU": 58.3, "mIoU_ms": 58.4}),
    ("oneformer_ade20k_dinat_large_896", "dinat_large", 250, "oneformer_ade20k_896", None,
     "ade20k/896x896_250_16_dinat_l_oneformer_ade20k_160k.pth",
     {"PQ": 51.2, "AP": 36.8, "mIoU": 58.1, "mIoU_ms": 58.6}),
    ("oneformer_ade20k_dinat_large_1280", "dinat_large_1280", 250, "oneformer_ade20k_1280", None,
     "ade20k/1280x1280_250_16_dinat_l_oneformer_ade20k_160k.pth",
     {"PQ": 51.5, "AP": 37.1, "mIoU": 58.3, "mIoU_ms": 58.7}),
    ("oneformer_ade20k_dinat_large_1280_coco_pretrained", "dinat_large_1280", 150, "oneformer_ade20k_1280", None,
     "ade20k/coco_pretrain_1280x1280_150_16_dinat_l_oneformer_ade20k_160k.pth",
     {"PQ": 53.4, "AP": 40.2, "mIoU": 58.4, "mIoU_ms": 58.8}),
    ("oneformer_ade20k_convnext_xlarge", "convnext_xlarge", 250, "oneformer_ade20k_640", None,
     "ade20k/250_16_convnext_xl_oneformer_ade20k_160k.pth", {"PQ": 50.1, "AP": 36.3, "mIoU": 57.4, "mIoU_ms": 58.8}),
    ("oneformer_cityscapes_swin_large", "swin_large", 250, "oneformer_cityscapes", HUB,
     "cityscapes/250_16_swin_l_oneformer_cityscapes_90k.pth", {"PQ": 67.2, "AP": 45.6, "mIoU": 83.0, "mIoU_ms": 84.4}),
    ("oneformer_cityscapes_convnext_large", "convnext_large", 250, "oneformer_cityscapes", None,
     "cityscapes/250_16_convnext_l_oneformer_cityscapes_90k.pth",
     {"PQ": 68.5, "AP": 46.5, "mIoU": 83.0, "mIoU_ms": 84.0}),
    ("oneformer_cityscapes_convnext_large_mapillary_pretrained", "convnext_large", 250, "oneformer_cityscapes", None,
     "cityscapes/mapillary_pretrain_250_16_convnext_l_oneformer_cityscapes_90k.pth",
     {"PQ": 70.1, "AP": 48.7, "mIoU": 84.6, "mIoU_ms": 85.2}),
    ("oneformer_cityscapes_dinat_large", "dinat_large_cityscapes", 250, "oneformer_cityscapes", HUB,
     "cityscapes/250_16_dinat_l_oneformer_cityscapes_90k.pth", {"PQ": 67.6, "AP": 45.6, "mIoU": 83.1, "mIoU_ms": 84.0}),
    ("oneformer_cityscapes_convnext_xlarge", "convnext_xlarge", 250, "oneformer_cityscapes", None,
     "cityscapes/250_16_convnext_xl_oneformer_cityscapes_90k.pth",
     {"PQ": 68.4, "AP": 46.7, "mIoU": 83.6, "mIoU_ms": 84.6}),
    ("oneformer_cityscapes_convnext_xlarge_mapillary_pretrained", "convnext_xlarge", 250, "oneformer_cityscapes", None,
     "cityscapes/mapillary_pretrain_250_16_convnext_xl_oneformer_cityscapes_90k.pth",
     {"PQ": 69.7, "AP": 48.9, "mIoU": 84.5, "mIoU_ms": 85.8}),
    ("oneformer_coco_swin_large", "swin_large", 150, "oneformer_coco", HUB,
     "coco/150_16_swin_l_oneformer_coco_100ep.pth", {"PQ": 57.9, "PQTh": 64.4, "PQSt": 48.0, "AP": 49.0, "mIoU": 67.4}),
    ("oneformer_coco_dinat_large", "dinat_large", 150, "oneformer_coco", HUB,
     "coco/150_16_dinat_l_oneformer_coco_100ep.pth",
     {"PQ": 58.0, "PQTh": 64.3, "PQSt": 48.4, "AP": 49.2, "mIoU": 68.1}),
    ("oneformer_mapillary_vistas_swin_large", "swin_large", 250, "oneformer_mapillary_vistas", None,
     "mapillary/250_16_swin_l_oneformer_mapillary_300k.pth", {"PQ": 46.7, "mIoU": 62.9, "mIoU_ms": 64.1}),
    ("oneformer_mapillary_vistas_convnext_large", "convnext_large", 250, "oneformer_mapillary_vistas", None,
     "mapillary/250_16_convnext_l_oneformer_mapillary_300k.pth", {"PQ": 47.9, "mIoU": 63.2, "mIoU_ms": 63.8}),
    ("oneformer_mapillary_vistas_dinat_large", "dinat_large", 250, "oneformer_mapillary_vistas", None,
     "mapillary/250_16_dinat_l_oneformer_mapillary_300k.pth", {"PQ": 47.8, "mIoU": 64.0, "mIoU_ms": 64.9}),
)
# fmt: on

ZOO = {
    name: PublishedModel(
        name,
        "mask2former",
        backbone,
        queries,
        test,
        "facebook/" + name.replace("_", "-") if hub else None,
        f"{MASK2FORMER_FILES}{folder}/model_final_{md5}.pkl",
        md5,
        scores,
        weight_licence="CC-BY-NC-4.0",
    )
    for name, backbone, queries, test, hub, folder, md5, scores in MASK2FORMER
} | {
    name: PublishedModel(
        name,
        "oneformer",
        backbone,
        queries,
        test,
        "shi-labs/" + name if hub else None,
        ONEFORMER_FILES + file if file else None,
        None,
        scores,
    )
    for name, backbone, queries, test, hub, file, scores in ONEFORMER
}
