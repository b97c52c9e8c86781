"""OneFormer against transformers in float64 and against the original's stored numbers; tasks and texts."""

import json
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mask2former.structures import TASKS
from oneformer import OneFormer, OneFormerConfig, text_encoder
from oneformer.tasks import task_tokens
from tests.conftest import SHARED, needs_shared
from weights.translate import layout_for

TOY = {
    "num_classes": 7,
    "num_queries": 12,
    "hidden_dim": 64,
    "mask_dim": 64,
    "num_heads": 4,
    "encoder_layers": 2,
    "encoder_feedforward_dim": 48,
    "decoder_layers": 4,
    "decoder_feedforward_dim": 96,
    "class_decoder_layers": 2,
}
TEXT = {"text_branch": True, "text_width": 64, "text_layers": 2, "text_vocabulary": 100, "text_contexts": 4}
SWIN = (
    "swin_tiny_patch4_window7_224",
    {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (2, 2, 4, 4), "window_size": 5},
)
DINAT = (
    "dinat_large",
    {
        "embed_dim": 16,
        "depths": (2, 2, 3, 2),
        "num_heads": (2, 2, 4, 4),
        "kernel_size": 5,
        "dilations": ((1, 4), (1, 3), (1, 2, 1), (1, 2)),
    },
)
RESNET = ("resnet50", {"layers": (1, 2, 1, 1), "channels": (8, 16, 16, 24)})
CONVNEXT = ("convnext_tiny", {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 48)})


def assert_close(actual, expected, tolerance):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


# --- transformers -----------------------------------------------------------------------------------------------------


def transformers_backbone(name):
    import transformers

    stages = ["stage1", "stage2", "stage3", "stage4"]
    if name == "swin":
        return SWIN, transformers.SwinConfig(
            embed_dim=16, depths=[2] * 4, num_heads=[2, 2, 4, 4], window_size=5, out_features=stages
        )
    if name == "resnet":
        return RESNET, transformers.ResNetConfig(
            embedding_size=64, hidden_sizes=[32, 64, 64, 96], depths=[1, 2, 1, 1], out_features=stages
        )
    return CONVNEXT, transformers.ConvNextConfig(
        hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1], out_features=stages
    )


def transformers_pair(name, folder):
    """transformers' model and ours with its weights, through its own file; noise on all that starts as 0 or 1."""
    transformers = pytest.importorskip("transformers")
    load_file = pytest.importorskip("safetensors.torch").load_file
    torch.manual_seed(0)
    backbone, backbone_config = transformers_backbone(name)
    theirs_config = transformers.OneFormerConfig(
        backbone_config=backbone_config,
        num_labels=TOY["num_classes"],
        num_queries=TOY["num_queries"],
        hidden_dim=TOY["hidden_dim"],
        conv_dim=TOY["hidden_dim"],
        mask_dim=TOY["mask_dim"],
        num_attention_heads=TOY["num_heads"],
        encoder_layers=TOY["encoder_layers"],
        encoder_feedforward_dim=TOY["encoder_feedforward_dim"],
        decoder_layers=TOY["decoder_layers"] + 1,  # it counts predictions
        dim_feedforward=TOY["decoder_feedforward_dim"],
        query_dec_layers=TOY["class_decoder_layers"],
        is_training=True,  # for the text branch…
        dropout=0.0,  # …but then its pixel decoder drops out even in eval mode
        text_encoder_width=TEXT["text_width"],
        text_encoder_num_layers=TEXT["text_layers"],
        text_encoder_vocab_size=TEXT["text_vocabulary"],
        text_encoder_n_ctx=TEXT["text_contexts"],
    )
    theirs = transformers.OneFormerForUniversalSegmentation(theirs_config).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for buffer_name, buffer in theirs.named_buffers():
            if "running" in buffer_name:
                buffer.uniform_(0.5, 2)
    theirs.save_pretrained(folder)
    native, unknown = layout_for("hub", "oneformer", name).to_native(load_file(folder / "model.safetensors"))
    native.pop("criterion.logit_scale")
    assert not unknown
    ours = OneFormer(OneFormerConfig(*backbone, **TOY, **TEXT)).double().eval()
    ours.load_state_dict(native)
    return theirs.model, ours


@pytest.fixture(scope="module", params=["swin", "resnet", "convnext"])
def pair(request, tmp_path_factory):
    return transformers_pair(request.param, tmp_path_factory.mktemp(request.param))


def stages(theirs, ours, size, task):
    """(name, ours, theirs) of every stage, on random pixels and texts, in the models' precision."""
    pixel_values = torch.randn(2, 3, *size, dtype=next(ours.parameters()).dtype)
    texts = torch.randint(0, TEXT["text_vocabulary"], (2, TOY["num_queries"] - TEXT["text_contexts"], 77))
    # transformers leaves the text encoder's causal mask out; the original's stored numbers below check it.
    without_mask = mock.patch.object(text_encoder, "causal_mask", lambda length, device: torch.ones(length, length) > 0)
    with torch.no_grad(), without_mask:
        expected = theirs(pixel_values, task_tokens(task, 2), texts, output_hidden_states=True)
        features = ours.backbone(pixel_values)
        mask_features, levels = ours.pixel_decoder(features)
        outputs = ours(pixel_values, task, texts)
    for i, (actual, reference) in enumerate(zip(features, expected.encoder_hidden_states, strict=True)):
        yield f"backbone map {i}", actual, reference
    decoded = zip((mask_features, *levels), expected.pixel_decoder_hidden_states, strict=True)
    for i, (actual, reference) in enumerate(decoded):
        yield f"pixel decoder output {i}", actual, reference
    yield "queries", outputs.contrastive_logits, expected.transformer_decoder_contrastive_queries
    yield "texts", outputs.text_features, expected.text_queries
    yield "class logits", outputs.class_logits, expected.transformer_decoder_class_predictions
    yield "mask logits", outputs.mask_logits, expected.transformer_decoder_mask_predictions
    earlier = zip(outputs.auxiliary, expected.transformer_decoder_auxiliary_predictions, strict=True)
    for i, (actual, reference) in enumerate(earlier):
        yield f"class logits of prediction {i}", actual.class_logits, reference["class_queries_logits"]
        yield f"mask logits of prediction {i}", actual.mask_logits, reference["masks_queries_logits"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [(64, 96), (97, 131)])
def test_parity_with_transformers(pair, size, task, forms):
    for _, actual, reference in stages(*pair, size, task):
        assert_close(actual, reference, 1e-9)


# --- The original -----------------------------------------------------------------------------------------------------

ORIGINAL_TOY = TOY | {"num_queries": 20, "encoder_feedforward_dim": 1024, "decoder_feedforward_dim": 128}
ORIGINAL = {
    "oneformer_swin": OneFormerConfig(*SWIN, **ORIGINAL_TOY, **TEXT | {"text_vocabulary": 400}),
    "oneformer_dinat": OneFormerConfig(*DINAT, **ORIGINAL_TOY),
}


def load_original(name):
    """Our model with the original's weights, and the folder of its stored numbers."""
    folder = SHARED / "reference" / name
    checkpoint = torch.load(folder / "model_final.pth", weights_only=True)["model"]
    native, unknown = layout_for("original", "oneformer", name.removeprefix("oneformer_")).to_native(checkpoint)
    native.pop("criterion.logit_scale")
    assert not unknown
    model = OneFormer(ORIGINAL[name]).eval()
    model.load_state_dict(native)
    return model, folder


@pytest.fixture(scope="module", params=ORIGINAL)
def original(request):
    return load_original(request.param)


def padded_batch(stored):
    """The stored photos, normalised and then padded with zeros to a common multiple of 32."""
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    photos = [(torch.from_numpy(stored[name]) - mean) / std for name in ("img0", "img1") if name in stored]
    height, width = (-(-max(photo.shape[axis] for photo in photos) // 32) * 32 for axis in (0, 1))
    photos = [F.pad(p.permute(2, 0, 1), (0, width - p.shape[1], 0, height - p.shape[0])) for p in photos]
    return torch.stack(photos)


# Their float32 against ours; a wrong attention bit, task or padding shows as 1e-1 and more.
CLASS_TOLERANCE, MASK_TOLERANCE = 2e-4, 1e-3


def assert_predictions(outputs, stored, prefix):
    assert (outputs.class_logits - torch.from_numpy(stored[prefix + "pred_logits"])).abs().max() <= CLASS_TOLERANCE
    assert (outputs.mask_logits - torch.from_numpy(stored[prefix + "pred_masks"])).abs().max() <= MASK_TOLERANCE


def stages_of_original(model, folder, name):
    """(name, ours, theirs) of everything that is stored for one photo or two."""
    stored = np.load(folder / f"{name}.npz")
    texts = json.loads((folder / f"{name}_segments_info.json").read_text())["tasks"]
    tasks = [text.split()[-1] for text in texts]
    pixel_values = padded_batch(stored)
    assert torch.equal(task_tokens(tasks, len(tasks)), torch.from_numpy(stored["task_tokens"]))
    with torch.no_grad():
        features = model.backbone(pixel_values)
        mask_features, levels = model.pixel_decoder(features)
        outputs = model(pixel_values, tasks)
        found = {"task_embed": model.task_token(tasks, len(tasks))}
    found |= {f"feat_res{i + 2}": feature for i, feature in enumerate(features)} | {"mask_features": mask_features}
    found |= {f"multi_scale_{i}": level for i, level in enumerate(levels)}
    if model.config.text_branch:
        found["contrastive_logits"] = outputs.contrastive_logits
    found |= {"pred_logits": outputs.class_logits, "pred_masks": outputs.mask_logits}
    for i, prediction in enumerate(outputs.auxiliary):
        found |= {f"aux_{i}_pred_logits": prediction.class_logits, f"aux_{i}_pred_masks": prediction.mask_logits}
    return [(name, ours, torch.from_numpy(stored[name])) for name, ours in found.items()]


@needs_shared
@pytest.mark.parametrize("name", ["single", "pair"])
def test_against_the_original(original, name, forms):
    relative = {"task_embed": 1e-6, "mask_features": 2e-5}  # 1e-5 for the other features
    absolute = {"pred_logits": CLASS_TOLERANCE, "pred_masks": MASK_TOLERANCE}
    for what, ours, theirs in stages_of_original(*original, name):
        kind = next((kind for kind in absolute if what.endswith(kind)), None)
        if kind:
            assert (ours - theirs).abs().max() <= absolute[kind], what
        else:
            assert_close(ours, theirs, relative.get(what, 1e-5))


@needs_shared
@pytest.mark.parametrize("task", TASKS)
def test_each_task_against_the_original(original, task):
    model, folder = original
    pixel_values = padded_batch({"img0": np.load(folder / "single.npz")["img0"]})
    with torch.no_grad():
        assert_predictions(model(pixel_values, task), np.load(folder / "tasks.npz"), f"{task}_")


@needs_shared
@pytest.mark.parametrize("original", ["oneformer_swin"], indirect=True)
def test_texts_against_the_original(original):
    model, folder = original
    stored = np.load(folder / "text.npz")
    with torch.no_grad():
        features = model.encode_texts(torch.from_numpy(stored["tokens"]))
    assert_close(features, torch.from_numpy(stored["texts"]), 1e-5)


# --- Tasks and texts --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[SWIN, DINAT], ids=["swin", "dinat"])
def model(request):
    torch.manual_seed(0)
    return OneFormer(OneFormerConfig(*request.param, **TOY, **TEXT)).eval()


def some_texts(images=2):
    return torch.randint(0, TEXT["text_vocabulary"], (images, TOY["num_queries"] - TEXT["text_contexts"], 77))


def test_a_mixed_batch_is_each_image_with_its_task(model):
    model = OneFormer(model.config).double().eval()
    pixel_values = torch.randn(3, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        mixed = model(pixel_values, list(TASKS))
        for i, task in enumerate(TASKS):
            alone = model(pixel_values[i : i + 1], task)
            assert_close(mixed.class_logits[i : i + 1], alone.class_logits, 1e-9)
            assert_close(mixed.mask_logits[i : i + 1], alone.mask_logits, 1e-9)
        assert (mixed.class_logits[0] - model(pixel_values, "instance").class_logits[0]).abs().max() > 1e-3


def test_free_token_ids_are_a_task(model):
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        named = model(pixel_values, "semantic").class_logits
        assert torch.equal(model(pixel_values, task_tokens("semantic", 1)).class_logits, named)
        free = torch.randint(0, 49408, (1, 77))
        assert not torch.equal(model(pixel_values, free).class_logits, named)


def test_the_parts_make_three_tasks_of_one_backbone_pass(model):
    pixel_values = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        mask_features, levels = model.pixel_decoder(model.backbone(pixel_values))
        for task in TASKS:
            outputs = model.transformer_decoder(levels, mask_features, model.task_token(task, 1))
            assert torch.equal(outputs.class_logits, model(pixel_values, task).class_logits)


def test_the_task_token_is_the_last_query(model):
    with torch.no_grad():
        queries = model(torch.randn(2, 3, 64, 64), "panoptic").contrastive_logits
        token = model.transformer_decoder.norm(model.task_token("panoptic", 2))
    assert queries.shape == (2, TOY["num_queries"], TOY["hidden_dim"])
    assert torch.equal(queries[:, -1], token)


def test_an_unknown_task_names_the_three(model):
    with pytest.raises(ValueError, match=r"'panoptic', 'instance', 'semantic'"):
        model(torch.randn(1, 3, 64, 64), "stuff")


def test_every_parameter_learns_with_texts(model):
    model = OneFormer(model.config).train()
    outputs = model(torch.randn(2, 3, 97, 131), ["panoptic", "instance"], some_texts())
    predictions = (*outputs.auxiliary, outputs)
    loss = sum(p.class_logits.square().mean() + p.mask_logits.square().mean() for p in predictions)
    (loss + outputs.text_features.square().mean()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_dropout_acts_in_training_only(model):
    trained = OneFormer(model.config).train()
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(trained(pixel_values).class_logits, trained(pixel_values).class_logits)
        trained.eval()
        assert torch.equal(trained(pixel_values).class_logits, trained(pixel_values).class_logits)


def test_texts_need_the_text_branch(model):
    plain = OneFormer(OneFormerConfig(*SWIN, **TOY))
    assert not [name for name in plain.state_dict() if name.startswith("text_")]
    with pytest.raises(ValueError, match="text_branch=True"):
        plain(torch.randn(2, 3, 32, 32), "panoptic", some_texts())
    with pytest.raises(ValueError, match=r"expected \(images, 8, 77\)"):
        model(torch.randn(2, 3, 32, 32), "panoptic", some_texts()[:, 1:])
    with pytest.raises(ValueError, match="texts of 1 images for 2"):
        model(torch.randn(2, 3, 32, 32), "panoptic", some_texts(1))


def test_half_precision_runs(model):
    pixel_values = torch.randn(2, 3, 64, 96)
    half = OneFormer(model.config).bfloat16().eval()
    half.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model(pixel_values, "panoptic", some_texts())
        outputs = half(pixel_values.bfloat16(), "panoptic", some_texts())
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(pixel_values, "panoptic", some_texts())
    for logits in (outputs.class_logits, mixed.class_logits):
        assert logits.dtype == torch.bfloat16
        assert (logits.float() - expected.class_logits).abs().mean() < 0.1 * expected.class_logits.abs().mean()


@pytest.mark.slow
def test_compiles_without_graph_breaks(model):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    pixel_values, texts = torch.randn(1, 3, 64, 96), some_texts(1)
    with torch.no_grad():
        expected, actual = model(pixel_values, "semantic", texts), compiled(pixel_values, "semantic", texts)
    assert_close(actual.class_logits, expected.class_logits, 1e-4)
    assert_close(actual.mask_logits, expected.mask_logits, 1e-4)
    assert_close(actual.text_features, expected.text_features, 1e-4)


def test_builds_without_storage():
    with torch.device("meta"):
        large = OneFormer(OneFormerConfig("dinat_large", num_classes=150, num_queries=250, text_branch=True))
    assert large.backbone.channels == (192, 384, 768, 1536)
    assert 220e6 < sum(p.numel() for p in large.parameters()) < 260e6


@pytest.mark.parametrize("backbone", ["dinat_giant", "swin_gigantic"])
def test_unknown_backbones(backbone):
    with pytest.raises(ValueError, match=backbone):
        OneFormer(OneFormerConfig(backbone, **TOY))


def test_dinat_has_no_pretrained_backbone():
    with pytest.raises(ValueError, match="no ImageNet weights"):
        OneFormer(OneFormerConfig(*DINAT, **TOY), pretrained_backbone=True)


def test_the_config_survives_json():
    config = OneFormerConfig(*DINAT, **TOY, **TEXT)
    again = OneFormerConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert OneFormer(again).state_dict().keys() == OneFormer(config).state_dict().keys()
    assert again.to_dict()["family"] == "oneformer"
    assert OneFormerConfig.from_dict(again.to_dict()) == again


@pytest.mark.parametrize(
    "changes",
    [
        {"num_queries": 1},
        {"task_sequence_length": 6},
        {"text_width": 65},
        {"text_contexts": 12},
        {"class_decoder_layers": -1},
    ],
)
def test_impossible_sizes(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        OneFormerConfig(**TOY | TEXT | changes)


def test_a_free_list_of_token_ids_is_a_task():
    """A list of 77 ids, or a tensor (77,), for all images; the same as the row of a known task."""
    known = task_tokens("panoptic", 2)
    assert torch.equal(task_tokens(known[0].tolist(), 2), known)
    assert torch.equal(task_tokens(known[0], 2), known)
    with pytest.raises(ValueError, match="77"):
        task_tokens([49406, 49407], 2)
