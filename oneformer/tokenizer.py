"""CLIP's byte pair encoding for the texts of training. Inference needs none: the task texts' ids are in `tasks.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

START, END = 49406, 49407
# The two special tokens as CLIP spells them, and as open_clip does.
SPELLINGS = {"<|startoftext|>": "<start_of_text>", "<|endoftext|>": "<end_of_text>"}


class Tokenizer:
    """Texts → token ids, with the vocabulary that open_clip_torch carries.

    Args:
        context_length: ids a text; shorter ones are padded with zeros, longer ones cut, the end token kept.

    Raises:
        ImportError: open_clip_torch is not installed.
    """

    def __init__(self, context_length: int = 77):
        try:
            from open_clip.tokenizer import SimpleTokenizer
        except ImportError as error:
            raise ImportError(
                "training texts need CLIP's vocabulary: pip install open_clip_torch (in the extra `train`)"
            ) from error
        self.context_length = context_length
        self._clip = SimpleTokenizer(context_length=context_length)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """N texts → (N, context_length) int64: start token, ids, end token, zeros."""
        if isinstance(texts, str):
            raise TypeError("texts is one string: expected a list of them")
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [START, *self.encode(text)[: self.context_length - 2], END]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without start and end; case, HTML entities and runs of spaces make no difference."""
        for spelling, clip_spelling in SPELLINGS.items():
            text = text.replace(spelling, clip_spelling)
        return self._clip.encode(text)
