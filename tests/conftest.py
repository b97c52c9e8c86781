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


def pytest_collection_modifyitems(config, items):
    """Tests marked `online` run where they are asked for by name of the mark, and nowhere else."""
    if "online" not in config.option.markexpr:
        online = [item for item in items if item.get_closest_marker("online")]
        config.hook.pytest_deselected(items=online)
        items[:] = [item for item in items if item not in online]
