"""Figures of published weights, played by a local hub: right ones pass, a changed weight is named, nothing hangs."""

import hashlib
import io
import json
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import weights.verify
import weights.zoo
from mask2former import Mask2Former, Mask2FormerConfig
from mask2former.cli import main
from mask2former.inference.preprocess import Preprocess
from mask2former.structures import Protocol
from oneformer.tasks import task_tokens
from tests import test_online
from tests import test_weights_download as hub
from tests.conftest import SHARED, needs_shared, pytest_collection_modifyitems
from weights.hub_config import _protocol
from weights.verify import pixel_values, verify

server, model = hub.server, hub.model  # fixtures
ID, INPUT = "somebody/toy-swin", (64, 96)
# as the released preprocessor_config.json files have them; with the size of each family's recorded row
NORMALISED = {
    "do_resize": True,
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.48500001430511475, 0.4560000002384186, 0.4059999883174896],
    "image_std": [0.2290000021457672, 0.2239999920129776, 0.22499999403953552],
}
PROCESSORS = {
    "Mask2Former": {"size": {"height": 384, "width": 384}, "size_divisor": 32},
    "OneFormer": {"size": {"shortest_edge": 512, "longest_edge": 2048}},
    "MaskFormer": {"size": {"shortest_edge": 800, "longest_edge": 1333}, "size_divisor": 32},
}


def smooth_photo(height, width):
    """Something with edges of all strengths."""
    small = np.random.default_rng(0).integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photo():
    return smooth_photo(72, 96)


@pytest.fixture
def known(server, photo, tmp_path, monkeypatch):
    """What is recorded, in the place of the package's own: a photo on the server, and no model yet."""
    file = io.BytesIO()
    photo.save(file, "PNG")
    server.files["/val/photo.png"] = file.getvalue()
    known = {
        "photo": {
            "name": "a photo",
            "url": f"{server.address}/val/photo.png",
            "size": [photo.height, photo.width],
            "sha256": hashlib.sha256(np.asarray(photo).tobytes()).hexdigest(),
            "objects": {"cat": 0, "remote": 0},
        },
        "tolerance": 2e-4,
        "models": [],
    }
    monkeypatch.setattr(weights.verify, "FILE", tmp_path / "figures.json")
    write(known)
    return known


def write(known):
    weights.verify.FILE.write_text(json.dumps(known))


def record(known, class_logits, mask_logits, size=INPUT, family="mask2former", **row):
    """Figures for the repository `ID`: class logits (1, Q, K + 1), mask logits (1, Q, H/4, W/4)."""
    row |= {"id": ID, "family": family, "input": [1, 3, *size]}
    row |= {"mask_logits": mask_logits[0, 0, :3, :3].tolist(), "class_logits": class_logits[0, :3, :3].tolist()}
    known["models"] = [row]
    write(known)


@pytest.fixture
def recorded(known, server, model, photo, tmp_path):
    """The toy on the hub with its figures."""
    hub.serve(server, model, tmp_path, ID)
    with torch.no_grad():
        outputs = model.eval()(pixel_values(photo, INPUT, Protocol()))
    record(known, outputs.class_logits, outputs.mask_logits)
    return known


def test_right_figures_pass(recorded, capsys):
    assert main(["verify", ID]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].split() == ["figure", "expected", "found", "difference"]
    assert [line.split("]")[0] for line in lines[1:19]] == [
        *(f"mask_logits[0, 0, {i}, {j}" for i in range(3) for j in range(3)),
        *(f"class_logits[0, {i}, {j}" for i in range(3) for j in range(3)),
    ]
    assert f"{recorded['models'][0]['class_logits'][2][2]:.6g}" in lines[18]
    assert lines[19:] == [f"all 18 figures of {ID} are as recorded"]
    assert not [line for line in said.err.splitlines() if "note" in line]


@pytest.mark.parametrize("change", [0.001, float("nan")])
def test_a_changed_weight_is_named(recorded, server, tmp_path, capsys, change):
    state = load_file(tmp_path / "served" / "model.safetensors")
    state["class_predictor.bias"][1] += change
    save_file(state, tmp_path / "changed.safetensors")
    server.files[f"/{ID}/model.safetensors"] = (tmp_path / "changed.safetensors").read_bytes()
    refused = change != change
    assert main(["verify", ID]) == (2 if refused else 1)
    said = capsys.readouterr()
    if refused:
        assert "class_head.bias (1 of" in said.err and "NaN or infinite" in said.err
        return
    named = ", ".join(f"class_logits[0, {i}, 1]" for i in range(3))
    assert said.err.splitlines()[-1] == f"mask2former: 3 of 18 figures of {ID} differ: {named}"
    assert sum("more than 0.0002" in line for line in said.out.splitlines()) == 3


@pytest.fixture
def on_coco(known, server, tmp_path, monkeypatch):
    """A row of the zoo that is trained on COCO, on the hub: all that its network sees is cats. Called with the test."""

    def published(test):
        options = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
        sizes = {"hidden_dim": 32, "mask_dim": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 1}
        row = replace(weights.zoo.ZOO["mask2former_swin_tiny_coco_panoptic"], name="toy", hub_id=ID, test=test)
        known = {name: getattr(row.config, name) for name in ("classes", "num_classes", "protocol")}
        config = Mask2FormerConfig(backbone_options=options, **sizes, num_queries=4, **known)
        toy = Mask2Former(config)
        with torch.no_grad():
            toy.transformer_decoder.class_head.bias[15] += 20  # cat
        monkeypatch.setitem(weights.zoo.ZOO, "toy", row)
        hub.serve(server, toy, tmp_path, ID)

    return published


def test_objects_are_counted(on_coco, known, tmp_path, capsys):
    on_coco("coco_instance")
    assert main(["verify", "toy"]) == 1
    said = capsys.readouterr()
    assert f"no logits are recorded for {'toy'}" in said.err
    assert "1 of 2 figures of toy differ: number of cats (instance)" in said.err
    cats, remotes = verify("toy").figures
    assert 1 <= cats.found <= 4 and (remotes.name, remotes.found) == ("number of remotes (instance)", 0)
    known["photo"]["objects"]["cat"] = cats.found
    write(known)
    assert main(["verify", ID]) == 0  # by its hub id
    assert "all 2 figures" in capsys.readouterr().out
    (folder := tmp_path / "toy").mkdir()
    for file in (tmp_path / "served").iterdir():
        file.rename(folder / file.name)
    assert main(["verify", str(folder)]) == 0  # and a local copy by its name


def test_logits_and_objects_together(on_coco, recorded, capsys):
    on_coco("coco_panoptic")
    assert main(["verify", "toy"]) == 1  # the figures are another toy's
    said = capsys.readouterr()
    assert "of 20 figures" in said.err and "mask_logits[0, 0, 0, 0]" in said.err and "note" not in said.err


def test_what_cannot_be_verified_is_said_in_one_sentence(recorded, server, tmp_path, capsys, monkeypatch):
    recorded["models"].append(recorded["models"][0] | {"id": "somebody/gone"})
    recorded["models"].append(recorded["models"][0] | {"id": "somebody/else", "family": "detr"})
    write(recorded)
    Image.new("RGB", (5, 5)).save(tmp_path / "small.png")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} seconds for an answer"))
    there = f"logits are recorded for {ID}, somebody/gone;"
    ade = "mask2former_swin_large_ade_panoptic"
    for arguments, message in (
        ([ade], f"no figures are recorded for {ade}; {there}"),
        (["nonsense"], f"no figures are recorded for nonsense; {there}"),
        (["somebody/else"], f"somebody/else is a detr, which this library has not; {there}"),
        (["somebody/gone"], "the hub has no public model 'somebody/gone'"),
        ([ID, "--photo", str(tmp_path / "none.png")], "none.png: no such photo"),
        ([ID, "--photo", str(tmp_path / "small.png")], "has 5 × 5 pixels: expected a photo, 72 × 96, from http"),
    ):
        assert main(["verify", *arguments]) == 2
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if line and "B/s]" not in line]  # without a download's bar
        assert len(lines) == 1 and message in lines[0] and not said.out
    server.files["/val/photo.png"] = b"<html>please log in"
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "other home"))
    for _ in range(2):  # what came is not kept
        assert main(["verify", ID]) == 2
        assert "photo.png did not send a photo" in capsys.readouterr().err


@pytest.mark.parametrize("photo_at_hand", [False, True])
def test_no_network(recorded, server, photo, tmp_path, capsys, monkeypatch, photo_at_hand):
    photo.save(tmp_path / "copy.png")
    server.shutdown()
    server.socket.close()
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} seconds for an answer"))
    assert main(["verify", ID, *(["--photo", str(tmp_path / "copy.png")] if photo_at_hand else [])]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "Traceback" not in said.err
    assert ("hub cannot be reached" if photo_at_hand else "photo.png cannot be read") in said.err


def test_other_pixels_are_mentioned(recorded, photo, tmp_path, capsys):
    """Another decoder may be a grey level apart; the figures then tell how much that is."""
    other = np.array(photo)
    other[0, 0, 0] ^= 1
    Image.fromarray(other).save(tmp_path / "copy.png")
    main(["verify", ID, "--photo", str(tmp_path / "copy.png")])
    assert "note: the pixels of" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["Mask2Former", "OneFormer"])
def test_figures_that_transformers_computed(known, server, photo, tmp_path, capsys, family):
    """Its processor, its network, its file: the whole way of the recorded figures, in small."""
    transformers = pytest.importorskip("transformers")
    from tests.toy_transformers import mask2former, randomise, swin

    if family == "Mask2Former":
        theirs, values, row = mask2former(swin(4)), {"size": {"height": 96, "width": 96}, "size_divisor": 32}, {}
    else:
        sizes = dict(
            hidden_dim=64, conv_dim=64, mask_dim=64, encoder_layers=1, decoder_layers=3, num_attention_heads=4,
            dim_feedforward=48, encoder_feedforward_dim=40, num_queries=6, num_labels=7, text_encoder_n_ctx=2,
        )  # fmt: skip
        config = transformers.OneFormerConfig(backbone_config=swin(4), **sizes)
        theirs = randomise(transformers.OneFormerForUniversalSegmentation(config))
        values, row = {"size": {"shortest_edge": 64, "longest_edge": 256}}, {"task": "semantic"}  # 64 × 85.33
    theirs.save_pretrained(tmp_path / "served")
    (tmp_path / "served" / "preprocessor_config.json").write_text(json.dumps(NORMALISED | values))
    for file in (tmp_path / "served").iterdir():
        server.files[f"/{ID}/{file.name}"] = file.read_bytes()
    inputs = processed(transformers, family, photo, values)
    task = {"task_inputs": task_tokens("semantic", 1).float()} if row else {}
    with torch.no_grad():
        outputs = theirs(pixel_values=inputs, **task)
    size = (64, 85) if row else (96, 96)
    assert inputs.shape == (1, 3, *size)
    record(known, outputs.class_queries_logits, outputs.masks_queries_logits, size, family.lower(), **row)
    assert main(["verify", ID]) == 0, capsys.readouterr()
    assert f"all 18 figures of {ID} are as recorded" in capsys.readouterr().out


def processed(transformers, family, photo, values, processor="Pil"):
    """The pixel values of a processor of transformers; "Pil" resizes with Pillow, "" with torchvision."""
    made = getattr(transformers, f"{family}ImageProcessor{processor}")
    task = {"task_inputs": ["semantic"]} if family == "OneFormer" else {}
    return made(**NORMALISED | values)(photo, return_tensors="pt", **task)["pixel_values"]


@pytest.mark.parametrize("family", PROCESSORS)
@pytest.mark.parametrize("which", ["made", pytest.param("cats", marks=needs_shared)])
def test_pixel_values_are_transformers(family, which):
    """At the size of each recorded row, from the photo's own size: as its Pillow processors, and torchvision's within a
    grey level."""
    transformers = pytest.importorskip("transformers")
    cats = SHARED / "data" / "coco_cats" / "000000039769.png"
    photo = Image.open(cats) if which == "cats" else smooth_photo(480, 640)
    rows = json.loads(weights.verify.FILE.read_text())["models"]
    size = tuple(next(row["input"][2:] for row in rows if row["family"] == family.lower()))
    protocol = _protocol(NORMALISED | PROCESSORS[family])
    ours = pixel_values(photo, size, protocol)
    theirs = processed(transformers, family, photo, PROCESSORS[family])
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= 1e-6
    grey_level = 1 / min(protocol.pixel_std)
    theirs = processed(transformers, family, photo, PROCESSORS[family], "")
    assert (ours - theirs).abs().max() <= grey_level + 1e-6
    if "height" in PROCESSORS[family]["size"]:
        assert torch.equal(Preprocess.from_protocol(protocol, "hub")(photo)[0][None], ours)


@needs_shared
def test_the_packages_figures_are_those_that_were_handed_over():
    given = json.loads((SHARED / "facts" / "real_weights.json").read_text())["rows"]
    known = json.loads(weights.verify.FILE.read_text())
    for row, ours in zip(given, known["models"], strict=True):
        assert {name: value for name, value in row.items() if name != "note"}.items() <= ours.items()
    cats = Image.open(SHARED / "data" / "coco_cats" / "000000039769.png").convert("RGB")
    assert [cats.height, cats.width] == known["photo"]["size"]
    assert hashlib.sha256(np.asarray(cats).tobytes()).hexdigest() == known["photo"]["sha256"]
    annotated = json.loads((SHARED / "data" / "coco_cats" / "coco_annotations.txt").read_text())
    ids = {"cat": 17, "remote": 75}
    counts = {name: sum(a["category_id"] == number for a in annotated) for name, number in ids.items()}
    assert counts == known["photo"]["objects"]


@pytest.mark.parametrize(("expression", "kept"), [("", 1), ("not slow", 1), ("online", 2), ("online and not slow", 2)])
def test_what_needs_the_network_runs_only_where_it_is_asked_for(expression, kept):
    """The hook that leaves it out, with two stand-ins: of `test_online.py`, and of any other file."""
    assert test_online.pytestmark == pytest.mark.online
    offline, online = (SimpleNamespace(get_closest_marker=lambda name, of=of: of == name) for of in ("slow", "online"))
    items, left_out = [offline, online], []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    pytest_collection_modifyitems(SimpleNamespace(option=SimpleNamespace(markexpr=expression), hook=hook), items)
    assert items == [offline, online][:kept] and items + left_out == [offline, online]
