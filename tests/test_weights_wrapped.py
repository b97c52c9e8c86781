"""Checkpoints as people save them: what wrappers put around weights is taken off and said; the rest has a way out."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import weights
from tests.test_weights_load import toy
from weights.checkpoint import Checkpoint, write_hub, write_original
from weights.wrapped import unwrapped


@pytest.fixture(scope="module")
def model():
    return toy()


@pytest.fixture
def original(model, tmp_path):
    """The names and tensors of an original file."""
    write_original(Checkpoint(model.config, dict(model.state_dict()), "toy"), tmp_path / "plain.pth")
    return torch.load(tmp_path / "plain.pth", weights_only=True)["model"]


def same(read, model):
    mine, theirs = (m.state_dict() for m in (read, model))
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model.module.", "net."]
)
@pytest.mark.parametrize("inside", ["model", "state_dict", None])
def test_what_is_known_is_taken_off_with_one_warning(prefix, inside, model, original, tmp_path):
    state = {prefix + name: tensor for name, tensor in original.items()}
    torch.save({inside: state, "epoch": 3, "lr": [0.1]} if inside else state, tmp_path / "wrapped.pth")
    with pytest.warns(UserWarning, match="taken off the names of its entries") as said:
        read = weights.create_model(tmp_path / "wrapped.pth")
    assert same(read, model)
    assert sum("taken off" in str(w.message) for w in said) == 1
    assert sum("under 'state_dict'" in str(w.message) for w in said) == (inside == "state_dict")


def test_parts_that_were_compiled(model, original, tmp_path):
    torch.save(
        {name.replace("backbone.", "backbone._orig_mod.", 1): t for name, t in original.items()}, tmp_path / "a.pt"
    )
    with pytest.warns(UserWarning, match="'_orig_mod.' taken off"):
        assert same(weights.create_model(tmp_path / "a.pt"), model)


def test_a_lightning_checkpoint(model, original, tmp_path):
    state = {f"model.{name}": tensor for name, tensor in original.items()}
    content = {"epoch": 1, "global_step": 9, "pytorch-lightning_version": "2.5", "state_dict": state, "loops": {"a": 1}}
    torch.save({**content, "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}]}, tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match="under 'state_dict'"):
        assert same(weights.create_model(tmp_path / "last.ckpt"), model)


def test_a_numpy_scalar_beside_detectron2s_weights(model, original, tmp_path):
    import pickle

    arrays = {name: tensor.numpy() for name, tensor in original.items()}
    content = {"model": arrays, "iteration": np.int64(90000), "best": np.float32(0.5), "__author__": "third party"}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    assert same(weights.create_model(tmp_path / "a.pkl"), model)


def test_folders_of_wrapped_weights(model, tmp_path):
    write_hub(Checkpoint(model.config, dict(model.state_dict()), "toy"), tmp_path)
    state = {f"_orig_mod.{name}": tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="'_orig_mod.' taken off"):
        assert same(weights.create_model(tmp_path, classes=list(model.config.classes)), model)


def test_plain_files_are_read_without_a_word(original, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights.create_model(tmp_path / "plain.pth")


def test_two_entries_of_one_name():
    with pytest.raises(weights.CheckpointError, match="two entries are 'a' without"):
        unwrapped({"a": torch.zeros(1), "_orig_mod.a": torch.ones(1)}, "x.pth")


def test_what_is_another_thing_names_the_way_out(model, original, tmp_path):
    ours = dict(model.state_dict())
    lora = {"backbone.layers.0.attn.qkv.lora_A.default.weight": torch.zeros(4, 4)}
    run = {"step": 3, "module": ours, "optimizer": {}, "settings": {}, "scaler": {}, "average": None, "config": {}}
    write_hub(Checkpoint(model.config, ours, "toy"), tmp_path / "hub")
    cases = {
        "ours.pth": (ours, r"this library's own network's: `create_model\(…\)`"),
        "hub.pth": (load_file(tmp_path / "hub" / "model.safetensors"), "a transformers model's: take the folder"),
        "lora.pth": (lora, "adapters .LoRA. that are not merged"),
        "checkpoint.pt": (run, r"what a training run needs to continue .*its model is in .*model"),
        "other.pth": ({"conv1.weight": torch.zeros(3)}, r"tell no backbone \('conv1.weight', …\)"),
        "numbers.pth": ({"epoch": 3}, r"expected a dict of tensors, or one under 'model'.*found 'epoch' \(int\)"),
        "empty.pth": ({}, "found nothing"),
    }
    for name, (content, said) in cases.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(weights.CheckpointError, match=said) as error:
            weights.create_model(tmp_path / name)
        assert name in str(error.value)


def test_folders_of_other_things(tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(weights.CheckpointError, match="lora.* holds an adapter .LoRA., no model: merge it first"):
        weights.create_model(tmp_path / "lora")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": ["oneformer"]}))
    with pytest.raises(weights.CheckpointError, match="model_type is .'oneformer'.; expected"):
        weights.create_model(tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "segformer"}))
    save_file({"a": torch.zeros(1)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(weights.CheckpointError, match="segformer.*expected 'mask2former' or 'oneformer'"):
        weights.create_model(tmp_path / "other")
    save_file({"a": torch.zeros(1)}, tmp_path / "alone.safetensors")
    with pytest.raises(weights.CheckpointError, match="alone.safetensors: .*the folder that it lies in"):
        weights.create_model(tmp_path / "alone.safetensors")


def test_the_page_has_the_messages_that_are_said():
    """Each message of docs/does_not_load.md stands in the code, but for what is filled in."""
    root = Path(__file__).resolve().parents[1]
    sources = [*(root / "weights").glob("*.py"), root / "mask2former/schema.py"]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(file.read_text(encoding="utf-8") for file in sources))
    code = re.sub(r"\{[^{}\n]*\}", "…", code).replace("\\", "")
    column = {"Read": 2, "Refused": 1}
    messages, part = [], ""
    for line in (root / "docs/does_not_load.md").read_text(encoding="utf-8").splitlines():
        part = next((name for name in column if line.startswith(f"## {name}")), part)
        if part and line.startswith("| ") and not line.startswith(("| ---", "| the ")):
            messages += re.findall(r"`([^`]+)`", line.split("|")[column[part]])
    assert len(messages) > 25
    unsaid = []
    for message in messages:
        if message in ("module.", "model.", "net.") or message.startswith("$"):
            continue
        fragments = [text.strip() for text in re.split(r"…|'[^']*'|\d+", message) if len(text.strip()) > 3]
        unsaid += [fragment for fragment in fragments if fragment not in code] or [message] * (not fragments)
    assert not unsaid
