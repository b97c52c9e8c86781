"""Another number of queries: what they have learned is kept, said, and works."""

import pytest
import torch

import weights
from tests.test_weights_load import toy, toy_oneformer

ROWS = ("query_features", "query_positions")


@pytest.mark.parametrize("count", [2, 4, 6, 7, 15])
def test_rows_are_kept_in_turn(count, tmp_path, recwarn):
    model = toy()
    weights.save_model(model, tmp_path)
    read = weights.create_model(tmp_path, num_queries=count)
    said = [str(w.message) for w in recwarn if "queries" in str(w.message)]
    how = {2: "the first 2 are kept", 4: "the first 4 are kept", 7: "1 are repeats", 15: "9 are repeats"}.get(count)
    assert (how in said[0] and "has 6 queries" in said[0] and len(said) == 1) if how else not said
    for name in ROWS:
        before, after = (getattr(m.transformer_decoder, name) for m in (model, read))
        assert torch.equal(after, before[torch.arange(count) % 6])
    with torch.no_grad():
        assert read(torch.randn(1, 3, 64, 64)).class_logits.shape == (1, count, 3)
    weights.save_model(read, tmp_path / "again")
    assert weights.create_model(tmp_path / "again").config.num_queries == count


@pytest.mark.parametrize("count", [4, 9])
def test_oneformers_task_token_stays_last(count, tmp_path):
    model = toy_oneformer(text_branch=True)
    weights.save_model(model, tmp_path)
    with pytest.warns(UserWarning, match=f"has 6 queries, the model {count}"):
        read = weights.create_model(tmp_path, num_queries=count, text_branch=True)
    before, after = (m.transformer_decoder.query_positions for m in (model, read))
    assert torch.equal(after[-1], before[-1]) and torch.equal(after[:-1], before[torch.arange(count - 1) % 5])
    texts = torch.zeros(1, count - 2, 77, dtype=torch.long)
    assert read(torch.randn(1, 3, 64, 64), texts=texts).text_features.shape[1] == count


def test_repeats_part_in_training(tmp_path):
    """Two equal queries are matched to different things, and then are no longer equal."""
    from mask2former.structures import Targets
    from mask2former.training.losses import Criterion

    weights.save_model(toy(), tmp_path)
    with pytest.warns(UserWarning, match="6 are repeats"):
        model = weights.create_model(tmp_path, num_queries=12)
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, :32], masks[1, 32:] = True, True
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    _, total = Criterion(2, num_points=64)(model(torch.randn(1, 3, 64, 64)), [Targets(torch.tensor([0, 1]), masks)])
    total.backward()
    optimizer.step()
    first, second = model.transformer_decoder.query_features.detach().chunk(2)
    assert not torch.equal(first, second)


def test_a_number_that_is_none_is_refused(tmp_path, capsys):
    from mask2former.cli import main

    assert (
        main(["train", "--data", "x", "--model", "compact", "--queries", "0", "--output", str(tmp_path / "run")]) == 2
    )
    assert "--queries 0: expected a whole number from 2 to 65536" in capsys.readouterr().err
