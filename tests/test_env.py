"""`mask2former env` tells what it runs on, and the forms that really run."""

import torch

from mask2former.cli import main
from mask2former.kernels import route


def test_it_names_versions_machine_and_forms(capsys):
    assert main(["env", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert torch.__version__.split("+")[0] in said and torch.backends.cpu.get_cpu_capability() in said
    assert all(operation in said for operation in route.FORMS)
    assert "deformable_sampling     table     (triton needs Triton" in said
    assert "feed_forward            rows      (the fastest)" in said


def test_it_follows_what_is_demanded(capsys):
    with route.using("textbook"):
        assert main(["env"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert len(lines) == len(route.FORMS) and all("textbook  (demanded)" in line for line in lines)
