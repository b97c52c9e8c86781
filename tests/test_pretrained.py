"""`from_pretrained`, `save_pretrained`, `push_to_hub`: there and back, what others read, what is said and refused."""

import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import mask2former
import weights
from mask2former import ClassInfo, Mask2Former, Mask2FormerConfig, OneFormer, OneFormerConfig, Protocol
from tests.hub_server import local_hub
from weights.checkpoint import Checkpoint, write_hub
from weights.zoo import ZOO

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
CLASSES = (ClassInfo("cat", True, (1, 2, 3), 17), ClassInfo("lawn", False, (0, 255, 0), 5), ClassInfo("sky", False))
SIZES = {"hidden_dim": 32, "mask_dim": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 6}
SIZES |= {"encoder_feedforward_dim": 32, "decoder_feedforward_dim": 32, "num_classes": 3, "classes": CLASSES}
PROTOCOL = Protocol("garden", ("panoptic", "semantic"), 320, 640, object_mask_threshold=0.3, pixel_mean=(1.0, 2.0, 3.0))
NETWORKS = {"mask2former": (Mask2Former, Mask2FormerConfig), "oneformer": (OneFormer, OneFormerConfig)}
FACTS = {"licence": "mit", "data": ["garden"], "scores": {"PQ": 12.5}}
FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}


def toy(family="mask2former", **fields):
    network, config = NETWORKS[family]
    fields = {"backbone_options": OPTIONS, "drop_path_rate": 0.1, "protocol": PROTOCOL, **SIZES, **fields}
    return network(config(**fields))


def same(model, other):
    state = other.state_dict()
    return set(state) == set(model.state_dict()) and all(
        torch.equal(value, state[name]) for name, value in model.state_dict().items()
    )


def head_of(card):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with local_hub(monkeypatch, tmp_path / "home") as hub:
        yield hub


@pytest.mark.parametrize("family", NETWORKS)
def test_there_and_back(tmp_path, family):
    """Nothing is lost: which classes are things, thresholds, …; but the preset "hub" is now what is written there."""
    model = toy(family)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save_pretrained(tmp_path / "new" / "folder", **FACTS)
        read = NETWORKS[family][0].from_pretrained(tmp_path / "new" / "folder")
    assert type(read) is type(model) and same(read, model) and not read.training
    protocol = replace(model.config.protocol, hub_size=None, hub_sides=(320, 640))
    assert read.config == replace(model.config, protocol=protocol)
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == FILES
    half = type(model).from_pretrained(str(tmp_path / "new" / "folder"), dtype=torch.bfloat16, dropout=0.5)
    assert half.config.dropout == 0.5 and {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_the_other_layouts_are_read_too(tmp_path):
    model = toy()
    weights.save_model(model, tmp_path / "native")
    weights.convert(tmp_path / "native", tmp_path / "file.pkl", to="original")
    for source in ("native", "file.pkl"):
        read = Mask2Former.from_pretrained(tmp_path / source)
        assert same(read, model) and read.origin is None
    demo = Mask2Former.from_pretrained("mask2former_compact_demo")
    assert demo.config.num_classes == 27


@pytest.mark.parametrize("family", NETWORKS)
def test_transformers_opens_it(tmp_path, family):
    transformers = pytest.importorskip("transformers")
    model = toy(family).eval()
    model.save_pretrained(tmp_path, **FACTS)
    theirs = getattr(transformers, f"{type(model).__name__}ForUniversalSegmentation")
    theirs, info = theirs.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert theirs.config.id2label == {0: "cat", 1: "lawn", 2: "sky"}
    if family == "mask2former":
        assert transformers.AutoImageProcessor.from_pretrained(tmp_path).size["shortest_edge"] == 320
        pixel_values = torch.randn(1, 3, 64, 96)
        with torch.no_grad():
            expected = theirs.eval()(pixel_values=pixel_values).class_queries_logits
            assert torch.allclose(model(pixel_values).class_logits, expected, atol=1e-4)


def test_classes_that_were_renamed_since(tmp_path):
    """What our entry says is of other classes then: it is left aside, which is said."""
    toy().save_pretrained(tmp_path, **FACTS)
    values = json.loads((tmp_path / "config.json").read_text())
    values["id2label"]["0"] = "dog"
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.warns(UserWarning, match="the classes in config.json are no longer those of its entry 'mask2former'"):
        read = Mask2Former.from_pretrained(tmp_path)
    assert [c.name for c in read.config.classes] == ["dog", "lawn", "sky"] and read.config.classes[1].is_thing
    values["id2label"]["0"] = "cat"
    values["mask2former"]["protocol"] = {"short_side": -1}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(
        ValueError, match="config.json: its entry 'mask2former' cannot be read: .*short_side: Expected .*-1"
    ):
        Mask2Former.from_pretrained(tmp_path)
    for broken in ("x", {"classes": 5}, {"classes": ["x", 1, None]}):
        values["mask2former"] = broken
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.warns(UserWarning, match="is left aside"):
            Mask2Former.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "fields", [{"backbone": "tf_efficientnet_lite0", "backbone_options": {}}, {"encoder_points": 2}]
)
def test_a_network_that_the_hubs_layout_has_no_name_for(tmp_path, fields):
    model = toy(**fields)
    with pytest.warns(UserWarning, match="library's own layout, which transformers cannot open: the hub layout has"):
        model.save_pretrained(tmp_path, **FACTS)
    read = Mask2Former.from_pretrained(tmp_path)
    assert same(read, model) and read.config == model.config
    card = (tmp_path / "README.md").read_text()
    assert "transformers cannot open" in card and "library_name" not in head_of(card)


def test_the_wrong_family(tmp_path, monkeypatch):
    monkeypatch.setattr("weights.load.hub_folder", lambda *_: pytest.fail("downloads"))
    weights.save_model(toy("oneformer"), tmp_path / "native")
    write_hub(Checkpoint((model := toy("oneformer")).config, model.state_dict(), "toy"), tmp_path / "hub")
    weights.convert(tmp_path / "hub", tmp_path / "file.pth", to="original")
    published = ("shi-labs/oneformer_coco_swin_large", "oneformer_coco_swin_large")
    for source in (*published, *(tmp_path / name for name in ("native", "hub", "file.pth"))):
        with pytest.raises(ValueError, match="is a OneFormer, and Mask2Former.from_pretrained was asked") as error:
            Mask2Former.from_pretrained(source)
        assert str(source) in str(error.value) and "take OneFormer.from_pretrained" in str(error.value)
    with pytest.raises(ValueError, match="is a Mask2Former.*take Mask2Former.from_pretrained"):
        OneFormer.from_pretrained("facebook/mask2former-swin-tiny-coco-panoptic", text_branch=True)


def test_what_is_wrong_is_said_as_by_create_model(tmp_path):
    with pytest.raises(ValueError, match="the nearest published ones are mask2former_swin_tiny"):
        Mask2Former.from_pretrained("mask2former_swin_tny_coco_panoptic")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Mask2Former.from_pretrained(tmp_path / "none")
    toy().save_pretrained(tmp_path / "model", **FACTS)
    with pytest.raises(ValueError, match="no field 'dropuot'; did you mean dropout"):
        Mask2Former.from_pretrained(tmp_path / "model", dropuot=0.1)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: no valid JSON"):
        Mask2Former.from_pretrained(tmp_path / "broken")


def test_a_class_of_ones_own(tmp_path):
    class Mine(Mask2Former):
        pass

    toy().save_pretrained(tmp_path, **FACTS)
    mine = Mine.from_pretrained(tmp_path)
    assert type(mine) is Mine and same(mine, Mask2Former.from_pretrained(tmp_path)) and not mine.training
    with pytest.raises(ValueError, match="is a Mask2Former"):
        OneFormer.from_pretrained(tmp_path)


def test_what_a_card_says(tmp_path):
    toy().save_pretrained(tmp_path / "garden", **FACTS)
    card = (tmp_path / "garden" / "README.md").read_text()
    head = head_of(card)
    assert (head["license"], head["datasets"], head["library_name"]) == ("mit", ["garden"], "transformers")
    assert (head["pipeline_tag"], head["metrics"]) == ("image-segmentation", ["PQ"])
    assert {"panoptic-segmentation", "semantic-segmentation", "mask2former"} <= set(head["tags"])
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"]["name"] == "garden" and result["metrics"] == [{"type": "PQ", "value": 12.5}]
    for words in ("# garden", "Trained on garden.", "| PQ | 12.5 |", "Weights: mit.", "Things (1): cat.",
                  "Stuff (2): lawn, sky.", "shorter side of 320 pixels", "6 queries, 3 classes"):  # fmt: skip
        assert words in card, words


def test_what_is_not_known_is_left_open_and_said(tmp_path):
    with pytest.warns(UserWarning, match=r"leaves open: licence, data, scores\. Give licence=…, data=…, scores=…"):
        toy().save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert not {"license", "datasets", "model-index", "metrics", "base_model"} & set(head_of(card))
    assert card.count("Not stated") == 3
    with pytest.warns(UserWarning, match="keeps the README.md it had; replace_card=True writes a new one"):
        toy().save_pretrained(tmp_path, **FACTS)
    assert (tmp_path / "README.md").read_text() == card
    toy().save_pretrained(tmp_path, **FACTS, replace_card=True)
    assert "| PQ | 12.5 |" in (tmp_path / "README.md").read_text()


@pytest.fixture
def published(hub, tmp_path, monkeypatch):
    """A published model, on the hub here, whose weights are a toy's."""
    row = replace(ZOO["mask2former_swin_tiny_coco_panoptic"], name="toy_published", hub_id="facebook/toy-published")
    monkeypatch.setitem(ZOO, row.name, row)
    classes = row.config.classes
    model = toy(classes=classes, num_classes=len(classes), protocol=row.config.protocol)
    write_hub(Checkpoint(model.config, model.state_dict(), "toy"), tmp_path / "published")
    values = json.loads((tmp_path / "published" / "config.json").read_text())
    del values["mask2former"]  # which those that others published have not
    (tmp_path / "published" / "config.json").write_text(json.dumps(values))
    hub.repositories[row.hub_id] = {path.name: path.read_bytes() for path in (tmp_path / "published").iterdir()}
    hub.commits[row.hub_id] = ["First"]
    return row


def test_a_published_model_carries_its_licence_and_its_scores(published, hub):
    model = Mask2Former.from_pretrained(published.name)
    assert model.origin == published.name
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.half().push_to_hub("somebody/copy")  # the same weights in another precision
    card = hub.repositories["somebody/copy"]["README.md"].decode()
    head = head_of(card)
    assert (head["license"], head["base_model"], head["datasets"]) == ("cc-by-nc-4.0", published.hub_id, ["coco"])
    values = {metric["type"]: metric["value"] for r in head["model-index"][0]["results"] for metric in r["metrics"]}
    assert values == published.scores
    assert "As published for [toy_published]" in card and "Weights: CC-BY-NC-4.0." in card


def test_weights_that_were_trained_further_do_not_claim_its_scores(published, hub):
    model = Mask2Former.from_pretrained(published.hub_id)
    with torch.no_grad():
        model.pixel_decoder.level_embedding[0, 0] += 1e-3
    with pytest.warns(UserWarning, match="leaves open: data, scores"):
        model.push_to_hub("somebody/tuned")
    card = hub.repositories["somebody/tuned"]["README.md"].decode()
    assert head_of(card)["license"] == "cc-by-nc-4.0" and "model-index" not in head_of(card)
    assert "The weights it began with were trained on coco." in card and "53.2" not in card
    with pytest.warns(UserWarning, match="class head of toy_published is fresh"):
        other = Mask2Former.from_pretrained(published.name, classes=["date", "fig"])
    other.push_to_hub("somebody/fruits", licence="apache-2.0", data="fruits_nuts", scores={"AP": 70.0})
    card = hub.repositories["somebody/fruits"]["README.md"].decode()
    assert "Weights: apache-2.0. The published weights they came from are CC-BY-NC-4.0." in card


def test_a_oneformer_keeps_the_tokenizer_that_its_processor_elsewhere_needs(hub, tmp_path, monkeypatch):
    row = replace(ZOO["oneformer_ade20k_swin_tiny"], name="toy_published", hub_id="shi-labs/toy-published")
    monkeypatch.setitem(ZOO, row.name, row)
    toy("oneformer").save_pretrained(tmp_path, **FACTS)
    hub.repositories[row.hub_id] = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    hub.repositories[row.hub_id] |= {"vocab.json": b"{}", "merges.txt": b"a b"}
    hub.commits[row.hub_id] = ["First"]
    OneFormer.from_pretrained(row.name).push_to_hub("somebody/copy", scores={"PQ": 1.0})
    files = hub.repositories["somebody/copy"]
    assert set(files) == FILES | {"vocab.json", "merges.txt"} and b"tokenizer files" not in files["README.md"]
    assert head_of(files["README.md"].decode())["license"] == "mit"
    toy("oneformer").push_to_hub("somebody/fresh", **FACTS)
    assert b"needs CLIP's tokenizer files as well" in hub.repositories["somebody/fresh"]["README.md"]


@pytest.mark.parametrize("family", NETWORKS)
def test_pushed_and_read_by_others(hub, family):
    model = toy(family)
    address = model.push_to_hub("somebody/toy", **FACTS, private=True)
    assert address.startswith(f"{hub.address}/somebody/toy/commit/")
    assert set(hub.repositories["somebody/toy"]) == FILES and hub.private["somebody/toy"] is True
    assert hub.commits["somebody/toy"] == [f"Upload {type(model).__name__}"]
    assert '"somebody/toy"' in hub.repositories["somebody/toy"]["README.md"].decode()
    read = type(model).from_pretrained("somebody/toy")
    assert same(read, model) and read.config.classes == CLASSES
    assert same(mask2former.create_model("somebody/toy"), model)


def test_a_second_push_is_one_more_commit(hub):
    hub.repositories["somebody/toy"] = {
        "README.md": b"---\n{}\n---\nMy own words.", "notes.txt": b"mine", "pytorch_model.bin": b"old",
        "model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"old",
    }  # fmt: skip
    hub.commits["somebody/toy"] = ["First"]
    with pytest.warns(UserWarning, match="somebody/toy keeps the README.md it had"):
        toy().push_to_hub("toy", commit_message="Second")  # of one's own
    files = hub.repositories["somebody/toy"]
    assert set(files) == FILES | {"notes.txt"}  # weights in other forms would be read instead
    assert files["README.md"] == b"---\n{}\n---\nMy own words." and hub.commits["somebody/toy"] == ["First", "Second"]
    toy().push_to_hub("somebody/toy", **FACTS, replace_card=True)
    assert b"| PQ | 12.5 |" in hub.repositories["somebody/toy"]["README.md"]


@pytest.mark.parametrize(
    ("refused", "status", "error", "words"),
    [
        ("POST /api/models/somebody/toy/preupload", 401, PermissionError, "hf auth login"),
        ("POST /api/models/somebody/toy/commit", 403, PermissionError, "with a token that may write"),
        ("PUT /upload", 403, PermissionError, "nothing was uploaded"),
        ("PUT /upload", 400, ConnectionError, "has what it had"),
        ("POST /api/models/somebody/toy/commit", 413, ConnectionError, "has what it had"),
        ("POST /api/models/somebody/toy/commit", 400, ValueError, "does not take what was sent"),
        ("POST /api/validate-yaml", 400, ValueError, "Invalid metadata in README.md"),
    ],
)
def test_a_push_that_is_refused_changes_nothing(hub, refused, status, error, words):
    hub.repositories["somebody/toy"], hub.commits["somebody/toy"] = {"config.json": b"{}"}, ["First"]
    hub.refused[refused] = status
    with pytest.raises(error, match="somebody/toy: ") as raised:
        toy().push_to_hub("somebody/toy", **FACTS)
    assert words in str(raised.value)
    assert hub.repositories["somebody/toy"] == {"config.json": b"{}"} and hub.commits["somebody/toy"] == ["First"]


def test_a_push_that_cannot_be(hub, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="Repo id must"):
        toy().push_to_hub("some body/toy", **FACTS)
    with pytest.raises(PermissionError, match="somebody/toy: the hub does not let you write there"):
        toy().push_to_hub("somebody/toy", **FACTS, token="another")
    toy().save_pretrained(tmp_path / "toy", **FACTS)
    code = "import sys; from mask2former import Mask2Former as M; M.from_pretrained(sys.argv[1]).push_to_hub('a/b')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": hub.address, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "toy")]
    said = subprocess.run(command, env=environment, capture_output=True, text=True).stderr
    assert "ConnectionError: a/b: the upload failed" in said and "online and without HF_HUB_OFFLINE" in said
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="somebody/toy: the upload failed"):
        toy().push_to_hub("somebody/toy", **FACTS)
    assert not hub.repositories


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        toy().save_pretrained(tmp_path / "file", **FACTS)
    monkeypatch.setattr("weights.model_folder.save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        toy().save_pretrained(tmp_path / "folder", **FACTS)
    assert not (tmp_path / "folder").exists() and (tmp_path / "file").read_text() == "in the way"
