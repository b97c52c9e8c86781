"""The official measures of the three tasks, and a predictor measured by them over a dataset."""

from mask2former.evaluation.evaluator import evaluate, headline, table
from mask2former.evaluation.instance import MaskAveragePrecision
from mask2former.evaluation.panoptic import PanopticQuality
from mask2former.evaluation.semantic import MeanIoU

__all__ = ["MaskAveragePrecision", "MeanIoU", "PanopticQuality", "evaluate", "headline", "table"]
