"""Where the shared material lies, and how a test says that it needs it."""

from pathlib import Path

import pytest
import torch

from mask2former.kernels import route

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared reference material is not beside the project")


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(params=["auto", "textbook"])
def forms(request):
    """The test runs twice: with the forms of the operations that this machine takes, and with the textbook's."""
    with route.using(request.param):
        yield request.param
