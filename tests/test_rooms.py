"""The house rules: who may import whom, and what a plain import must not pull in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mask2former", "oneformer", "weights")
FILES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))

# A file imports only from lower levels, or from its own level beside it. Package __init__ files only gather names.
LEVELS = {
    "mask2former.structures": 0,
    "mask2former.modeling.config": 0,
    "mask2former.modeling.layers": 0,
    "mask2former.modeling.swin": 0,
    "mask2former.modeling.deformable_attention_triton": 0,
    "mask2former.modeling.deformable_attention": 1,
    "mask2former.modeling.backbone": 1,
    "mask2former.modeling.pixel_decoder": 2,
    "mask2former.modeling.transformer_decoder": 2,
    "mask2former.modeling.model": 3,
}
EXTRAS = ("transformers", "pycocotools", "hotcoco", "matplotlib", "triton", "gradio", "tokenizers", "tensorboard", "onnx")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def project_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {name for name in submodules if (ROOT / Path(*name.split("."))).with_suffix(".py").exists()}
            found |= known or {node.module}
    return {name for name in found if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path):
    name = module_name(path)
    if path.name == "__init__.py" or path.name == "__main__.py":
        return
    assert name in LEVELS, f"{name} has no level; give it one in tests/test_rooms.py"
    for imported in project_imports(path):
        if (ROOT / Path(*imported.split(".")) / "__init__.py").exists():
            continue  # a package; what it gathers is checked file by file
        assert LEVELS[imported] <= LEVELS[name], f"{name} (level {LEVELS[name]}) imports {imported}"
        assert LEVELS[imported] < 9, f"{imported} is a program; nobody imports it"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_packages_are_layered(path):
    package = module_name(path).split(".")[0]
    allowed = {"mask2former": {"mask2former"}, "oneformer": {"mask2former", "oneformer"}, "weights": set(PACKAGES)}
    if LEVELS.get(module_name(path)) == 9 or path.name == "__main__.py":
        return
    assert {name.split(".")[0] for name in project_imports(path)} <= allowed[package]


def test_a_plain_import_pulls_in_no_extra():
    code = "import sys, mask2former, oneformer, weights; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(EXTRAS) & set(loaded.stdout.split())
