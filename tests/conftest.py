"""Where the shared material lies, and how a test says that it needs it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory):
    """The folder of a small Mask2Former of seven classes."""
    import weights
    from tests.test_predictor import toy

    folder = tmp_path_factory.mktemp("toy") / "model"
    weights.save_model(toy().float(), folder)
    return str(folder)


@pytest.fixture
def named_photos(tmp_path):
    """Three photos, two of which have one name."""
    random = np.random.default_rng(0)
    paths = [tmp_path / "photos" / name for name in ("a/1.png", "b/1.png", "c.png")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    return [str(path) for path in paths]


def pytest_collection_modifyitems(config, items):
    """Tests marked `online` run where they are asked for by name of the mark, and nowhere else."""
    if "online" not in config.option.markexpr:
        online = [item for item in items if item.get_closest_marker("online")]
        config.hook.pytest_deselected(items=online)
        items[:] = [item for item in items if item not in online]
