"""What comes from outside with a checkpoint is checked where it enters: a kind of fault, a test."""

import io
import itertools
import json
import os
import pickle
import random
import resource
import struct
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import weights
from mask2former import ClassInfo, Mask2Former, Mask2FormerConfig
from mask2former.errors import CheckpointError
from tests.hostile.checkpoints import (
    HOSTILE,
    PREPROCESSOR,
    STRAY,
    SWIN,
    TOYS,
    build_safetensors,
    cases,
    layout_files,
    parse_safetensors,
    put,
    run,
    same_weights,
    toy,
)
from weights.backbone_file import load_backbone
from weights.class_names import class_list
from weights.download import WEIGHT_FILES
from weights.finite import check_finite
from weights.pickle_reader import UnsafePickleError, read_pickle

MEGABYTES = 300  # that refusing something may take at most


@pytest.fixture(autouse=True)
def little_memory():
    """Nothing here may take much: what is huge is refused before it is made. (Measured by the process's peak.)"""
    for name in TOYS:
        toy(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert taken < MEGABYTES, f"{taken:.0f} MB more"


def written(folder, name="swin", layout="native", **changes):
    """A toy's folder with other values in its config.json, under names such as `protocol.tasks`."""
    files = layout_files(name, layout)
    values = json.loads(files["config.json"])
    for path, value in changes.items():
        *outer, key = path.split(".")
        place = values
        for part in outer:
            place = place[part]
        place[key] = value
    return put(folder, files | {"config.json": json.dumps(values).encode()})


def refused(source, match, **options):
    with pytest.raises(CheckpointError, match=match) as error:
        weights.create_model(source, **options)
    assert str(source) in str(error.value) or os.path.dirname(source) in str(error.value)
    return str(error.value)


# --- Any of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_cases_drawn_at_random(seed, tmp_path):
    """Each a model that is what the files say, or an error that names the file (`tests.hostile` draws many more)."""
    outcomes = []
    for k, case in enumerate(itertools.islice(cases(random.Random(seed)), 12)):
        (folder := tmp_path / f"case{k}").mkdir()
        outcomes.append(run(case, folder))
    assert "refused" in outcomes


@pytest.mark.parametrize("name", TOYS)
def test_what_is_whole_is_read(name, tmp_path):
    warnings.simplefilter("ignore")
    for layout in ("native", "hub"):
        same_weights(weights.create_model(put(tmp_path / layout, layout_files(name, layout))), name)
    same_weights(weights.create_model(written(tmp_path / "stray", name, "hub", **STRAY)), name)


# --- A folder cannot run code -----------------------------------------------------------------------------------------


class Marker:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


OPTIONS = (
    *("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "pruned", "pretrained"),
    *("features_only", "feature_cls", "norm_layer", "drop_path_rate"),
)


@pytest.mark.parametrize("option", OPTIONS)
def test_only_options_of_an_architecture_are_admitted(option, tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Marker(tmp_path / "ran")))
    source = written(tmp_path / "model", **{f"backbone_options.{option}": str(tmp_path / "evil.pth")})
    message = refused(source, f"{option}.*refused.*embed_dim, depths")
    assert "config.json" in message and not (tmp_path / "ran").exists()
    with pytest.raises(CheckpointError, match=option):
        weights.create_model(source, pretrained=False)


@pytest.mark.parametrize("name", ["hf-hub:a/b", "local-dir:.", "../swin", "/tmp/x", "swin tiny", None, "os.system", 3])
def test_a_backbone_is_a_plain_name(name, tmp_path):
    refused(written(tmp_path, backbone=name), "backbone")


def test_options_are_typed(tmp_path):
    for k, (option, value) in enumerate(
        [
            ("depths", "1111"),
            ("depths", [1, 1, True, 1]),
            ("window_size", 4.0),
            ("qkv_bias", "false"),
            ("embed_dim", None),
        ]
    ):
        refused(written(tmp_path / str(k), **{f"backbone_options.{option}": value}), rf"\$\.{option}")


def test_who_builds_in_python_may_pass_any_option():
    options = {**SWIN, "norm_layer": torch.nn.LayerNorm}
    assert Mask2Former(Mask2FormerConfig(backbone_options=options, num_classes=2, hidden_dim=32, mask_dim=32))


# --- Sizes are compared before they are believed ----------------------------------------------------------------------

HUGE = {
    "decoder_layers": 10**9, "encoder_layers": 999, "num_classes": 10**9, "num_queries": 10**9, "hidden_dim": 2**40,
    "encoder_points": 10**9, "decoder_feedforward_dim": 10**9, "backbone_options.depths": [10**9] * 4,
    "backbone_options.embed_dim": 65536, "backbone_options.window_size": 10**6, "protocol.short_side": 10**6,
    "protocol.hub_size": [10**6, 10**6], "protocol.instances_per_image": 10**9,
}  # fmt: skip


@pytest.mark.parametrize("field", HUGE)
def test_huge_numbers_in_a_configuration(field, tmp_path):
    changes = {field: HUGE[field]} | ({"classes": []} if field == "num_classes" else {})
    refused(written(tmp_path, **changes), None)
    with pytest.raises(CheckpointError, match=r"config\.json|does not fit"):
        weights.create_model(tmp_path, pretrained=False)
    (tmp_path / "model.safetensors").unlink()
    if field != "backbone_options.embed_dim":
        with pytest.raises((CheckpointError, FileNotFoundError)):
            weights.create_model(tmp_path)


def test_a_configuration_alone_is_no_network_of_any_size(tmp_path):
    source = written(tmp_path, **{"hidden_dim": 65536, "decoder_layers": 10, "num_heads": 8})
    (source / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json describes a network of \d+ weights"):
        weights.create_model(source, pretrained=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone_config.depths": [10**9] * 4},
        {"backbone_config.depths": [100, 100, 100, 100]},
        {"backbone_config.window_size": 10**6},
        {"decoder_layers": 10**9},
        {"num_queries": 10**9},
        {"id2label": {str(k): "x" for k in range(10**5)}},
    ],
    ids=range(6),
)
def test_huge_numbers_in_a_hub_configuration(changes, tmp_path):
    refused(written(tmp_path, layout="hub", **changes), r"config\.json")


@pytest.mark.parametrize("number", ["999999999", "9" * 5000, "00", "01", "٣", "2"])
@pytest.mark.parametrize("layout", ["native", "hub", "original"])
def test_layers_are_numbered_without_a_gap(layout, number, tmp_path):
    """The second decoder layer under another number: not there, or not the only second one."""
    if layout == "original":
        model = torch.load(io.BytesIO(toy("oneformer")[1]["model.pth"]), weights_only=True)["model"]
        old, new = "transformer_cross_attention_layers.1.", f"transformer_cross_attention_layers.{number}."
        model = {name.replace(old, new): tensor for name, tensor in model.items()}
        torch.save({"model": model}, tmp_path / "model.pth")
        refused(tmp_path / "model.pth", None)
        return
    source = put(tmp_path / "model", layout_files("swin", layout))
    state = load_file(source / "model.safetensors")
    old = {"native": "transformer_decoder.layers.1.", "hub": "transformer_module.decoder.layers.1."}[layout]
    state = {name.replace(old, old[:-2] + number + "."): tensor for name, tensor in state.items()}
    save_file(state, source / "model.safetensors")
    refused(source, "unknown")


def test_shapes_without_numbers_tell_no_size(tmp_path):
    """A shape such as (10⁹, 0) takes no byte of a file."""
    model = torch.load(io.BytesIO(toy("oneformer")[1]["model.pth"]), weights_only=True)["model"]
    model["sem_seg_head.predictor.class_embed.weight"] = torch.zeros(10**9, 0)
    torch.save({"model": model}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "1000000000")
    entries = [(n, d, [10**9, 0] if n.endswith("class_head.bias") else s, b"" if n.endswith("class_head.bias") else b)
               for n, d, s, b in parse_safetensors(layout_files("swin", "native")["model.safetensors"])]  # fmt: skip
    source = written(tmp_path / "model")
    (source / "model.safetensors").write_bytes(build_safetensors(entries))
    refused(source, "1000000000")


def test_dilations_reach_no_further_than_a_photo(tmp_path):
    source = written(tmp_path / "a", "dinat", **{"backbone_options.dilations": [[10**4], [1], [1], [1]]})
    refused(source, "dilations has 10000 at stride 4")
    source = written(tmp_path / "b", "dinat", "hub", **{"backbone_config.dilations": [[1], [1], [1], [60000]]})
    refused(source, "dilations has 60000 at stride 32")


# --- Pickles are looked over before they run --------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(name, tmp_path):
    (tmp_path / "model.pkl").write_bytes(HOSTILE[name])
    refused(tmp_path / "model.pkl", "refused|broken")
    if len(HOSTILE[name]) > 200_000:
        return
    # in an archive of torch's, and in a file as it was before
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
        archive.writestr("model/data.pkl", HOSTILE[name])
        archive.writestr("model/version", "3")
    refused(tmp_path / "model.pth", None)
    file = io.BytesIO()
    torch.save({}, file, _use_new_zipfile_serialization=False)
    start = file.getvalue().index(b"\x80\x02}q\x00.")
    (tmp_path / "model.pth").write_bytes(file.getvalue()[:start] + HOSTILE[name] + file.getvalue()[start + 6 :])
    refused(tmp_path / "model.pth", None)


def test_a_hostile_pickle_leaves_nothing_for_the_next(tmp_path):
    (tmp_path / "good.pkl").write_bytes(pickle.dumps({"model": {"a": np.ones(3)}}, protocol=3))
    for name in ("attributes on a function", "attributes on a type", "slots on a type"):
        (tmp_path / "model.pkl").write_bytes(HOSTILE[name])
        with pytest.raises(UnsafePickleError, match="sets attributes"):
            read_pickle(tmp_path / "model.pkl")
        assert read_pickle(tmp_path / "good.pkl")["a"].tolist() == [1, 1, 1]


def test_arrays_do_not_share_their_numbers(tmp_path):
    numbers = np.zeros(1 << 18)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": {str(k): numbers for k in range(100)}}, protocol=3))
    read_pickle(tmp_path / "model.pkl") if False else refused(
        tmp_path / "model.pkl", "no numpy arrays|too many share|names"
    )


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pt"])
def test_only_regular_files_are_opened(suffix, tmp_path):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(FileNotFoundError, match="no regular file"):
            weights.create_model(tmp_path / f"{name}{suffix}")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", *WEIGHT_FILES])
def test_pipes_in_a_folder(name, tmp_path):
    source = put(tmp_path, layout_files("swin", "hub"))
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    try:
        weights.create_model(source)  # where another file says the same
    except (FileNotFoundError, CheckpointError) as error:
        assert str(tmp_path) in str(error)
    with pytest.raises(FileNotFoundError, match="neither a JSON file"):
        class_list(source / name)


def rewritten(content, change, method=zipfile.ZIP_STORED):
    source, file = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for member in source.infolist():
            archive.writestr(member.filename, change(member.filename, source.read(member)), method)
    return file.getvalue()


def test_archives_that_unpack_to_much(tmp_path):
    content = toy("oneformer")[1]["model.pth"]

    def longer(name, record):
        return record + bytes(10**8) if name.endswith("data/0") else record

    (tmp_path / "model.pth").write_bytes(rewritten(content, longer, zipfile.ZIP_DEFLATED))
    refused(tmp_path / "model.pth", "would unpack to 10")


def test_storages_have_the_bytes_they_are_said_to_have(tmp_path):
    torch.save({"model": {"a": torch.zeros(4)}}, tmp_path / "model.pth")
    content = (tmp_path / "model.pth").read_bytes()
    old_form = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(4)}}, old_form, _use_new_zipfile_serialization=False)
    huge = b"J\xff\xff\xff\x7f"
    for old, new in ((b"K\x04", huge), (b"K\x04\x85", huge + b"\x85"), (b"q\x08K\x04", b"q\x08" + huge)):
        changed = rewritten(content, lambda name, record, old=old, new=new: record.replace(old, new))
        (tmp_path / "model.pth").write_bytes(changed)
        refused(tmp_path / "model.pth", "storage")
        assert old in old_form.getvalue()
        (tmp_path / "old.pth").write_bytes(old_form.getvalue().replace(old, new))
        refused(tmp_path / "old.pth", "storage")


def test_tensors_do_not_make_much_out_of_little(tmp_path):
    """A view that says one number a thousand million times; many entries that are one storage."""
    torch.save({"model": {"a": torch.zeros(1).expand(10**9)}}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "refused: a tensor of shape .1000000000,. and strides .0,.")
    shared = torch.zeros(1 << 20)
    torch.save({"model": {str(k): shared for k in range(500)}}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "too many share a storage")


def test_numbers_that_an_old_file_leaves_out(tmp_path):
    """Its storages would be whatever lay in memory."""
    file = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(4)}}, file, _use_new_zipfile_serialization=False)
    content = file.getvalue()
    keys = content.rindex(b"\x80\x02]")
    (tmp_path / "model.pth").write_bytes(content[:keys] + b"\x80\x02]q\x00.")
    refused(tmp_path / "model.pth", "some of its storages have no numbers")


# --- Weights are finite floats ----------------------------------------------------------------------------------------


def changed(source, name, tensor):
    state = load_file(source / "model.safetensors")
    found = next(entry for entry in state if entry.endswith(name))
    state[found] = tensor(state[found])
    save_file(state, source / "model.safetensors")
    return found


@pytest.mark.parametrize("layout", ["native", "hub"])
@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.complex64], ids=str
)
def test_quantised_weights_are_no_floats(layout, dtype, tmp_path):
    source = put(tmp_path, layout_files("swin", layout))
    name = changed(source, "qkv.weight" if layout == "native" else "query.weight", lambda tensor: tensor.to(dtype))
    message = refused(source, "1 of another type")
    assert f"{name}: {dtype} instead of torch.float32" in message
    if layout == "native":
        with pytest.raises(CheckpointError, match="of another type"):
            weights.create_model(source, pretrained=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_are_read(dtype, tmp_path):
    source = put(tmp_path, layout_files("swin", "hub"))
    changed(source, "query.weight", lambda tensor: tensor.to(dtype))
    weights.create_model(source)


@pytest.mark.parametrize("layout", ["native", "hub", "pkl", "pth"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(layout, number, tmp_path):
    if layout in ("native", "hub"):
        source = put(tmp_path, layout_files("swin", layout))

        def spoil(tensor):
            tensor.view(-1)[:2] = number
            return tensor

        changed(source, "level_embedding" if layout == "native" else "level_embed", spoil)
    else:
        model = torch.load(io.BytesIO(toy("oneformer")[1]["model.pth"]), weights_only=True)["model"]
        model["sem_seg_head.predictor.level_embed.weight"].view(-1)[:2] = number
        source = tmp_path / f"model.{layout}"
        if layout == "pth":
            torch.save({"model": model}, source)
        else:
            arrays = OrderedDict((name, tensor.numpy()) for name, tensor in model.items())
            source.write_bytes(pickle.dumps({"model": arrays}, protocol=3))
    refused(source, r"level_embedding \(2 of 96 are NaN or infinite\)")


def test_numbers_a_type_cannot_hold(tmp_path):
    source = put(tmp_path / "model", layout_files("swin", "native"))
    changed(source, "mask_projection.bias", lambda tensor: tensor + 1e5)
    weights.create_model(source, dtype=torch.bfloat16)
    message = refused(
        source, r"mask_projection.bias \(up to 1e\+05, and torch.float16 ends at 6.55e\+04\)", dtype=torch.float16
    )
    assert "take dtype bfloat16 or float32" in message
    with pytest.raises(CheckpointError, match="mask_projection.bias"):
        weights.convert(source, tmp_path / "half", dtype=torch.float16)
    assert not (tmp_path / "half").exists()
    changed(source, "mask_projection.bias", lambda tensor: tensor.double() * 1e300)
    refused(source, "torch.float32 ends at 3.4e")
    with pytest.raises(CheckpointError, match="negative variance"):
        check_finite("x", {"bn.running_var": torch.tensor([1.0, -1.0])})


def test_a_backbone_file_is_checked_likewise(tmp_path):
    model = TOYS["resnet"]()
    torch.save(dict(model.backbone.body.state_dict()), tmp_path / "backbone.pth")
    good = torch.load(tmp_path / "backbone.pth", weights_only=True)
    for spoiled, match in (
        (torch.full_like(good["conv1.weight"], float("nan")), "NaN"),
        (good["conv1.weight"].to(torch.int32), "another type"),
    ):
        torch.save(
            good | {"conv1.weight": spoiled, "fc.weight": torch.zeros(1000, 16), "fc.bias": torch.zeros(1000)},
            tmp_path / "backbone.pth",
        )
        with pytest.raises(CheckpointError, match=match):
            load_backbone(model, tmp_path / "backbone.pth")


# --- Paths inside files -----------------------------------------------------------------------------------------------


def in_shards(folder, change=lambda index, parts: None):
    files = layout_files("swin", "hub")
    entries = list(parse_safetensors(files.pop("model.safetensors")))
    parts = {"model-1.safetensors": entries[:80], "model-2.safetensors": entries[80:]}
    index = {"weight_map": {entry[0]: shard for shard, part in parts.items() for entry in part}}
    change(index["weight_map"], parts)
    files |= {shard: build_safetensors(part) for shard, part in parts.items()}
    return put(folder, files | {"model.safetensors.index.json": json.dumps(index).encode()})


OUTSIDE = ("../model-1.safetensors", "{}/model-1.safetensors", "sub/model-1.safetensors", "..", "", "a\0b")


@pytest.mark.parametrize("shard", (*OUTSIDE, "~/model-1.safetensors", "a\\b.safetensors", ".hidden"))
def test_a_shard_is_a_plain_name_beside_its_index(shard, tmp_path):
    def change(index, parts):
        index[next(iter(index))] = shard.format(tmp_path)

    source = in_shards(tmp_path / "model", change)
    for place in (tmp_path, source / "sub"):
        put(place, {"model-1.safetensors": (source / "model-1.safetensors").read_bytes()})
    refused(source, "is no plain name of a file beside it")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda index, parts: parts["model-2.safetensors"].append(parts["model-1.safetensors"][0]),
            "has, though the index",
        ),
        (lambda index, parts: parts["model-1.safetensors"].pop(), "lacks 1 entries"),
        (lambda index, parts: index.pop(next(iter(index))), "has, though the index"),
        (lambda index, parts: index.clear(), "weight_map is empty"),
        (lambda index, parts: index.update(surplus="model-1.safetensors"), "lacks 1 entries: 'surplus'"),
        (lambda index, parts: index.update({next(iter(index)): 3}), r"weight_map\[...\]|weight_map\."),
    ],
)
def test_an_index_and_its_shards_say_the_same(change, message, tmp_path):
    message = refused(in_shards(tmp_path, change), message)
    assert "safetensors" in message


def test_links_of_a_hub_cache_are_followed(tmp_path):
    source = in_shards(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for file in source.iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(f"../blobs/{file.name}")
    same_weights(weights.create_model(tmp_path / "snapshot"), "swin")


def test_tokenizer_files_are_those_of_the_folder(tmp_path):
    (tmp_path / "secret").write_text("secret")
    source = put(tmp_path / "model", layout_files("oneformer", "hub") | {"merges.txt": b"a b"})
    (source / "vocab.json").symlink_to(tmp_path / "secret")
    with pytest.warns(UserWarning, match="links out of the folder are not carried along .vocab.json"):
        weights.convert(source, tmp_path / "native")
    assert (tmp_path / "native" / "merges.txt").is_file() and not (tmp_path / "native" / "vocab.json").exists()
    cache = tmp_path / "models--a--b"
    put(
        cache / "blobs",
        {name: (source / name).read_bytes() for name in ("config.json", "model.safetensors", "merges.txt")},
    )
    (cache / "snapshots" / "0123").mkdir(parents=True)
    for file in (cache / "blobs").iterdir():
        (cache / "snapshots" / "0123" / file.name).symlink_to(f"../../blobs/{file.name}")
    weights.convert(cache / "snapshots" / "0123", tmp_path / "cached")
    assert (tmp_path / "cached" / "merges.txt").read_bytes() == b"a b"


def test_names_are_shown_as_they_can_be(tmp_path):
    source = put(tmp_path, layout_files("swin", "native"))
    state = load_file(source / "model.safetensors")
    save_file(state | {"\x1b[31m": torch.zeros(1), "x" * 10_000: torch.zeros(1)}, source / "model.safetensors")
    message = refused(source, "2 unknown")
    assert "\x1b" not in message and len(message) < 1000


def test_an_entry_is_in_a_header_once(tmp_path):
    source = put(tmp_path, layout_files("swin", "native"))
    content = (source / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = content[8 : 8 + length].rstrip()
    twice = json.loads(header)["transformer_decoder.norm.bias"] | {"dtype": "I32"}
    header = b'{"transformer_decoder.norm.bias": ' + json.dumps(twice).encode() + b"," + header[1:]
    (source / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    refused(source, "'transformer_decoder.norm.bias' twice")


# --- Types and names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_heads", "4", r"\$\.num_heads: Expected `int`, got `str`, found '4'"),
        ("num_heads", True, r"\$\.num_heads: Expected `int`, got `bool`, found True"),
        ("frozen_batch_norm", "false", r"\$\.frozen_batch_norm: Expected `bool`"),
        ("dropout", -1, r"\$\.dropout"),
        (
            "classes",
            [{"name": "a", "is_thing": "false"}, {"name": "b"}],
            r"\$\.classes\[0\]\.is_thing: Expected `bool`",
        ),
        ("classes", [{"name": "a", "color": [0, 0, 256]}, {"name": "b"}], r"\$\.classes\[0\]\.color\[2\]: .*255"),
        ("classes", [{"name": "a", "colour": [0, 0, 0]}, {"name": "b"}], "unknown entries in classes: .*colour"),
        ("protocol.pixel_std", [0, 1, 1], r"pixel_std\[0\]"),
        ("protocol.tasks", ["panoptic", "depth"], "tasks="),
        ("protocol.object_mask_threshold", 5, "object_mask_threshold"),
        ("protocol.sides", 5, "unknown entries in protocol: .*sides"),
        ("hidden_dim", 34, "hidden_dim=34"),
    ],
)
def test_values_of_a_configuration(field, value, message, tmp_path):
    assert "config.json" in refused(written(tmp_path, **{field: value}), message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"family": "mask2former", "family": "oneformer"}', "'family' is said more than once"),
        ('{"family": "mask2former", "dropout": NaN}', "no valid JSON"),
        ('{"family": "mask2former", "dropout": 1e999}', "out of range"),
        ('{"family": "mask2former", "num_queries": ' + "9" * 5000 + "}", "out of range"),
        ('{"family": "mask2former", "classes": ' + "[" * 10**5, "nested too deeply"),
        ('{"family": ["mask2former"]}', "family is"),
    ],
    ids=range(6),
)
def test_text_of_a_configuration(text, message, tmp_path):
    source = put(tmp_path, layout_files("swin", "native") | {"config.json": text.encode()})
    assert "config.json" in refused(source, message)


def test_what_configuration_and_weights_both_say_is_compared(tmp_path):
    for k, (name, layout, changes) in enumerate(
        [
            ("swin", "native", {"num_heads": 2}),
            ("swin", "native", {"encoder_points": 8}),
            ("swin", "native", {"backbone_options.window_size": 5}),
            ("swin", "native", {"backbone_options.num_heads": [1, 1, 1, 2]}),
            ("swin", "native", {"backbone_options.qkv_bias": False}),
            ("resnet", "native", {"frozen_batch_norm": False}),
            ("oneformer", "native", {"text_branch": False}),
            ("oneformer", "native", {"text_contexts": 1}),
            ("swin", "hub", {"num_attention_heads": 2}),
            ("swin", "hub", {"backbone_config.window_size": 5}),
            ("swin", "hub", {"backbone_config.out_features": ["stage1", "stage2", "stage3"]}),
            ("oneformer", "hub", {"text_encoder_num_layers": 6}),
            ("oneformer", "hub", {"text_encoder_n_ctx": 3}),
        ]
    ):
        refused(written(tmp_path / str(k), name, layout, **changes), None)


@pytest.mark.parametrize(
    ("changes", "mean", "std"),
    [
        ({}, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ({"do_normalize": False}, (0, 0, 0), (255, 255, 255)),
        (
            {"do_rescale": False, "image_mean": [123, 116, 103], "image_std": [58, 57, 56]},
            (123, 116, 103),
            (58, 57, 56),
        ),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}, (127.5,) * 3, (127.5,) * 3),
        ({"image_mean": 0.5, "image_std": 0.5}, (127.5,) * 3, (127.5,) * 3),
    ],
)
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_pixels_are_normalised_as_the_files_say(file, changes, mean, std, tmp_path):
    files = {name: content for name, content in layout_files("swin", "hub").items() if "processor" not in name}
    values = PREPROCESSOR | changes
    files[file] = json.dumps(values if file[:3] == "pre" else {"image_processor": values}).encode()
    protocol = weights.create_model(put(tmp_path, files)).config.protocol
    assert protocol.pixel_mean == pytest.approx(mean) and protocol.pixel_std == pytest.approx(std)
    assert protocol.hub_size == (384, 384)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_std": [0, 1, 1]}, r"\$\.image_std"),
        ({"image_mean": [0.5, 0.5]}, r"\$\.image_mean"),
        ({"size": {"height": 10**6, "width": 384}}, r"\$\.size"),
        ({"size": {"wide": 3}}, "size has 'wide'"),
        ({"size": {"shortest_edge": 800, "longest_edge": 10}}, "short_side=800, long_side=10"),
        ({"do_normalize": "false"}, r"\$\.do_normalize"),
    ],
)
def test_values_of_pre_processing(changes, message, tmp_path):
    source = put(tmp_path, layout_files("swin", "hub"))
    (source / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | changes))
    assert "preprocessor_config.json" in refused(source, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"name": "a", "is_thing": "false"}], r"class 0: \$\.is_thing: Expected `bool`"),
        (["a", "b", "a"], "the name 'a' is that of classes 0 and 2"),
        ([{"name": "a", "dataset_id": 1}, "b"], "dataset_id 1 is that of classes 0 and 1"),
        ([{"name": "a", "color": [1, 2]}], r"\$\.color"),
        ([{"name": "a", "color": [1, 2, -1]}], r"\$\.color\[2\]"),
        ([{"name": ""}], r"\$\.name"),
        ([{"name": "a", "colour": [1, 2, 3]}], "colour"),
        ([], "empty"),
        ({"a": 1}, "Expected `array`"),
        ([3], "got `int`"),
        ([{"name": "a", "dataset_id": 2**40}], "dataset_id"),
    ],
)
def test_files_of_classes(content, message, tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        class_list(tmp_path / "classes.json")
    assert "classes.json" in str(error.value)


def test_classes_given_in_python():
    assert class_list([ClassInfo("a"), "b"])[1] == ClassInfo("b", True, (0, 128, 0), 1)
    with pytest.raises(ValueError, match="the name 'a' is that of classes 0 and 1"):
        class_list(["a", ClassInfo("a")])
