"""The task rows and the tokenizer of the training texts, against ids that the original made."""

import json
import sys

import pytest
import torch

from mask2former.structures import TASKS
from oneformer.tasks import TASK_TEXT, TASK_TOKENS, task_tokens
from oneformer.tokenizer import Tokenizer
from tests.conftest import SHARED, needs_shared


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    return Tokenizer()


@pytest.fixture(scope="module")
def stored():
    with open(SHARED / "reference/units/tokenizer.json", encoding="utf-8") as file:
        return {entry["text"]: entry for entry in json.load(file)}


@needs_shared
def test_ids_are_the_originals(tokenizer, stored):
    assert len(stored) > 10
    for text, entry in stored.items():
        assert tokenizer.encode(text) == entry["ids"], text
    assert tokenizer(list(stored)).tolist() == [entry["tokenize_77"] for entry in stored.values()]


def test_task_rows_are_those_of_their_texts(tokenizer):
    assert tuple(TASK_TOKENS) == TASKS
    assert torch.equal(task_tokens(TASKS, 3), tokenizer([TASK_TEXT.format(task) for task in TASKS]))


@needs_shared
@pytest.mark.parametrize("task", TASKS)
def test_task_rows_are_the_originals(task, stored):
    row = stored[TASK_TEXT.format(task).replace("the", "The")]["tokenize_77"]
    assert task_tokens(task, 1).tolist() == [row]


def test_long_texts_keep_their_end(tokenizer):
    (row,) = Tokenizer(10)(["one two three four five six seven eight nine ten"])
    assert len(row) == 10 and row[-1] == 49407 and 0 not in row


def test_one_string_is_refused(tokenizer):
    with pytest.raises(TypeError, match="expected a list"):
        tokenizer("a photo")


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setitem(sys.modules, "open_clip.tokenizer", None)
    with pytest.raises(ImportError, match="pip install open_clip_torch"):
        Tokenizer()


def test_one_task_for_all_is_that_task_for_each():
    assert torch.equal(task_tokens("instance", 2), task_tokens(["instance"] * 2, 2))
    assert task_tokens("instance", 2, 10).shape == (2, 10)


def test_ready_ids_pass_through():
    rows = torch.randint(0, 49408, (2, 77), dtype=torch.int32)
    assert torch.equal(task_tokens(rows, 2), rows.long())


@pytest.mark.parametrize("task", ["stuff", ["panoptic", "Semantic"], None])
def test_an_unknown_task_names_the_three(task):
    with pytest.raises(ValueError, match=r"'panoptic', 'instance', 'semantic'"):
        task_tokens(task, 2)


@pytest.mark.parametrize(
    "task",
    [["panoptic"], torch.zeros(2, 76, dtype=torch.int64), torch.zeros(1, 77, dtype=torch.int64), torch.zeros(2, 77)],
)
def test_a_wrong_number_of_tasks_or_ids(task):
    with pytest.raises(ValueError, match="expected"):
        task_tokens(task, 2)
