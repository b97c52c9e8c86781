"""Checkpoints from one layout to another, in any direction, with nothing lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from mask2former.output_folder import OutputFolder
from weights.checkpoint import write_hub, write_native, write_original
from weights.class_names import Classes
from weights.finite import check_finite
from weights.load import load_checkpoint

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
WRITERS = {"native": write_native, "hub": write_hub, "original": write_original}


def convert(
    source: str | Path,
    destination: str | Path,
    to: Literal["native", "hub", "original"] = "native",
    classes: Classes | None = None,
    dilations: Sequence[Sequence[int]] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Read a checkpoint and write it in another layout.

    source: as in `create_model`. destination: a folder, for "original" a file ending in .pkl (as Mask2Former's are) or
    .pth (as OneFormer's are). classes, dilations: see `load_checkpoint`. dtype: of the weights written, by default what
    they are; float16 halves the file. What training alone needs is kept, and tokenizer files of a source folder go
    along into a folder. In an existing folder, files of the same names are replaced once everything is written, weights
    in other forms (shards, pytorch_model.bin) are removed, and the rest stays. Raises as `load_checkpoint`,
    FileExistsError while another process writes into the folder, and ValueError for a backbone the layout does not
    have, or weights that `dtype` cannot hold.
    """
    if to not in WRITERS:
        raise ValueError(f"to={to!r}: expected one of {', '.join(WRITERS)}")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype in DTYPES):
        raise ValueError(f"dtype={dtype!r}: expected one of {', '.join(map(str, DTYPES))}")
    if to != "original":
        with OutputFolder(destination):
            pass  # complain before the work
    checkpoint = load_checkpoint(source, classes, dilations)
    if dtype is not None:
        check_finite(str(source), checkpoint.state, dtype)
        checkpoint.state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in checkpoint.state.items()}
    WRITERS[to](checkpoint, destination)
