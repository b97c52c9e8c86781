"""What the command line takes as DATA, in words; `datasets.py` opens it."""

DATA_HELP = """\
FOLDER or FILE                   whatever it is is recognised: exports of annotation tools, published datasets, masks
hf:NAME[:SPLIT]                  a dataset of Hugging Face's library, on the hub or saved to a folder
coco-panoptic:FOLDER[:SPLIT]     COCO's own layout: annotations/panoptic_{SPLIT}2017.json, …
coco-panoptic:PHOTOS:FILE.json   any other place; the PNG files are in the folder FILE
coco-instance:FOLDER[:SPLIT]     annotations/instances_{SPLIT}2017.json, or the one JSON file of a small dataset
coco-instance:PHOTOS:FILE.json   any other place
ade20k-semantic:FOLDER[:SPLIT]   ADEChallengeData2016; also ade20k-panoptic, ade20k-instance
cityscapes:FOLDER[:SPLIT]        leftImg8bit and gtFine; also cityscapes-semantic, cityscapes-instance
folder:FOLDER[:SPLIT]            images/ and masks/ with classes.txt or classes.json
SPLIT is train, val or, for data that is not split, all."""
