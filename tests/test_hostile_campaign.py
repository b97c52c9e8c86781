"""A small part of the campaign (`python -m tests.hostile`), drawn by hypothesis, which makes a fault small, too."""

import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.borders import BORDERS, SHARES

PROCESSES = {name for name, share in SHARES.items() if share < 80}  # these start processes; test_hostile_*.py has them


@pytest.mark.parametrize("border", [name for name in BORDERS if name not in PROCESSES])
@settings(max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(random=st.randoms(use_true_random=False, note_method_calls=False))
def test_a_border_holds(border, random):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        BORDERS[border](random, Path(folder))


def test_the_campaign_notices():
    """A border that lets something through is a fault, whatever it is."""
    from tests.hostile.photos import judged

    with pytest.raises(AssertionError, match="ZeroDivisionError"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.hostile.photos.open_photo", lambda source: 1 / 0)
        judged("a.jpg")
