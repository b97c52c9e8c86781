"""The criterion against the authors' code, against transformers, and where training usually breaks."""

import warnings
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mask2former.structures import Outputs, Targets
from mask2former.training.losses import Criterion, average_over_processes
from mask2former.training.matcher import assign, matching_costs, require_finite
from mask2former.training.points import (
    Points,
    bilinear_corners,
    random_points,
    sample_maps,
    sample_rows,
    smallest,
    uncertain_points,
)
from tests.conftest import SHARED, needs_shared

CASES = ("default", "empty_second")


class Reference:
    """One stored run of the authors' criterion, in our own types: predictions in order, the final one last."""

    def __init__(self, folder, case):
        arrays = np.load(SHARED / "reference" / folder / f"{case}.npz")
        self.arrays = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        self.prefixes = ("aux_0_", "aux_1_", "")  # ours
        self.names = {"": "final", "aux_0_": "aux_0", "aux_1_": "aux_1"}
        self.targets = [Targets(self.arrays[f"tgt{b}_labels"], self.arrays[f"tgt{b}_masks"].bool()) for b in range(2)]
        self.logits = [self.arrays[f"{p}pred_logits"].requires_grad_() for p in self.prefixes]
        self.masks = [self.arrays[f"{p}pred_masks"].requires_grad_() for p in self.prefixes]
        self.outputs = outputs_of(self.logits, self.masks)
        self.points = [self.image_points(b) for b in range(2)]

    def match(self, prefix, image):
        return tuple(self.arrays[f"match_{self.names[prefix]}_img{image}_{side}"] for side in ("src", "tgt"))

    def image_points(self, image):
        """They drew prediction by prediction, the final one first, masks of the whole batch in matched order."""
        found = {"matching": [], "oversampled": [], "uniform": []}
        first = 0 if image == 0 else len(self.targets[0].labels)
        for prefix in self.prefixes:
            call = 4 * ("", "aux_0_", "aux_1_").index(prefix)
            target_of_row = self.match(prefix, image)[1]
            rows = first + target_of_row.argsort()
            found["matching"].append(self.arrays[f"rand_{call + image:02}"][0])
            found["oversampled"].append(self.arrays[f"rand_{call + 2:02}"][rows])
            found["uniform"].append(self.arrays[f"rand_{call + 3:02}"][rows])
        return Points(**{name: torch.stack(values) for name, values in found.items()})


def outputs_of(logits, masks):
    """Outputs whose mask logits are `masks`: every prediction's masks are channels, its embeddings pick them."""
    Q = masks[0].shape[1]
    features = torch.cat(masks, dim=1)  # (B, L * Q, h, w)
    picks = torch.eye(features.shape[1], dtype=features.dtype).expand(len(features), -1, -1).split(Q, dim=1)
    *auxiliary, final = (Outputs(x, e, features) for x, e in zip(logits, picks, strict=True))
    final.auxiliary = tuple(auxiliary)
    return final


def compared_with_authors(case):
    """(name, ours, theirs) of every term and of their weighted sum, and the same of the gradients of all logits."""
    reference = Reference("losses_m2f", case)
    terms, total = Criterion(7, num_points=96)(reference.outputs, reference.targets, points=reference.points)
    assert len(terms) == 9
    values = [("total", total, reference.arrays["total_weighted"])]
    for name, value in reference.arrays.items():
        if name.startswith("loss/"):
            kind, *layer = name.removeprefix("loss/loss_").split("_")
            name = "_".join(["class" if kind == "ce" else kind, *layer])
            values.append((name, terms[name], value))
    total.backward()
    gradients = []
    for prefix, logits, masks in zip(reference.prefixes, reference.logits, reference.masks, strict=True):
        gradients += [
            (f"{prefix}{kind}", leaf.grad, reference.arrays[f"grad_{prefix}{kind}"])
            for kind, leaf in (("pred_logits", logits), ("pred_masks", masks))
        ]
    return values, gradients


@needs_shared
@pytest.mark.parametrize("case", CASES)
def test_losses_matches_and_gradients_equal_the_authors(case):
    values, gradients = compared_with_authors(case)
    assert len(values) == 10 and len(gradients) == 6
    for name, ours, theirs in values:
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=0 if name == "total" else 1e-7)
    for _, ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@needs_shared
@pytest.mark.parametrize("case", CASES)
def test_costs_and_assignments_equal_the_authors(case):
    reference = Reference("losses_m2f", case)
    weights = torch.tensor([2.0, 5.0, 5.0])
    for image, target in enumerate(reference.targets):
        outputs = [*reference.outputs.auxiliary, reference.outputs]
        costs = matching_costs(
            torch.stack([o.class_logits[image] for o in outputs]),
            torch.stack([o.mask_embeddings[image] for o in outputs]),
            reference.outputs.mask_features[image],
            target.labels,
            target.masks,
            reference.points[image].matching,
        )
        queries = assign(costs, (2.0, 5.0, 5.0))
        for layer, prefix in enumerate(reference.prefixes):
            expected = reference.arrays[f"cost_{reference.names[prefix]}_img{image}"]
            torch.testing.assert_close((costs[layer] * weights[:, None, None]).sum(0), expected, rtol=1e-5, atol=1e-5)
            source, index = reference.match(prefix, image)
            assert queries[layer].tolist() == source[index.argsort()].tolist()


def random_outputs(B=2, Q=9, K=5, C=6, size=(12, 16), auxiliary=2, dtype=torch.float64, scale=3.0):
    features = (torch.randn(B, C, *size, dtype=dtype) * scale).requires_grad_()
    made = [
        Outputs(
            torch.randn(B, Q, K + 1, dtype=dtype).requires_grad_(),
            torch.randn(B, Q, C, dtype=dtype).requires_grad_(),
            features,
        )
        for _ in range(auxiliary + 1)
    ]
    made[-1].auxiliary = tuple(made[:-1])
    return made[-1]


def leaves(outputs):
    everything = (*outputs.auxiliary, outputs)
    return [outputs.mask_features, *(t for o in everything for t in (o.class_logits, o.mask_embeddings))]


def random_targets(*counts, K=5, size=(48, 64)):
    return [Targets(torch.randint(0, K, (n,)), F.interpolate(torch.randn(1, n, 6, 8), size)[0] > 0) if n
            else Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, *size, dtype=torch.bool))
            for n in counts]  # fmt: skip


def compared_with_transformers(counts):
    """(name, ours, theirs) of every term, and the same of the gradients of all leaves; float64, the same points."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

    P = 40
    outputs, targets = random_outputs(), random_targets(*counts)
    predictions = (*outputs.auxiliary, outputs)
    draws = torch.rand(2, 3, 3 * P, 2, dtype=torch.float64)  # matching and chosen points of each prediction
    order = iter([2, 0, 1])  # transformers takes the final prediction first
    state = {}

    def scripted(*shape, **_):
        """Every mask of a prediction sees the same points, so that the order of matched pairs does not matter."""
        masks, points, _ = shape
        if points == P:  # the matcher, image by image
            state["image"] = state.get("image", -1) + 1
            if state["image"] % 2 == 0:
                state["layer"] = next(order)
            return draws[0, state["layer"], :P].expand(1, -1, -1)
        if points == 3 * P:
            return draws[1, state["layer"]].repeat(masks, 1, 1)
        return draws[0, state["layer"], P : P + points].repeat(masks, 1, 1)

    config = transformers.Mask2FormerConfig(
        num_labels=5, train_num_points=P, class_weight=2.0, mask_weight=5.0, dice_weight=5.0, no_object_weight=0.1
    )
    loss = Mask2FormerLoss(config, {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}).double()
    full = [p.mask_logits for p in predictions]
    with mock.patch.object(torch, "rand", scripted):
        theirs = loss(
            full[-1],
            outputs.class_logits,
            [t.masks.double() for t in targets],
            [t.labels for t in targets],
            [
                {"masks_queries_logits": m, "class_queries_logits": o.class_logits}
                for m, o in zip(full, outputs.auxiliary, strict=False)
            ],
        )
    weights = {"cross_entropy": 2.0, "mask": 5.0, "dice": 5.0}
    their_total = sum(v * weights[k.removeprefix("loss_").rstrip("_0123456789")] for k, v in theirs.items())
    expected = torch.autograd.grad(their_total, leaves(outputs))

    points = [
        Points(
            draws[0, :, :P],
            draws[1][:, None].repeat(1, n, 1, 1),
            draws[0][:, None, P : P + P // 4].repeat(1, n, 1, 1),
        )
        for n in counts
    ]
    terms, total = Criterion(5, num_points=P)(outputs, targets, points=points)
    assert len(terms) == len(theirs) == 9
    names = {name: name.removeprefix("loss_").replace("cross_entropy", "class") for name in theirs}
    values = [(ours, terms[ours], theirs[name]) for name, ours in names.items()]
    found = torch.autograd.grad(total, leaves(outputs))
    return values, [(f"leaf {i}", *pair) for i, pair in enumerate(zip(found, expected, strict=True))]


@pytest.mark.parametrize("counts", [(3, 5), (9, 0), (0, 0)])
def test_losses_and_gradients_equal_transformers_in_float64(counts):
    values, gradients = compared_with_transformers(counts)
    for _, ours, theirs in values:
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    for _, ours, theirs in gradients:
        assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()


def test_sampling_rows_is_grid_sample_of_the_map_borders_included():
    maps = torch.randn(5, 7, 9, dtype=torch.float64)
    corners = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    points = torch.cat([corners, torch.rand(200, 2, dtype=torch.float64)])
    expected = F.grid_sample(maps[None], (2 * points - 1)[None, :, None], align_corners=False)[0, :, :, 0]
    ours = sample_rows(maps.flatten(1).T.contiguous(), (7, 9), points)
    torch.testing.assert_close(ours, expected.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(sample_maps(maps, points.expand(5, -1, -1)), expected, rtol=0, atol=1e-12)
    indices, weights = bilinear_corners(points, 7, 9)
    assert indices.min() >= 0 and indices.max() < 63 and weights.min() >= 0


def test_uncertain_points_are_those_nearest_to_the_boundary():
    ramp = torch.linspace(-1, 1, 64).expand(1, 8, 64).contiguous()  # 0 in the middle column
    oversampled = torch.rand(1, 400, 2)
    oversampled[..., 1] = 0.5  # away from the border, where values fade to 0
    chosen = uncertain_points(ramp, oversampled, torch.zeros(1, 10, 2), 110)
    assert chosen.shape == (1, 110, 2)
    assert (chosen[0, :100, 0] - 0.5).abs().max() < 0.2
    assert not chosen[0, 100:].any()


class OnAnotherDevice(torch.Tensor):
    """Takes the ways that tensors take which are not on a CPU."""

    is_cpu = False


@pytest.mark.parametrize("kind", [torch.Tensor, OnAnotherDevice])
def test_the_smallest_values_are_found_in_every_row(kind):
    values = torch.randperm(4000).view(4, 1000).float()
    for count in (0, 1, 2, 300, 999, 1000):
        found = values.gather(1, smallest(values.as_subclass(kind), count).as_subclass(torch.Tensor))
        assert torch.equal(found.sort(1).values, values.sort(1).values[:, :count])


def test_random_points_fill_the_unit_square_and_differ_from_draw_to_draw():
    points = random_points((3, 1000, 2), torch.device("cpu"), torch.Generator().manual_seed(0))
    assert points.dtype == torch.float32 and 0 <= points.min() < 0.01 and 0.99 < points.max() < 1
    draws = {random_points((1,), torch.device("cpu")).item() for _ in range(300)}
    assert len(draws) == 300


def test_points_of_other_predictions_or_masks_are_refused():
    points = Criterion(5, num_points=20).draw_points(3, random_targets(2)[0])
    points.require(3, 2)
    for name in ("matching", "oversampled", "uniform"):
        shorter = Points(**{**vars(points), name: getattr(points, name)[:2]})
        with pytest.raises(ValueError, match="for 3 predictions and 2 masks"):
            shorter.require(3, 2)


def test_one_mask_is_divided_by_one():
    """One target, a mask that is everywhere 1.5: the mean cross-entropy of a point, and dice smoothed by 1."""
    logits = torch.zeros(1, 1, 3, dtype=torch.float64)
    outputs = Outputs(logits, torch.ones(1, 1, 1).double(), torch.full((1, 1, 8, 8), 1.5).double())
    target = Targets(torch.tensor([0]), torch.ones(1, 32, 32, dtype=torch.bool))
    middle = Points(*(torch.full((1, *n, 2), 0.5) for n in ((20,), (1, 60), (1, 5))))
    terms, _ = Criterion(2, num_points=20)(outputs, [target], points=[middle])
    inside = torch.tensor(1.5, dtype=torch.float64).sigmoid()
    torch.testing.assert_close(terms["mask"], -inside.log())
    torch.testing.assert_close(terms["dice"], 1 - (2 * 20 * inside + 1) / (20 * inside + 20 + 1))
    torch.testing.assert_close(terms["class"], torch.tensor(3.0).double().log())


def test_predictions_taken_together_lose_what_each_loses_alone():
    criterion, (target,) = Criterion(5, num_points=30), random_targets(4)
    logits, points = torch.randn(3, 4, 12, 16), criterion.draw_points(3, target)
    together = criterion.point_losses(target.masks.float(), logits, points.oversampled, points.uniform)
    for layer in range(3):
        alone = (x[layer : layer + 1] for x in (logits, points.oversampled, points.uniform))
        torch.testing.assert_close(criterion.point_losses(target.masks.float(), *alone)[:, 0], together[:, layer])


def test_what_processes_count_is_averaged(monkeypatch):
    dist, own = torch.distributed, torch.tensor([1.0, 2.0])
    assert torch.equal(average_over_processes(own), own)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.add_(torch.tensor([5.0, 0.0])))  # what the other one has
    assert average_over_processes(own).tolist() == [3.0, 1.0] and own.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (9, 1)])
def test_every_leaf_gets_a_finite_gradient_with_or_without_targets(counts):
    outputs = random_outputs(dtype=torch.float32)
    terms, total = Criterion(5, num_points=30)(outputs, random_targets(*counts))
    assert all(term.isfinite() for term in terms.values())
    total.backward()
    for leaf in leaves(outputs):
        assert leaf.grad is not None and leaf.grad.isfinite().all()
    if not any(counts):
        assert terms["mask"] == terms["dice"] == 0 and not outputs.mask_features.grad.any()


def test_a_criterion_has_nothing_to_save():
    assert not Criterion(5).state_dict() and not list(Criterion(5).parameters())


def test_a_generator_decides_the_points():
    outputs, targets, criterion = random_outputs(), random_targets(3, 2), Criterion(5, num_points=30)
    first, again, other = (criterion(outputs, targets, torch.Generator().manual_seed(seed))[1] for seed in (1, 1, 2))
    assert first == again != other


def test_losses_are_float32_under_autocast():
    outputs, targets = random_outputs(dtype=torch.float32), random_targets(3, 2)
    criterion = Criterion(5, num_points=30)
    plain = criterion(outputs, targets, torch.Generator().manual_seed(1))[1]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = criterion(outputs, targets, torch.Generator().manual_seed(1))[1]
    assert plain == mixed
    half = [Outputs(o.class_logits.bfloat16(), o.mask_embeddings.bfloat16(), outputs.mask_features.bfloat16())
            for o in (*outputs.auxiliary, outputs)]  # fmt: skip
    half = Outputs(half[-1].class_logits, half[-1].mask_embeddings, half[-1].mask_features)
    assert criterion(half, targets)[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda o: o.auxiliary[1].class_logits.data[1, 2].fill_(torch.nan),
            "class .* image 1 in auxiliary .* 1",
        ),
        (lambda o: o.mask_embeddings.data[0, 4].fill_(torch.inf), "mask cost of image 0 in the final prediction"),
        (lambda o: o.mask_features.data[1].fill_(torch.nan), "mask cost of image 1 in auxiliary prediction 0"),
    ],
)
def test_a_value_that_is_not_finite_is_named(break_it, said):
    outputs = random_outputs()
    break_it(outputs)
    with pytest.raises(FloatingPointError, match=said):
        Criterion(5, num_points=30)(outputs, random_targets(3, 2))


@pytest.mark.parametrize(
    ("term", "layer", "image", "said"),
    [(0, 0, 1, "the class cost of image 4 in auxiliary prediction 0"), (2, 1, 0, "dice cost of image 3 in the final")],
)
def test_the_place_of_a_value_that_is_not_finite(term, layer, image, said):
    finite = torch.ones(3, 2, 5, dtype=torch.bool)
    require_finite(finite, "cost")
    finite[term, layer, image] = False
    with pytest.raises(FloatingPointError, match=said):
        require_finite(finite, "cost", first_image=3)
    with pytest.raises(FloatingPointError, match="mask cost of image 0 in the final"):
        assign(torch.tensor([0.0, torch.nan, 0.0]).view(1, 3, 1, 1), (2.0, 5.0, 5.0))


def test_a_broken_class_logit_is_named_where_no_target_is_matched():
    outputs = random_outputs()
    outputs.class_logits.data[1, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="class loss of image 1 in the final prediction"):
        Criterion(5, num_points=30)(outputs, random_targets(3, 0))


def test_more_objects_than_queries_keeps_the_largest_and_says_so_once():
    outputs, (target,) = random_outputs(B=1, Q=4), random_targets(7)
    largest = target.masks.flatten(1).sum(1).topk(4).indices.sort().values
    kept = Targets(target.labels[largest], target.masks[largest])
    criterion = Criterion(5, num_points=30)
    with pytest.warns(UserWarning, match="7 objects but the model only 4 queries"):
        total = criterion(outputs, [target], torch.Generator().manual_seed(1))[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        criterion(outputs, [target])
        Criterion(5, num_points=30)(outputs, [kept])  # as many as there are queries is not too many
    assert total == criterion(outputs, [kept], torch.Generator().manual_seed(1))[1]


def test_what_does_not_belong_together_is_refused():
    outputs, criterion = random_outputs(), Criterion(5, num_points=30)
    with pytest.raises(ValueError, match="2 images and 5 classes met targets of 1 images"):
        criterion(outputs, random_targets(3))
    with pytest.raises(ValueError, match="criterion of 4 classes"):
        Criterion(4)(outputs, random_targets(3, 2, K=4))
    with pytest.raises(ValueError, match="labels run from 5 to 5: expected 0 to 4"):
        criterion(outputs, [Targets(torch.tensor([5]), torch.ones(1, 48, 64, dtype=torch.bool))] * 2)
    with pytest.raises(ValueError, match="labels run from 2 to 5: expected 0 to 4"):
        criterion(outputs, [Targets(torch.tensor([2, 5]), torch.ones(2, 48, 64, dtype=torch.bool))] * 2)
    with pytest.raises(ValueError, match="labels run from -1 to 2: expected 0 to 4"):
        criterion(outputs, [Targets(torch.tensor([2, -1]), torch.ones(2, 48, 64, dtype=torch.bool))] * 2)
    with pytest.raises(ValueError, match="outputs of 0 images .* at least one"):
        criterion(outputs[:0], [])
    points = [criterion.draw_points(3, target) for target in random_targets(2, 1)]
    with pytest.raises(ValueError, match=r"for 3 predictions and 1 masks: expected \(3, P, 2\), \(3, 1, O, 2\)"):
        criterion(outputs, random_targets(1, 1), points=points)
    outputs.auxiliary[0].mask_features = outputs.mask_features.clone()
    with pytest.raises(ValueError, match="mask features of their own"):
        criterion(outputs, random_targets(1, 1))
    for impossible, said in (
        ({"importance_sample_ratio": 1.5}, "importance_sample_ratio=1.5: expected a number from 0 to 1"),
        ({"importance_sample_ratio": -0.1}, "importance_sample_ratio=-0.1: expected a number from 0 to 1"),
        ({"num_points": 0}, "num_points=0: expected 1 or more"),
        ({"oversample_ratio": 0.7}, "oversample_ratio=0.7, importance_sample_ratio=0.75: expected"),
    ):
        with pytest.raises(ValueError, match=said):
            Criterion(5, **impossible)
    for share in (0, 1):  # all uniform; all uncertain, chosen from no more than are needed
        Criterion(5, num_points=1, oversample_ratio=1, importance_sample_ratio=share)


def test_logits_of_unmatched_queries_are_never_multiplied_out():
    """The largest tensor alive is far below Q full masks a prediction."""
    outputs, targets = random_outputs(B=1, Q=64, C=2, size=(64, 64), dtype=torch.float32), random_targets(2)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    with Watch():
        Criterion(5, num_points=50)(outputs, targets)[1].backward()
    assert largest < 64 * 64 * 64 / 4
