"""The front door: one import for everything, which costs nothing before something is asked for."""

import ast
import re
import runpy
import subprocess
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import mask2former
from mask2former.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
LAZY = ("mask2former", "oneformer", "weights", "mask2former.data")
HEAVY = {"torch", "torchvision", "timm", "numpy", "scipy", "PIL", "safetensors", "huggingface_hub", "transformers"}


def loaded(code):
    """Which of the heavy libraries a fresh interpreter has imported after running some code, and its output."""
    end = "import sys as s; print('\\nloaded', *s.modules)"
    run = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nfinally:\n    {end}"
    said = subprocess.run([sys.executable, "-c", run], cwd=ROOT, capture_output=True, text=True, check=True)
    output, _, modules = said.stdout.rpartition("loaded ")
    return HEAVY & {module.split(".")[0] for module in modules.split()}, output + said.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import mask2former; mask2former.__version__; dir(mask2former)",
        "import weights; assert weights.list_models('*swin_tiny*')",
        "import oneformer, mask2former.data",
        "from mask2former import ClassInfo, Mask2FormerConfig, OneFormerConfig, Protocol, Segment; Mask2FormerConfig()",
        "from weights.zoo import ZOO; [row.config for row in ZOO.values()]",
        "import mask2former.cli",
    ],
)
def test_what_imports_no_heavy_library(code):
    assert loaded(code)[0] == set()


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--help"], "Segment photos and write what was found."),
        (["--version"], f"mask2former {mask2former.__version__}"),
        (["models"], "mask2former_swin_tiny_coco_panoptic"),
        (["models", "nothing*"], "no published model matches"),
        (["--nonsense"], "the following arguments are required: COMMAND"),
        (["segment"], "invalid choice: 'segment'"),
        (["predict", "a.jpg", "--batchsize", "4"], "unrecognized arguments: --batchsize 4; did you mean --batch-size?"),
        (["models", "a", "b"], "unrecognized arguments: b; `mask2former models --help` lists what it takes"),
        (["predict", "--size", "axb"], "argument --size: 'axb': expected one side"),
        (["evaluate"], "the following arguments are required: --model, --data"),
        *(([name, "--help"], f"usage: mask2former {name}") for name in COMMANDS),
        *(([name, "--nonsense"], f"mask2former {name}: error: ") for name in COMMANDS),
    ],
    ids=" ".join,
)
def test_answers_at_once(arguments, answer):
    """Without what takes seconds to import. How long it takes is the machine's affair, what is imported is ours."""
    heavy, said = loaded(f"from mask2former.cli import main; main({arguments!r})")
    assert answer in said and "Traceback" not in said
    assert heavy == set()


def test_the_heavy_libraries_would_be_seen():
    assert {"torch", "numpy", "timm"} <= loaded("import mask2former; mask2former.Mask2Former")[0]


@pytest.mark.parametrize("package", LAZY)
def test_every_name_is_there_for_people_and_for_type_checkers(package):
    module = import_module(package)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    declared = {
        alias.name: node.module
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        for alias in node.names
    }
    assert set(module.__all__) - {"__version__"} == set(declared)
    assert set(module.__all__) <= set(dir(module)) and "lazily" not in dir(module)
    for name, home in declared.items():
        assert getattr(module, name) is getattr(import_module(home), name)
        # once imported, a submodule would stand where the name was
        assert PathFinder.find_spec(f"{package}.{name}", module.__path__) is None, f"{package}.{name} is a module, too"


def test_a_name_that_is_not_there_says_so():
    with pytest.raises(AttributeError, match="module 'mask2former' has no attribute 'Mask2Fromer'") as error:
        mask2former.Mask2Fromer  # noqa: B018
    assert (error.value.name, error.value.obj) == ("Mask2Fromer", mask2former)  # so that Python suggests the right one
    with pytest.raises(ImportError, match="cannot import name 'create_modle'"):
        from mask2former import create_modle  # noqa: F401


def test_submodules_come_when_they_are_asked_for():
    code = "import weights, mask2former; print(weights.zoo.ZOO and mask2former.training.Settings(), weights.convert)"
    assert "Settings(steps=10000" in loaded(code)[1]


def test_functions_stay_functions_whatever_was_imported_first():
    said = loaded("import weights.conversion, weights.load; print(callable(weights.convert), weights.convert)")[1]
    assert said.startswith("True <function convert")


def test_the_version_is_said_once(monkeypatch, capsys):
    setuptools, said = pytest.importorskip("setuptools"), {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: said.update(arguments))
    runpy.run_path(str(ROOT / "setup.py"))
    assert said["version"] == mask2former.__version__ and re.fullmatch(r"\d+\.\d+\.\d+", mask2former.__version__)
    for family in ("mask2former", "oneformer"):
        with pytest.raises(SystemExit) as stopped:
            main(["--version"], family)
        assert (stopped.value.code, capsys.readouterr().out) == (0, f"{family} {mask2former.__version__}\n")
