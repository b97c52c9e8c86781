"""Mask average precision, by COCO's protocol. hotcoco computes it (its numbers are pycocotools'), only much faster."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mask2former.data.annotation import Annotation, rle_library
from mask2former.evaluation.gather import gather_by_image, require_labels
from mask2former.structures import ClassInfo

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")  # COCO's order
Record = tuple[tuple[int, int], list[Mapping[str, Any]], list[Mapping[str, Any]]]  # size, objects, detections


class MaskAveragePrecision:
    """COCO's 12 numbers over the thing classes. Crowds are neither found nor missed. All values are 0..1."""

    def __init__(self, classes: Sequence[ClassInfo]):
        self.classes = tuple(classes)
        self.records: dict[int | str, Record] = {}

    def update(
        self,
        image_id: int | str,
        masks: Iterable[np.ndarray],
        labels: Sequence[int],
        scores: Sequence[float],
        truth: Annotation,
    ) -> None:
        """Add one image; the same id again replaces it.

        Arguments:
            masks: N of (H, W) bool, which may overlap; only one is needed at a time.
            labels: N label ids.
            scores: N, higher is surer.
            truth: the ground truth at the same size; its stuff is left out.
        """
        if not np.isfinite(np.asarray(scores, np.float64)).all():
            raise ValueError(f"image {image_id}: scores that are not finite numbers cannot be ranked")
        require_labels(image_id, labels, len(self.classes))
        encode, found = rle_library().encode, []
        for mask, label, score in zip(masks, labels, scores, strict=True):
            if mask.shape != truth.size:
                raise ValueError(f"image {image_id}: prediction {mask.shape}, ground truth {truth.size}")
            runs = encode(np.asfortranarray(mask))
            found.append({"segmentation": runs, "label_id": int(label), "score": float(score)})
        self.records[image_id] = (truth.size, truth.for_task("instance").to_coco(), found)

    def compute(self) -> dict[str, Any]:
        """The 12 numbers by their names, and each class's AP; None where there is nothing to judge."""
        evaluation, _ = self._evaluate()
        evaluation.accumulate()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.summarize()
        report = {name: known(value) for name, value in zip(NAMES, evaluation.stats, strict=True)}
        # (10 overlaps, 101 recalls, classes, 4 sizes, 3 limits); no ground truth: −1
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
        of_class = {c: precision[:, :, k] for k, c in enumerate(self._things())}
        report["classes"] = [
            {"name": self.classes[c].name, "AP": known(values.mean()), "AP50": known(values[0].mean())}
            for c, values in of_class.items()
        ]
        return report

    def image_scores(self) -> dict[int | str, float]:
        """The AP at an overlap of 0.5 of each image alone, of those that hold objects or detections."""
        evaluation, image_ids = self._evaluate()
        summary = evaluation.image_diagnostics()["img_summary"]
        return {image_ids[number - 1]: values["ap"] for number, values in summary.items()}

    def _things(self) -> list[int]:
        return [k for k, c in enumerate(self.classes) if c.is_thing]

    def _evaluate(self) -> tuple[Any, list[int | str]]:
        """hotcoco's evaluation with every image matched, and the image ids, of which it knows the number from 1."""
        try:
            import hotcoco
        except ImportError as error:
            raise ImportError("mask AP needs the package hotcoco: pip install hotcoco") from error
        records = gather_by_image(self.records)
        images, objects, detections = [], [], []
        for number, ((height, width), true, found) in enumerate(records.values(), start=1):
            images.append({"id": number, "height": height, "width": width})
            objects += [as_annotation(entry, number, len(objects) + k) for k, entry in enumerate(true, start=1)]
            detections += [as_annotation(entry, number, len(detections) + k) for k, entry in enumerate(found, start=1)]
        categories = [{"id": k + 1, "name": self.classes[k].name} for k in self._things()]
        truth = hotcoco.COCO({"images": images, "annotations": objects, "categories": categories})
        evaluation = hotcoco.COCOeval(truth, truth.load_res(detections), "segm")
        evaluation.evaluate()
        return evaluation, list(records)


def as_annotation(entry: Mapping[str, Any], image: int, number: int) -> dict[str, Any]:
    fields = {key: value for key, value in entry.items() if key != "label_id"}
    return fields | {"id": number, "image_id": image, "category_id": entry["label_id"] + 1}


def known(value: float) -> float | None:
    """COCO's −1 for "nothing to judge" → None."""
    return None if value < 0 else float(value)
