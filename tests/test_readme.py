"""What the README promises: its file map names every file, its commands exist, its Python is Python."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from mask2former import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_file_map_is_true():
    """Every file of the packages and benchmarks is in the map, and everything in the map exists."""
    tree = README.split("## File map")[1].split("```")[1]
    named, folder = set(), ""
    for line in tree.splitlines():
        first = line.split("  ")[0] if not line.startswith(" ") else line.strip().split("  ")[0]
        if first.endswith("/"):
            folder = first
        elif line.strip():
            named |= {folder + name.strip() for name in first.split(",")}
    there = {
        str(path.relative_to(ROOT))
        for package in ("mask2former", "oneformer", "weights", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py" and "__pycache__" not in path.parts
    }
    assert {name for name in named if name.endswith(".py") and "*" not in name} == there


@pytest.mark.parametrize("block", blocks("python"), ids=range(len(blocks("python"))))
def test_python_examples_compile(block):
    ast.parse(block)


def test_commands_are_accepted(monkeypatch):
    """Every `mask2former …` and `oneformer …` line parses; what it would do is tested elsewhere."""
    seen = []
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    ran = {name: (options, lambda o, name=name: seen.append(name) or 0) for name, (options, _) in cli.COMMANDS.items()}
    for _, run in ran.values():
        run.__doc__ = "Anything."
    monkeypatch.setattr(cli, "COMMANDS", ran)
    for line in lines:
        for command in re.split(r"&&", line.split("  #")[0]):
            words = shlex.split(command)
            if words[:1] in (["mask2former"], ["oneformer"]):
                assert cli.main(words[1:], words[0]) == 0, command
    assert {"predict", "convert", "models"} <= set(seen)


def test_continuous_integration_runs_the_readmes_command():
    commands = re.findall(r"^pip install .* && python -m pytest$", README, re.MULTILINE)
    assert len(commands) == 1
    assert "README.md" in (ROOT / ".ci/run").read_text()
