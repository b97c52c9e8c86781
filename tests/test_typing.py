"""The packages tell their types: a user's script passes mypy's strict mode, and mistakes in one are found."""

import ast
import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mask2former.inference.predictor import Predictor
from weights.load import PredictorSettings

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mask2former", "oneformer", "weights")
FILES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))

# each line with a comment has the mistake that mypy names so
MISTAKES = """
import torch
import mask2former
from mask2former import Criterion  # attr-defined
from mask2former import Mask2Former, Mask2FormerConfig, Targets, create_predictor

mask2former.create_modle("name")  # attr-defined
predictor = create_predictor("name", batch_sise=4)  # call-arg
predictor = create_predictor("name", batch_size="4")  # arg-type
predictor(3)  # call-overload
predictor("photo.jpg").segmentatoin  # attr-defined
predictor("photo.jpg", task="all").segments  # attr-defined
for result in predictor("photo.jpg"):  # attr-defined
    pass
predictor("photo.jpg").segments[0].score.upper()  # attr-defined
model = Mask2Former.from_pretrained("name", device=0.5)  # arg-type
model(torch.zeros(1, 3, 64, 64), task="panoptic")  # call-arg
model(torch.zeros(1, 3, 64, 64)).logits  # attr-defined
model.config.num_clases  # attr-defined
model.push_to_hub("you/name", license="mit")  # call-arg
Mask2FormerConfig(queries=3)  # call-arg
Targets(labels=[1], masks=torch.zeros(1, 2, 2))  # arg-type
"""


@pytest.mark.slow
def test_a_users_script_passes_and_mistakes_are_found(tmp_path, tmp_path_factory):
    """In one run, as reading PyTorch's types takes most of it; its cache is kept between runs of the tests.

    Errors inside the packages count as little as they do for a user, who has them installed (follow-imports=silent).
    """
    mistakes = tmp_path / "mistakes.py"
    mistakes.write_text(MISTAKES)
    cache = tmp_path_factory.getbasetemp().parent / "mypy"
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", f"--cache-dir={cache}"]
    command += ["--config-file=", "tests/typed_user.py", str(mistakes)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 1, said.stdout + said.stderr
    found = re.findall(r"^(.*):(\d+): error: .*\[([\w-]+)\]$", said.stdout, re.MULTILINE)
    assert not [error for error in found if Path(error[0]).name != mistakes.name], said.stdout
    expected = {
        (number, line.rpartition("# ")[2]) for number, line in enumerate(MISTAKES.splitlines(), 1) if "  # " in line
    }
    assert {(int(number), code) for _, number, code in found} == expected, said.stdout


def test_the_users_script_uses_every_public_name():
    tree = ast.parse((ROOT / "tests" / "typed_user.py").read_text(encoding="utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for package in (*PACKAGES, "mask2former.data", "mask2former.evaluation", "mask2former.training"):
        names = set(__import__(package, fromlist=["__all__"]).__all__)
        assert names - {"DATA_HELP"} <= used, package


def public_functions(path):
    """(name, node) of the functions and methods in a file that a user may call."""

    def of(body, prefix=""):
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                if "Function" not in bases:  # PyTorch calls what an autograd.Function has
                    yield from of(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef) and (
                not node.name.startswith("_") or node.name in ("__init__", "__call__", "__getitem__", "__len__")
            ):
                yield f"{prefix}{node.name}", node

    return of(ast.parse(path.read_text(encoding="utf-8")).body)


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(path.relative_to(ROOT).with_suffix("").parts))
def test_every_public_function_is_annotated(path):
    for name, node in public_functions(path):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        arguments += [extra for extra in (node.args.vararg, node.args.kwarg) if extra]
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare, f"{name}: {', '.join(bare)}"
        assert node.returns is not None or name.endswith("__init__"), f"{name} does not say what it returns"


def test_the_types_are_installed_with_every_package(monkeypatch):
    setuptools, said = pytest.importorskip("setuptools"), {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: said.update(arguments))
    runpy.run_path(str(ROOT / "setup.py"))
    folders = {path.parent for path in FILES}
    assert {ROOT / Path(*package.split(".")) for package in said["packages"]} == folders
    for package in said["packages"]:
        assert "py.typed" in said["package_data"][package], package
        assert (ROOT / Path(*package.split(".")) / "py.typed").is_file(), package


def test_the_predictors_settings_are_the_predictors():
    parameters = inspect.signature(Predictor).parameters.values()
    expected = {p.name: p.annotation for p in parameters if p.name not in ("model", "device", "dtype")}
    assert {name: kind.__forward_arg__ for name, kind in PredictorSettings.__annotations__.items()} == expected
