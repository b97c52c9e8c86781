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
    name: level
    for level, names in {
        0: """
            mask2former.bounds mask2former.errors mask2former.schema mask2former.output_folder
            mask2former.unfinished mask2former.writing
            mask2former.structures mask2former.allocator mask2former.data.window mask2former.evaluation.gather
            mask2former.inference.packed_masks mask2former.inference.side_thread mask2former.modeling.config
            mask2former.modeling.deformable_attention_pytorch mask2former.modeling.deformable_attention_triton
            mask2former.modeling.linear mask2former.modeling.shifted_windows
            mask2former.modeling.winograd mask2former.training.interruption mask2former.training.log
            mask2former.training.optimizer
            mask2former.training.points mask2former.training.processes oneformer.config oneformer.tasks
            oneformer.tokenizer weights.bundled weights.download weights.keys_backbone weights.keys_huggingface
            weights.keys_original weights.pairing weights.pickle_reader
        """,
        1: """
            mask2former.data.annotation mask2former.data.classes mask2former.inference.preprocess
            mask2former.finite mask2former.inference.network mask2former.inference.tiles
            mask2former.inference.visualize mask2former.inference.windows
            mask2former.modeling.deformable_attention mask2former.modeling.layers mask2former.modeling.swin
            mask2former.modeling.window_attention
            mask2former.training.batches
            mask2former.training.checkpoint mask2former.training.matcher oneformer.dinat oneformer.targets
            oneformer.text_encoder weights.model_folder weights.translate
        """,
        2: """
            mask2former.data.contact_sheet mask2former.data.files mask2former.data.transforms
            mask2former.evaluation.instance mask2former.evaluation.panoptic mask2former.evaluation.semantic
            mask2former.inference.memory mask2former.inference.postprocess mask2former.modeling.backbone
            mask2former.modeling.pixel_decoder
            mask2former.modeling.transformer_decoder mask2former.training.losses weights.infer
        """,
        3: """
            mask2former.data.dataset mask2former.data.label_space mask2former.inference.formats
            mask2former.inference.prediction mask2former.inference.result_writer
            mask2former.inference.segmentation mask2former.modeling.model
            oneformer.losses oneformer.transformer_decoder weights.hub_config
        """,
        4: """
            mask2former.data.cityscapes mask2former.data.coco mask2former.data.folder mask2former.data.joined
            mask2former.inference.merge mask2former.inference.predictor mask2former.training.trainer oneformer.model
        """,
        5: """
            mask2former.data.ade20k mask2former.data.datasets mask2former.evaluation.evaluator weights.zoo
            weights.checkpoint weights.class_names weights.compact
        """,
        6: """
            mask2former.data.inspect weights.backbone_file weights.load
        """,
        7: """
            weights.convert
        """,
        8: """
            mask2former.commands.evaluate mask2former.commands.inspect mask2former.commands.lessons
            mask2former.commands.options
            mask2former.commands.predict mask2former.commands.train
        """,
        9: """
            mask2former.cli
        """,
    }.items()
    for name in names.split()
}
EXTRAS = ("transformers", "pycocotools", "hotcoco", "matplotlib", "gradio", "open_clip", "tensorboard", "onnx")


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
    if LEVELS.get(module_name(path), 0) >= 8 or path.name == "__main__.py":
        return
    assert {name.split(".")[0] for name in project_imports(path)} <= allowed[package]


def test_a_plain_import_pulls_in_no_extra():
    """torch itself may import triton, so that one is looked for under the name of our kernel's file."""
    code = "import sys, mask2former, oneformer, weights; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(loaded.stdout.split())
    assert not set(EXTRAS) & {module.split(".")[0] for module in modules}
    assert "mask2former.modeling.deformable_attention_triton" not in modules
