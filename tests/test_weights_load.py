"""The one door: names, folders and files become models; other classes, other fields; bad sources get clear errors."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

import weights
from mask2former import ClassInfo, Mask2Former, Mask2FormerConfig, Protocol
from mask2former.data.classes import dataset_classes, dataset_names
from oneformer.config import OneFormerConfig
from oneformer.model import OneFormer
from tests.conftest import SHARED, needs_shared
from weights.class_names import class_list
from weights.load import load_checkpoint

SMALL = {
    "backbone_options": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4},
    **{"hidden_dim": 32, "mask_dim": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2},
    **{"encoder_feedforward_dim": 32, "decoder_feedforward_dim": 32, "num_queries": 6},
}
CLASSES = (ClassInfo("cat", True, (9, 8, 7), 17), ClassInfo("sky", False, (1, 2, 3), 187))


def toy(**fields):
    return Mask2Former(Mask2FormerConfig(**{**SMALL, "num_classes": 2, "classes": CLASSES, **fields}))


def toy_oneformer(text_branch):
    text = {"text_width": 64, "text_layers": 1, "text_vocabulary": 50, "text_contexts": 2, "text_branch": text_branch}
    return OneFormer(OneFormerConfig(**SMALL, num_classes=2, classes=CLASSES, **text))


def same(model, other, but=()):
    state, expected = model.state_dict(), other.state_dict()
    return {k for k in set(state) | set(expected) if not k.startswith(but)} == {
        k for k in set(state) & set(expected) if not k.startswith(but) and torch.equal(state[k], expected[k])
    }


def test_save_and_load(tmp_path):
    sizes = {"short_side": 100, "long_side": 200, "hub_size": None, "hub_sides": (30, 40)}
    thresholds = {"object_mask_threshold": 0.3, "overlap_threshold": 0.4, "instances_per_image": 7}
    pixels = {"pixel_mean": (1.0, 2.0, 3.0), "pixel_std": (4.0, 5.0, 6.0)}
    protocol = Protocol("mine", ("semantic",), **sizes, **thresholds, **pixels)
    model = toy(protocol=protocol, dropout=0.2, drop_path_rate=0.1)
    weights.save_model(model, tmp_path / "deep" / "down")
    assert sorted(p.name for p in (tmp_path / "deep").rglob("*")) == ["config.json", "down", "model.safetensors"]
    loaded = weights.create_model(tmp_path / "deep" / "down")
    assert same(loaded, model) and loaded.config == model.config and not loaded.training
    weights.save_model(toy(), tmp_path / "deep" / "down")  # written over
    assert weights.create_model(str(tmp_path / "deep" / "down"), dtype=torch.float64).config.dropout == 0.0


def test_a_failed_writing_leaves_the_old_files(tmp_path, monkeypatch):
    model = toy()
    weights.save_model(model, tmp_path / "model")
    monkeypatch.setattr("weights.model_folder.as_json", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        weights.save_model(toy(), tmp_path / "model")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["config.json", "model", "model.safetensors"]
    assert same(weights.create_model(tmp_path / "model"), model)


def test_nothing_is_written_in_the_parent_folder(tmp_path):
    """Where one may not be able to write, or which is another file system."""
    folder = tmp_path / "mine"
    folder.mkdir()
    before = os.stat(tmp_path).st_mtime_ns
    weights.save_model(toy(), folder)
    for name in ("toy.pkl", "toy.pth"):
        weights.convert(folder, folder / name, to="original")
    assert os.stat(tmp_path).st_mtime_ns == before  # that of a folder changes with every entry made in it
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "toy.pkl", "toy.pth"]


def test_a_failed_writing_leaves_nothing_new(tmp_path, monkeypatch):
    weights.save_model(toy(), tmp_path / "model")
    monkeypatch.setattr("weights.model_folder.as_json", lambda *_, **__: 1 / 0)
    monkeypatch.setattr("weights.checkpoint.write_pickle", lambda path, *_: path.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        weights.convert(tmp_path / "model", tmp_path / "new")
    with pytest.raises(ZeroDivisionError):
        weights.convert(tmp_path / "model", tmp_path / "new.pkl", to="original")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_weights_in_other_forms_do_not_stay(tmp_path):
    stale = ("model.safetensors.index.json", "model-00001-of-00002.safetensors", "pytorch_model.bin")
    stale += ("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json")
    for name in (*stale, "README.md", "model.pkl"):
        (tmp_path / name).write_text("old")
    weights.save_model(toy(), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "model.pkl", "model.safetensors"]


def test_tokenizer_files_go_along(tmp_path):
    weights.save_model(toy_oneformer(text_branch=False), tmp_path / "first")
    weights.convert(tmp_path / "first", tmp_path / "hub", to="hub")
    names = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    for name in names:
        (tmp_path / "hub" / name).write_text(f"the content of {name}")
    weights.convert(tmp_path / "hub", tmp_path / "native")
    weights.convert(tmp_path / "native", tmp_path / "back", to="hub")
    assert {name: (tmp_path / "back" / name).read_text() for name in names} == {
        name: f"the content of {name}" for name in names
    }
    weights.convert(tmp_path / "hub", tmp_path / "hub", to="hub")  # onto itself
    assert (tmp_path / "hub" / "vocab.json").read_text() == "the content of vocab.json"


def test_other_classes_make_a_fresh_head_alone(tmp_path):
    model = toy()
    weights.save_model(model, tmp_path)
    with pytest.warns(UserWarning, match="class head of .* is fresh, for 5 other classes"):
        loaded = weights.create_model(tmp_path, num_classes=5)
    assert same(loaded, model, but="transformer_decoder.class_head.")
    assert loaded(torch.randn(1, 3, 64, 64)).class_logits.shape == (1, 6, 6)
    assert [c.name for c in loaded.config.classes] == [f"class {k}" for k in range(5)]
    with pytest.warns(UserWarning, match="fresh, for 2 other classes"):
        loaded = weights.create_model(tmp_path, classes=["dog", "grass"])  # as many, but others
    assert not same(loaded, model) and [c.name for c in loaded.config.classes] == ["dog", "grass"]


def test_the_head_stays_where_classes_are_the_same_or_had_no_names(tmp_path, recwarn):
    model = toy(classes=())
    weights.save_model(model, tmp_path)
    loaded = weights.create_model(tmp_path, classes=["dog", "grass"])
    assert same(loaded, model) and [c.name for c in loaded.config.classes] == ["dog", "grass"]
    assert same(weights.create_model(tmp_path, num_classes=2), model)
    assert not recwarn.list


def test_fields_of_the_configuration(tmp_path):
    weights.save_model(toy(), tmp_path)
    assert weights.create_model(tmp_path, dropout=0.3).transformer_decoder.layers[0].dropout.p == 0.3
    with pytest.raises(ValueError, match="no field 'num_querries'; did you mean num_queries"):
        weights.create_model(tmp_path, num_querries=3)
    with pytest.raises(ValueError, match="no field 'text_branch'"):
        weights.create_model(tmp_path, text_branch=True)
    with pytest.raises(
        weights.CheckpointError, match="mask_head.layers.2.weight: \\(32, 32\\) instead of \\(16, 32\\)"
    ):
        weights.create_model(tmp_path, mask_dim=16)
    with pytest.raises(ValueError, match="num_classes=3 but 2 classes are named"):
        weights.create_model(tmp_path, num_classes=3, classes=["a", "b"])
    fresh = weights.create_model(tmp_path, pretrained=False, num_queries=9, backbone_options={"window_size": 5})
    assert fresh.config.num_queries == 9
    assert fresh.config.backbone_options == {**SMALL["backbone_options"], "window_size": 5}


def test_predictor(tmp_path):
    model = toy(protocol=Protocol(short_side=64, long_side=96))
    weights.save_model(model, tmp_path)
    predictor = weights.create_predictor(tmp_path, device="cpu", dtype=torch.float64, size=(64, 64))
    assert same(predictor.model, model.double()) and predictor.classes == CLASSES
    photo = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    assert predictor(photo, task="semantic").segmentation.shape == (50, 70)
    assert weights.create_predictor(tmp_path, classes=list(CLASSES)).classes == CLASSES


def test_text_branch(tmp_path):
    model = toy_oneformer(text_branch=True)
    weights.save_model(model, tmp_path / "with")
    names = [name for name in model.state_dict() if name.startswith("text_")]
    left_out = rf"left out the {len(names)} entries that only training needs \(text_encoder., text_projector., text_con"
    with pytest.warns(UserWarning, match=left_out) as warned:
        without = weights.create_model(tmp_path / "with")
    assert same(without, model, but=("text_encoder.", "text_projector.", "text_context"))
    assert not any(name.startswith("text_") for name in without.state_dict())
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    assert same(weights.create_model(tmp_path / "with", text_branch=True), model)
    weights.save_model(without, tmp_path / "without")
    with pytest.warns(UserWarning, match="no text branch; a fresh one"):
        loaded = weights.create_model(tmp_path / "without", text_branch=True)
    assert same(loaded, without, but=("text_encoder.", "text_projector.", "text_context"))
    assert loaded.text_context.shape == (2, 32)


@needs_shared
def test_classes_of_an_original_file(tmp_path):
    source = SHARED / "reference" / "m2f_swin" / "model_final.pkl"
    assert weights.create_model(source).config.classes[3].name == "class 3"
    names = [*"abcdefg"]
    (tmp_path / "classes.json").write_text(json.dumps(names))
    for given in (names, tmp_path / "classes.json", str(tmp_path / "classes.json")):
        assert [c.name for c in load_checkpoint(source, given).config.classes] == names
    with pytest.raises(ValueError, match="133 classes are named but .* has 7"):
        weights.convert(source, tmp_path / "out", classes="coco_panoptic")
    assert not (tmp_path / "out").exists()


def test_class_lists(tmp_path):
    assert class_list("cityscapes") == dataset_classes("cityscapes")
    assert class_list([CLASSES[0], "dog"])[1].name == "dog"
    (tmp_path / "classes.json").write_text(json.dumps([{"name": "road", "is_thing": False, "color": [1, 2, 3]}, "car"]))
    road, car = class_list(tmp_path / "classes.json")
    assert road == ClassInfo("road", False, (1, 2, 3), 0) and car.is_thing and car.dataset_id == 1
    for wrong, message in (
        ([], "empty"),
        ([1], "class 0 is 1"),
        ([{"label": "x"}], "class 0"),
        ("nowhere.json", "neither a JSON file nor"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            class_list(wrong)


@needs_shared
def test_class_tables():
    """Names, order, things, colours and ids of every table, against the datasets' own."""
    facts = json.loads((SHARED / "facts" / "classes.json").read_text())
    names = {"mapillary_vistas": "mapillary_vistas_panoptic", "cityscapes_instance": "cityscapes"}
    for table in dataset_names():
        rows = facts[names.get(table, table)]
        if table == "cityscapes_instance":
            rows = [row for row in rows if row["isthing"]]
        classes = dataset_classes(table)
        assert [c.name for c in classes] == [row["name"].strip() for row in rows]
        assert [c.is_thing for c in classes] == [bool(row.get("isthing", row.get("instances"))) for row in rows]
        assert [c.dataset_id for c in classes] == [row.get("id", k) for k, row in enumerate(rows)]
        if "color" in rows[0]:
            assert [c.color for c in classes] == [tuple(row["color"]) for row in rows]
    ade = {c.dataset_id: c.color for c in dataset_classes("ade20k")}
    assert all(c.color == ade[c.dataset_id] for c in dataset_classes("ade20k_instance"))
    with pytest.raises(ValueError, match="no class table 'coco'; there are coco_panoptic"):
        dataset_classes("coco")


@pytest.fixture
def folder(tmp_path):
    weights.save_model(toy(), tmp_path / "model")
    return tmp_path / "model"


def test_truncated_safetensors(folder):
    file = folder / "model.safetensors"
    for length in (0, 5, 1000, file.stat().st_size - 1):
        content = file.read_bytes()
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match="model.safetensors: broken or truncated"):
            weights.create_model(folder)
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no valid JSON"),
        ("[1]", "Expected `object`, got `array`"),
        ("{}", "neither this library's .* nor Hugging Face's"),
        ('{"family": "maskformer"}', "family is 'maskformer'"),
        ('{"family": "mask2former", "num_querys": 3}', "unknown entries .*num_querys"),
        ('{"family": "mask2former", "num_queries": 0}', r"\$.num_queries: Expected `int` >= 1, found 0"),
    ],
)
def test_wrong_config(folder, content, message):
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        weights.create_model(folder)


def test_mismatched_classes(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "num_classes": 7}))
    with pytest.raises(ValueError, match="2 classes are named but num_classes=7"):
        weights.create_model(folder)
    (folder / "config.json").write_text(json.dumps({**values, "num_classes": 7, "classes": []}))
    with pytest.raises(weights.CheckpointError, match="class_head.weight: \\(3, 32\\) instead of \\(8, 32\\)"):
        weights.create_model(folder)


def test_native_entries_that_do_not_fit(folder):
    state = load_file(folder / "model.safetensors")
    state["surplus"] = state.pop("transformer_decoder.norm.bias")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(weights.CheckpointError) as error:
        weights.create_model(folder)
    assert (error.value.unknown, error.value.missing) == (["surplus"], ["transformer_decoder.norm.bias"])


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("mask2former_swin_tiny_coco_panoptc", ValueError, "nearest .*mask2former_swin_tiny_coco_panoptic"),
        ("no such thing", ValueError, "list_models"),
        ("./nowhere", FileNotFoundError, "nowhere does not exist"),
        ("nowhere.pkl", FileNotFoundError, "nowhere.pkl does not exist"),
        ("/nowhere/model.pth", FileNotFoundError, "does not exist"),
    ],
)
def test_sources_that_are_not_there(source, kind, message):
    with pytest.raises(kind, match=message):
        weights.create_model(source)


def test_other_bad_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json does not exist"):
        weights.create_model(tmp_path)
    (tmp_path / "photo.jpg").write_text("no model")
    with pytest.raises(ValueError, match="expected a folder, or a file ending in .pkl"):
        weights.create_model(tmp_path / "photo.jpg")
    weights.save_model(toy(), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors does not exist"):
        weights.create_model(tmp_path / "model")


def test_convert_refuses_what_a_layout_cannot_hold(tmp_path):
    weights.save_model(toy(), tmp_path / "model")
    with pytest.raises(ValueError, match="to='onnx': expected one of native, hub, original"):
        weights.convert(tmp_path / "model", tmp_path / "out", to="onnx")
    with pytest.raises(ValueError, match="must end in .pkl"):
        weights.convert(tmp_path / "model", tmp_path / "out", to="original")
    fields = {**SMALL, "backbone_options": {}, "backbone": "tf_efficientnet_lite0"}
    weights.save_model(Mask2Former(Mask2FormerConfig(**fields, num_classes=2)), tmp_path / "efficient")
    assert weights.create_model(tmp_path / "efficient").config.backbone == "tf_efficientnet_lite0"
    for to, name in (("hub", "out"), ("original", "out.pkl")):
        with pytest.raises(ValueError, match="has no backbone 'tf_efficientnet_lite0'"):
            weights.convert(tmp_path / "efficient", tmp_path / name, to=to)
        assert not (tmp_path / name).exists()


def test_half_precision_is_kept(tmp_path):
    model = toy().bfloat16()
    weights.save_model(model, tmp_path / "model")
    assert load_file(tmp_path / "model" / "model.safetensors")["pixel_decoder.level_embedding"].dtype == torch.bfloat16
    weights.convert(tmp_path / "model", tmp_path / "model.pkl", to="original")  # numpy has no bfloat16
    assert same(weights.create_model(tmp_path / "model.pkl", classes=list(CLASSES)), model.float())
