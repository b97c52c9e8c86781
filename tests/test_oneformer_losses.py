"""OneFormer's criterion and targets against the authors' code, transformers, and across processes."""

import math
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F

from mask2former.structures import ClassInfo, Targets
from mask2former.training.losses import Criterion
from oneformer import losses
from oneformer.losses import OneFormerCriterion, contrastive_loss, gather
from oneformer.targets import TaskDataset, task_targets, task_texts
from tests.conftest import needs_shared
from tests.test_losses import CASES, Reference, random_outputs, random_targets


def compared_with_authors(case):
    """(name, ours, theirs) of every term and of their weighted sum, and the same of some gradients."""
    reference = Reference("losses_oneformer", case)
    arrays = reference.arrays
    reference.outputs.contrastive_logits = arrays["contrastive_logits"].requires_grad_()
    reference.outputs.text_features = arrays["texts"].requires_grad_()
    criterion = OneFormerCriterion(Criterion(7, num_points=96))
    torch.testing.assert_close(criterion.logit_scale.detach(), arrays["logit_scale"])
    terms, total = criterion(reference.outputs, reference.targets, points=reference.points)
    assert len(terms) == 10
    values = [("total", total, arrays["total_weighted"])]
    for name, value in arrays.items():
        if name.startswith("loss/"):
            kind, *layer = name.removeprefix("loss/loss_").split("_")
            term = "_".join(["class" if kind == "ce" else kind, *layer])
            values.append((term, terms[term], value))
    total.backward()
    found = {
        "logit_scale": criterion.logit_scale,
        "contrastive_logits": reference.outputs.contrastive_logits,
        "texts": reference.outputs.text_features,
        "aux_1_pred_masks": reference.masks[1],
        "pred_logits": reference.logits[2],
    }
    return values, [(name, leaf.grad, arrays[f"grad_{name}"]) for name, leaf in found.items()]


@needs_shared
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_the_authors(case):
    values, gradients = compared_with_authors(case)
    assert len(values) == 11
    for name, ours, theirs in values:
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=0 if name == "total" else 1e-7)
    for name, ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs, rtol=1e-5 if name == "logit_scale" else 1e-4, atol=1e-7)


def contrast_with_transformers():
    """(ours, theirs) of the loss, and the same of its gradients for queries, texts and temperature; float64."""
    modeling = pytest.importorskip("transformers.models.oneformer.modeling_oneformer")
    theirs = modeling.OneFormerLoss(5, None, {}, 0.1, 8, 3.0, 0.75, contrastive_temperature=0.07).double()
    queries, texts = (torch.randn(4, 6, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    scale = theirs.logit_scale
    with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):  # it casts the queries to float32
        expected = theirs.loss_contrastive(queries, texts)["loss_contrastive"]
    ours = contrastive_loss(queries, texts, scale)
    found, wanted = (torch.autograd.grad(loss, (queries, texts, scale)) for loss in (ours, expected))
    return (ours, expected), list(zip(found, wanted, strict=True))


def test_contrastive_loss_and_gradients_equal_transformers_in_float64():
    (ours, theirs), gradients = contrast_with_transformers()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for mine, reference in gradients:
        assert (mine - reference).abs().max() <= 1e-9 * reference.abs().max()


def test_the_logit_scale_is_bounded():
    queries, texts = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    assert contrastive_loss(queries, texts, torch.tensor(9.0)) == contrastive_loss(queries, texts, torch.tensor(7.0))
    assert contrastive_loss(queries, texts, torch.tensor(9.0)) != contrastive_loss(queries, texts, torch.tensor(2.0))


def one_process(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    everything = [torch.randn(4, 3, 5, dtype=torch.float64) for _ in range(2)]
    mine = [x[2 * rank : 2 * rank + 2].clone().requires_grad_() for x in everything]
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    loss = contrastive_loss(*mine, scale)
    loss.backward()
    torch.save((loss.detach(), [x.grad for x in mine], scale.grad), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_contrast_with_each_others_images(tmp_path):
    """The mean over two processes is the loss of the joint batch, and so are the gradients."""
    multiprocessing.spawn(one_process, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    everything = [torch.randn(4, 3, 5, dtype=torch.float64).requires_grad_() for _ in range(2)]
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    joint = contrastive_loss(*everything, scale)
    joint.backward()
    (loss0, grads0, scale0), (loss1, grads1, scale1) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.testing.assert_close((loss0 + loss1) / 2, joint.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close((scale0 + scale1) / 2, scale.grad, rtol=1e-10, atol=0)
    for first, second, x in zip(grads0, grads1, everything, strict=True):
        torch.testing.assert_close(torch.cat([first, second]) / 2, x.grad, rtol=1e-10, atol=1e-14)


def test_the_second_process_looks_for_its_own_texts_behind_the_first_ones(monkeypatch):
    """By hand: of four images two are this process's; each must find its text in the third and fourth place."""
    queries, texts = (torch.randn(4, 3, 5, dtype=torch.float64) for _ in range(2))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    everyone = iter([F.normalize(x.flatten(1)) for x in (texts, queries)])
    monkeypatch.setattr(losses, "gather", lambda own: next(everyone))  # asked for texts first
    found = contrastive_loss(queries[2:], texts[2:], torch.tensor(1.0, dtype=torch.float64))
    similar = F.normalize(queries.flatten(1)) @ F.normalize(texts.flatten(1)).T * math.e
    expected = -(similar.log_softmax(1) + similar.T.log_softmax(1)).diagonal()[2:].mean()
    torch.testing.assert_close(found, expected)


def test_vectors_of_all_processes_stand_in_the_order_of_their_ranks(monkeypatch):
    own = torch.randn(2, 3)
    assert gather(own) is own
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    assert gather(own) is own
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist_functional, "all_gather", lambda x: (x + 1, x))
    assert torch.equal(gather(own), torch.cat([own + 1, own]))


@pytest.mark.parametrize(
    "missing", [["text_features"], ["contrastive_logits"], ["text_features", "contrastive_logits"]]
)
def test_outputs_without_texts_are_refused(missing):
    outputs = random_outputs()
    outputs.contrastive_logits, outputs.text_features = torch.randn(2, 2, 9, 6).unbind()
    for name in missing:
        setattr(outputs, name, None)
    with pytest.raises(ValueError, match="text_branch=True"):
        OneFormerCriterion(Criterion(5, num_points=30))(outputs, random_targets(1, 2))


def test_a_contrast_that_is_not_finite_is_named():
    outputs = random_outputs()
    outputs.contrastive_logits, outputs.text_features = torch.randn(2, 2, 9, 6).unbind()
    outputs.text_features[1, 3, 2] = torch.nan
    with pytest.raises(FloatingPointError, match="contrastive loss of 2 images is nan"):
        OneFormerCriterion(Criterion(5, num_points=30))(outputs, random_targets(1, 2))


CLASSES = [ClassInfo("cat"), ClassInfo("sky", is_thing=False), ClassInfo("dog"), ClassInfo("grass", is_thing=False)]
IS_THING = torch.tensor([c.is_thing for c in CLASSES])


def panoptic_targets():
    masks = torch.zeros(5, 4, 5, dtype=torch.bool)
    for segment in range(5):
        masks[segment, :, segment] = True
    return Targets(torch.tensor([2, 1, 2, 3, 0]), masks)


def test_one_annotation_gives_the_targets_of_each_task():
    targets = panoptic_targets()
    assert task_targets(targets, IS_THING, "panoptic") is targets
    things = task_targets(targets, IS_THING, "instance")
    assert things.labels.tolist() == [2, 2, 0] and torch.equal(things.masks, targets.masks[[0, 2, 4]])
    classes = task_targets(targets, IS_THING, "semantic")
    assert classes.labels.tolist() == [0, 1, 2, 3]
    assert torch.equal(classes.masks[2], targets.masks[0] | targets.masks[2])
    assert torch.equal(targets.masks.sum(0), torch.ones(4, 5))  # the annotation itself is untouched
    nothing = task_targets(Targets(targets.labels[:0], targets.masks[:0]), IS_THING, "semantic")
    assert nothing.masks.shape == (0, 4, 5)
    with pytest.raises(ValueError, match="task 'things': expected one of"):
        task_targets(targets, IS_THING, "things")


def test_texts_follow_the_order_of_classes_and_are_filled_up():
    names, labels = [c.name for c in CLASSES], panoptic_targets().labels
    assert task_texts(labels, names, "panoptic", 7) == [
        "a photo with a cat",
        "a photo with a sky",
        "a photo with a dog",
        "a photo with a dog",
        "a photo with a grass",
        "a panoptic photo",
        "a panoptic photo",
    ]
    assert task_texts(labels[:0], names, "instance", 2) == ["an instance photo"] * 2
    assert task_texts(labels[:0], names, "semantic", 1) == ["a semantic photo"]
    assert task_texts(labels, names, "panoptic", 2) == ["a photo with a cat", "a photo with a sky"]


def test_tasks_are_drawn_uniformly_or_fixed():
    class OnePicture(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return torch.zeros(3, 4, 5), panoptic_targets()

    def tokenize(texts):
        return torch.tensor([[len(text)] * 77 for text in texts])

    dataset = TaskDataset(OnePicture(), CLASSES, tokenize, 6)
    drawn = [dataset[0] for _ in range(300)]
    assert all(texts.shape == (6, 77) for *_, texts in drawn)
    assert {(task, len(targets.labels)) for _, targets, task, _ in drawn} == {
        ("panoptic", 5),
        ("instance", 3),
        ("semantic", 4),
    }
    assert all(70 < sum(task == name for _, _, task, _ in drawn) < 130 for name in ("panoptic", "instance", "semantic"))
    only = TaskDataset(OnePicture(), CLASSES, tokenize, 6, tasks=("semantic",))
    assert {only[0][2] for _ in range(10)} == {"semantic"}
    with pytest.raises(ValueError, match="task 'detection'"):
        TaskDataset(OnePicture(), CLASSES, tokenize, 6, tasks=("detection",))
