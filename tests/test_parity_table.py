"""The command behind the parity table: its figures are measured, held to their bounds, and those of the page."""

import re
from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers")

from tests import parity, toy_transformers


def test_a_row_is_measured_and_below_its_bounds(capsys, monkeypatch):
    """Each printed figure is the largest of what was compared, which is watched beside the command."""
    seen = []
    difference = toy_transformers.relative_difference
    monkeypatch.setattr(
        toy_transformers, "relative_difference", lambda *pair: seen.append(difference(*pair)) or seen[-1]
    )
    assert parity.main(["--only", "oneformer-convnext-*"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| OneFormer"))
    float64, gradients, float32 = [cell.strip() for cell in row.split("|")[4:7]]
    # Two sizes and three tasks, each with backbone maps, levels and predictions, in float64 and float32, in two rounds.
    rounds = torch.tensor(seen).unflatten(0, (2, 2, -1))
    assert rounds.shape[2] >= 6 * 10
    assert float64 == f"{rounds[:, 0].max():.0e}" and float32 == f"{rounds[:, 1].max():.0e}"
    assert 0 < float(float64) <= 1e-9 < float(float32) <= 1e-4 and gradients == "–"


def test_a_difference_beyond_its_bound_fails_and_is_not_written(capsys, monkeypatch):
    page = parity.PAGE.read_text()
    broken = replace(parity.COMPARISONS[0], measure=lambda folder: {("float64", "values"): 2e-9})
    monkeypatch.setattr(parity, "COMPARISONS", (broken,))
    assert parity.main([]) == 1
    assert "values in float64: 2e-09 > 1e-09" in capsys.readouterr().err
    assert parity.PAGE.read_text() == page


def test_nothing_is_no_equality():
    with pytest.raises(ValueError):
        parity.largest([])
    with pytest.raises(FloatingPointError, match="logits"):
        parity.largest([("logits", torch.full((2,), torch.nan), torch.ones(2))])
    assert parity.largest([("zeros", torch.ones(2), torch.zeros(2))]) == float("inf")
    with pytest.raises(AssertionError):
        parity.largest([("shapes", torch.ones(2), torch.ones(3))])
    with pytest.raises(SystemExit):
        parity.main(["--only", "nothing-like-this"])


def test_the_table_is_written_between_its_marks(monkeypatch, tmp_path, capsys):
    page = tmp_path / "parity.md"
    page.write_text(f"# Parity\n\n{parity.BEGIN}\nold\n{parity.END}\n\nThe rest.\n")
    monkeypatch.setattr(parity, "PAGE", page)
    rows = tuple(c for c in parity.COMPARISONS if c.name.startswith("oneformer-contrast"))
    monkeypatch.setattr(parity, "COMPARISONS", rows)
    assert parity.main([]) == 0
    text = page.read_text()
    assert text.startswith("# Parity\n\n<!--") and text.endswith("\n\nThe rest.\n") and "old" not in text
    assert "| OneFormer | contrast | transformers |" in text and f"torch {torch.__version__.split('+')[0]}" in text


def test_the_page_has_a_row_for_every_comparison_and_no_figure_beyond_its_bound():
    written = parity.PAGE.read_text(encoding="utf-8").partition(parity.BEGIN)[2].partition(parity.END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in written.splitlines() if "`test_" in line]
    assert [row[:3] for row in rows] == [[c.network, c.part, c.reference] for c in parity.COMPARISONS]
    for row in rows:
        figures = dict(zip(parity.COLUMNS, row[3:7], strict=True))
        assert any(cell != "–" for cell in figures.values())
        assert all(float(cell) <= parity.BOUNDS[dtype] for (dtype, _), cell in figures.items() if cell != "–")
    assert re.search(r"\d{4}-\d\d-\d\d; Python .*torch .*transformers ", written)


@pytest.mark.parametrize("proof", sorted({c.proof for c in parity.COMPARISONS}))
def test_each_row_names_a_test(proof):
    assert (parity.PAGE.parents[1] / "tests" / proof).is_file()
