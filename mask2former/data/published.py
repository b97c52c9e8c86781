"""The layouts of published datasets, recognised by their folders: ADE20K, Cityscapes, COCO's panoptic files."""

from __future__ import annotations

from mask2former.data.ade20k import Ade20kPanoptic, Ade20kSemantic
from mask2former.data.cityscapes import Cityscapes
from mask2former.data.dataset import SegmentationDataset
from mask2former.data.findings import Findings
from mask2former.data.listing import Listing
from mask2former.data.wanted import Wanted

KIND = "ade20k or cityscapes"


def recognise(listing: Listing) -> str | None:
    if listing.is_file:
        return None
    folders = listing.folders
    if {"images/training", "annotations/training"} <= folders or {
        "images/validation",
        "annotations/validation",
    } <= folders:
        return "ADE20K"
    if any(f.startswith("leftImg8bit/") for f in folders) and any(f.startswith("gtFine/") for f in folders):
        return "Cityscapes"
    return None


def open_export(listing: Listing, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    rest = wanted.split, wanted.classes, wanted.transform
    if findings.tool == "Cityscapes":
        with_instances = any(file.endswith("_gtFine_instanceIds.png") for file in listing.files)
        if not with_instances:
            findings.conclude("labelIds without instanceIds: the semantic task alone")
        dataset = Cityscapes(listing.root, *rest, with_instances=with_instances)
        if dataset.train_ids:
            findings.repair("masks hold train ids under the names of label ids, and are read so", "", len(dataset))
            dataset.notes = ()
        return dataset
    if (listing.root / f"ade20k_panoptic_{wanted.split}.json").is_file():
        return Ade20kPanoptic(listing.root, *rest)
    return Ade20kSemantic(listing.root, *rest)
