"""Original files: read without trust and strictly, configured from their shapes alone, written back bit for bit."""

import json
import os
import pickle
import warnings
from collections import OrderedDict
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch

import weights
import weights.zoo
from oneformer.dinat import PRESETS
from tests.conftest import SHARED, needs_shared
from weights.checkpoint import build_model, read_checkpoint
from weights.infer import default_dilations, infer_config
from weights.load import _dilations
from weights.pickle_reader import UnsafePickleError, read_pickle
from weights.translate import backbone_family, layout_for, model_family

REFERENCE = SHARED / "reference"
# MaskFormer is a family that this library does not have
MANIFESTS = sorted(p for p in (REFERENCE / "manifests").glob("*.json") if not p.name.startswith("maskformer"))
DILATIONS = [[1, 4], [1, 3], [1, 2, 1], [1, 2]]
FILES = {
    "m2f_swin": ("model_final.pkl", None),
    "oneformer_swin": ("model_final.pth", None),
    "oneformer_dinat": ("model_final.pth", DILATIONS),
}
# the published model whose configuration a manifest was made from
ROWS = {
    "mask2former_r101_coco_panoptic": "mask2former_resnet101_coco_panoptic",
    "mask2former_r50_coco_panoptic": "mask2former_resnet50_coco_panoptic",
    "mask2former_swin_base_384_coco_panoptic": "mask2former_swin_base_coco_panoptic",
    "mask2former_swin_base_IN21k_384_coco_panoptic": "mask2former_swin_base_IN21k_coco_panoptic",
    "mask2former_swin_large_IN21k_384_coco_panoptic": "mask2former_swin_large_coco_panoptic",
    "mask2former_swin_small_coco_panoptic": "mask2former_swin_small_coco_panoptic",
    "mask2former_swin_tiny_coco_panoptic": "mask2former_swin_tiny_coco_panoptic",
    "oneformer_convnext_large_ade20k": "oneformer_ade20k_convnext_large",
    "oneformer_dinat_large_ade20k": "oneformer_ade20k_dinat_large",
    "oneformer_swin_large_ade20k": "oneformer_ade20k_swin_large",
}


@needs_shared
def test_every_manifest_has_a_row():
    assert {path.stem.removesuffix("_no_text") for path in MANIFESTS} == set(ROWS)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
def test_manifest_is_covered(path):
    """Every entry has one of ours, the shapes tell the published configuration, and all are written back."""
    tensors = json.loads(path.read_text())["tensors"]
    theirs = {
        name: torch.empty(t["shape"], dtype=getattr(torch, t["dtype"]), device="meta") for name, t in tensors.items()
    }
    layout = layout_for("original", model_family(theirs), backbone_family(theirs))
    state, unknown = layout.to_native(theirs)
    assert not unknown
    row = weights.zoo.ZOO[ROWS[path.stem.removesuffix("_no_text")]].config
    dilations = PRESETS["dinat_large"]["dilations"] if "dinat" in path.stem else None
    config = infer_config(state, dilations)
    for name in ("family", "backbone", "backbone_options", "num_classes", "num_queries", "hidden_dim", "mask_dim"):
        assert getattr(config, name) == getattr(row, name), name
    for name in ("num_heads", "encoder_layers", "encoder_feedforward_dim", "decoder_layers", "decoder_feedforward_dim"):
        assert getattr(config, name) == getattr(row, name), name
    if config.family == "oneformer":
        assert config.text_branch == (not path.stem.endswith("_no_text"))
        text = ["task_sequence_length", "class_decoder_layers", "text_width", "text_layers", "text_vocabulary"]
        for name in (*text, "text_context_length", "text_projection_layers", "text_contexts"):
            assert getattr(config, name) == getattr(row, name), name
    with torch.device("meta"):
        written = layout.from_native(build_model(config).state_dict())
    assert {name: (tuple(t.shape), t.dtype) for name, t in written.items()} == {
        name: (tuple(t.shape), t.dtype) for name, t in theirs.items()
    }


def read_plainly(path):
    if path.suffix == ".pkl":
        return {name: torch.from_numpy(array) for name, array in pickle.loads(path.read_bytes())["model"].items()}
    return torch.load(path, weights_only=True)["model"]


@needs_shared
@pytest.mark.parametrize("folder", FILES)
def test_written_back_bit_for_bit(folder, tmp_path):
    """original → native → original, the text branch and the learned temperature included."""
    source, dilations = REFERENCE / folder / FILES[folder][0], FILES[folder][1]
    weights.convert(source, tmp_path / "native", to="native", dilations=dilations)
    weights.convert(tmp_path / "native", tmp_path / source.name, to="original")
    before, after = read_plainly(source), read_plainly(tmp_path / source.name)
    assert set(before) == set(after)
    assert not [k for k in before if before[k].dtype != after[k].dtype or not torch.equal(before[k], after[k])]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model_final" + source.suffix,
        "native",
    ]  # nothing half-written


@needs_shared
def test_hub_layout_in_between(tmp_path):
    source = REFERENCE / "oneformer_swin" / "model_final.pth"
    weights.convert(source, tmp_path / "hub", to="hub")
    weights.convert(tmp_path / "hub", tmp_path / "back.pth", to="original")
    before, after = read_plainly(source), read_plainly(tmp_path / "back.pth")
    assert set(before) == set(after) and all(torch.equal(before[k], after[k]) for k in before)


@needs_shared
def test_written_pickle_states_versions(tmp_path):
    """Without them the original code takes the file for an old one and renames its pixel decoder."""
    weights.convert(REFERENCE / "m2f_swin" / "model_final.pkl", tmp_path / "written.pkl", to="original")
    content = pickle.loads((tmp_path / "written.pkl").read_bytes())
    assert set(content) == {"model", "__author__"}
    assert content["model"]._metadata["sem_seg_head"]["version"] == 2
    assert content["model"]._metadata["sem_seg_head.predictor"]["version"] == 2
    assert b"numpy._core" not in (tmp_path / "written.pkl").read_bytes()  # which numpy 1 would not find


@needs_shared
@torch.no_grad()
@pytest.mark.parametrize("folder", ["oneformer_swin", "oneformer_dinat"])
def test_computes_what_the_original_did(folder):
    """Names could be swapped among entries of one shape; outputs could not. Tolerances: the reference's README."""
    file, dilations = FILES[folder]
    options = {} if dilations is None else {"backbone_options": {"dilations": dilations}}
    model = weights.create_model(REFERENCE / folder / file, **options)
    single = np.load(REFERENCE / folder / "single.npz")
    outputs = model(torch.from_numpy(single["net_input"]), torch.from_numpy(single["task_tokens"]))
    assert (outputs.class_logits - torch.from_numpy(single["pred_logits"])).abs().max() < 2e-4
    assert (outputs.mask_logits - torch.from_numpy(single["pred_masks"])).abs().max() < 1e-3


@needs_shared
def test_dilations_must_be_told():
    with pytest.raises(ValueError, match="dilations of a DiNAT with \\[2, 2, 3, 2\\] blocks"):
        read_checkpoint(REFERENCE / "oneformer_dinat" / "model_final.pth")


@pytest.mark.parametrize("name", ["oneformer_coco_dinat_large", "oneformer_cityscapes_dinat_large"])
def test_assumed_dilations(name, tmp_path):
    """Those of the kernel size, with a warning; none where a published model's name or the caller says them."""
    config = weights.zoo.ZOO[name].config
    with torch.device("meta"):
        state = build_model(config).state_dict()
    with pytest.warns(UserWarning, match="dilations cannot be read off .* are assumed, .*To give others: backbone_opt"):
        assert infer_config(state).backbone_options == config.backbone_options
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = tmp_path / PurePosixPath(weights.zoo.ZOO[name].url).name
        expected = config.backbone_options.get("dilations") or [list(d) for d in PRESETS["dinat_large"]["dilations"]]
        assert [list(d) for d in _dilations(named, None, {})] == expected
        assert infer_config(state, expected).backbone_options == config.backbone_options
        given = {"backbone_options": {"dilations": DILATIONS}}
        assert _dilations(named, None, given) == DILATIONS
        assert _dilations(tmp_path / "mine.pth", None, {}) is None
    with pytest.raises(ValueError, match="kernel size 9 cannot be read off its shapes; give them"):
        default_dilations([3, 4, 18, 5], 9)


@needs_shared
@torch.no_grad()
def test_dinat_through_the_hub_layout_computes_the_same(tmp_path):
    source = REFERENCE / "oneformer_dinat" / "model_final.pth"
    weights.convert(source, tmp_path / "hub", to="hub", dilations=DILATIONS)
    direct = weights.create_model(source, backbone_options={"dilations": DILATIONS})
    through = weights.create_model(tmp_path / "hub")
    pixel_values = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    expected, found = direct(pixel_values, "panoptic"), through(pixel_values, "panoptic")
    assert torch.equal(found.class_logits, expected.class_logits)
    assert torch.equal(found.mask_logits, expected.mask_logits)


@needs_shared
def test_entries_that_do_not_fit_are_listed(tmp_path):
    model = dict(read_plainly(REFERENCE / "m2f_swin" / "model_final.pkl"))
    model["sem_seg_head.predictor.surplus"] = torch.zeros(2)
    del model["sem_seg_head.predictor.decoder_norm.bias"]
    model["sem_seg_head.predictor.query_feat.weight"] = torch.zeros(19, 64)
    torch.save({"model": model}, tmp_path / "model.pth")
    with pytest.raises(weights.CheckpointError) as error:
        weights.create_model(tmp_path / "model.pth")
    assert error.value.unknown == ["sem_seg_head.predictor.surplus"]
    assert error.value.missing == ["sem_seg_head.predictor.decoder_norm.bias"]
    assert error.value.misshapen == ["sem_seg_head.predictor.query_feat.weight: (19, 64) instead of (20, 64)"]


@pytest.mark.parametrize("stem_width", [32, 64, 48])
def test_three_convolution_stem(stem_width):
    """Detectron2's other ResNet stem is told by its names, its widths by its shapes."""
    with torch.device("meta"):
        config = weights.zoo.ZOO["mask2former_resnet101_coco_panoptic"].config
        options = {"stem_type": "deep", "stem_width": stem_width}
        state = build_model(replace(config, backbone_options=options)).state_dict()
    assert backbone_family(state) == "resnet_deep_stem"
    layout = layout_for("original", "mask2former", "resnet_deep_stem")
    theirs = layout.from_native(state)
    assert theirs["backbone.stem.conv3.norm.running_var"].shape == (2 * stem_width,)
    back, unknown = layout.to_native(theirs)
    assert set(back) == set(state) and not unknown
    inferred = infer_config(back)
    name = {32: "resnet101c", 64: "resnet101s"}.get(stem_width, "resnet101")
    assert (inferred.backbone, inferred.backbone_options) == (name, options if stem_width == 48 else {})
    with torch.device("meta"):
        again = build_model(inferred).state_dict()
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in state.items()}


class Hostile:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_is_refused(tmp_path, protocol):
    model = OrderedDict(weight=np.ones(3), bias=Hostile(tmp_path / "ran"))
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": model}, protocol=protocol))
    names = f"{os.mkdir.__module__}.mkdir|_codecs.encode" if protocol == 2 else f"{os.mkdir.__module__}.mkdir"
    with pytest.raises(UnsafePickleError, match=names):
        weights.create_model(tmp_path / "model.pkl")
    assert not (tmp_path / "ran").exists()
    pickle.loads((tmp_path / "model.pkl").read_bytes())  # the plain way does run it
    assert (tmp_path / "ran").exists()


class RawMemory:
    """An array of pointers made out of bytes: reading an element would follow them."""

    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype("O"), b"AAAAAAAA")


def test_a_pickle_that_would_read_raw_memory_is_refused(tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": {"weight": RawMemory()}}, protocol=4))
    with pytest.raises(UnsafePickleError, match="calls numpy.ndarray"):
        weights.create_model(tmp_path / "model.pkl")


def test_a_pth_that_would_run_code_is_refused(tmp_path):
    torch.save({"model": {"weight": Hostile(tmp_path / "ran")}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="mkdir"):
        weights.create_model(tmp_path / "model.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_any_kind_are_read(tmp_path, protocol):
    arrays = {
        "float": np.random.rand(2, 3).astype("f4"),
        "half": np.ones((2, 2), "f2"),
        "integer": np.arange(4),
        "scalar": np.float32(3),
        "empty": np.zeros((0, 2)),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "truth": np.array([True, False]),
    }
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}, protocol=protocol))
    read = read_pickle(tmp_path / "model.pkl")
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert np.array_equal(read[name].numpy(), array) and read[name].numpy().dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"model": {"a": np.ones(3)}})[:-20], "broken or truncated"),
        (b"", "broken or truncated"),
        (b"no pickle at all", "broken or truncated"),
        (pickle.dumps([1, 2]), "entry 'model'"),
        (pickle.dumps({"weights": {}}), "entry 'model'"),
        (pickle.dumps({"model": {"a": "text"}}), "no numpy arrays: 'a' \\(str\\)"),
        (pickle.dumps({"model": {"a": np.array(["text"])}}), "numbers are of type 'U4'"),
        (pickle.dumps({"model": {"a": np.array([None])}}), "its type or its data"),
    ],
)
def test_broken_pickles(tmp_path, content, message):
    (tmp_path / "model.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        weights.create_model(tmp_path / "model.pkl")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"no checkpoint"])
def test_broken_pth(tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ValueError, match="model.pth"):
        weights.create_model(tmp_path / "model.pth")


def test_names_of_another_library(tmp_path):
    torch.save({"model": {"encoder.weight": torch.zeros(2)}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="names tell no backbone"):
        weights.create_model(tmp_path / "model.pth")
