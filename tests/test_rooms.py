"""Who may import whom, by package: the rooms of the house in their order. CONTRIBUTING.md says it in words."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RANK = {"ground": 0, "kernels": 1, "modeling": 2, "training": 3, "inference": 3, "data": 4, "evaluation": 5,
        "oneformer": 6, "weights": 7, "commands": 8}  # fmt: skip
EXTRAS = {
    "transformers",
    "pycocotools",
    "hotcoco",
    "matplotlib",
    "open_clip",
    "tensorboard",
    "onnx",
    "openvino",
    "mkdocs",
    "datasets",
}
# the one file that calls what lies above it, inside its methods: the hand expects `model.push_to_hub`
CALLS_UP = "mask2former.pretrained"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("mask2former", "oneformer", "weights")
    for path in (ROOT / package).rglob("*.py")
}


def room(module: str) -> str:
    """mask2former.modeling.swin → modeling, mask2former.structures → ground, weights.zoo → weights."""
    package, *inner = module.split(".")
    if module in ("mask2former", "mask2former.cli") or module.endswith("__main__"):
        return "commands"  # the front door, which shows what lies behind
    return package if package != "mask2former" else inner[0] if inner[0] in RANK else "ground"


def imports(module: str) -> set[str]:
    """The project's modules that a module imports, at once or later."""
    found = set()
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    for node in tree.body if module == CALLS_UP else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & set(FILES) or {node.module}
    return found & set(FILES)


def test_a_file_imports_from_its_own_room_or_lower_ones():
    for module in FILES:
        for here, there in ((room(module), room(imported)) for imported in imports(module)):
            assert here == there or RANK[there] < RANK[here], f"{module} ({here}) imports something of {there}"


def test_no_circles_between_files():
    done, path = set(), []

    def visit(module):
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module not in done:
            path.append(module)
            for imported in imports(module):
                visit(imported)
            done.add(path.pop())

    for module in FILES:
        visit(module)


def test_a_plain_import_pulls_in_no_optional_library():
    code = "import sys, mask2former, oneformer, weights, mask2former.inference.predictor; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(loaded.stdout.split())
    assert not EXTRAS & {module.split(".")[0] for module in modules}
    assert "mask2former.kernels.deformable_sampling.triton" not in modules  # torch itself may import Triton
