"""What the site is made of besides its pages, made anew at every build: tables, pictures, the pages of the code.

A page says `{{ models }}`, or another name of `TABLES`, on a line of its own where a table belongs. Formulas between
dollars become MathML here, so that no script is needed to read them.
"""

from __future__ import annotations

import ast
import html
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # this copy of the project, whichever is installed

from pictures import pictures  # noqa: E402

import weights  # noqa: E402
from mask2former import Mask2Former  # noqa: E402
from oneformer import OneFormer  # noqa: E402
from weights.zoo import ZOO, PublishedModel  # noqa: E402

RESULTS = ROOT / "benchmarks/RESULTS.md"
CODE = {
    "code/modeling.md": ("The networks' parts", "mask2former/modeling"),
    "code/oneformer.md": ("What OneFormer adds", "oneformer"),
    "code/kernels.md": ("The operations", "mask2former/kernels"),
}
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
TITLES = {"coco": "COCO", "ade20k": "ADE20K", "cityscapes": "Cityscapes", "mapillary_vistas": "Mapillary Vistas"}
# The rows of RESULTS.md that say most: size and part as they stand there, and what the part is in plain words.
HEADLINES = (
    ("mask2former_swin_tiny", "800×1088", "float32 eager", "Mask2Former Swin-T, seconds"),
    ("mask2former_resnet50", "800×1088", "float32 eager", "Mask2Former ResNet-50, seconds"),
    ("mask2former_swin_large", "800×1333", "float32 eager", "Mask2Former Swin-L, seconds"),
    ("oneformer_swin_tiny", "640×640", "float32 eager", "OneFormer Swin-T, seconds"),
    ("oneformer_swin_large", "640×640", "float32 eager", "OneFormer Swin-L, seconds"),
    ("mask2former_swin_tiny", "800×1088", "float32 peak MiB", "Mask2Former Swin-T, peak MiB"),
    ("training step, float32", "2 × 512×512", "all", "Training step Swin-T, seconds"),
    ("training step, float32", "2 × 512×512", "peak MiB", "Training step Swin-T, peak MiB"),
    ("post-processing", "1024×2048", "panoptic", "Panoptic post-processing, seconds"),
    ("post-processing", "1024×2048", "instance", "Instance post-processing, seconds"),
    ("sampling, the operation", "800×1088", "float32 forward", "Deformable sampling alone, seconds"),
)


# --- Hooks of mkdocs -------------------------------------------------------------------------------------------------


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, content in pictures().items():
        if files.get_file_from_path(f"pictures/{name}") is None:  # the README's is committed
            files.append(File.generated(config, f"pictures/{name}", content=content))
    for name, (title, folder) in CODE.items():
        files.append(File.generated(config, name, content=code_page(title, folder)))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    return re.sub(r"^\{\{ (\w+) \}\}$", lambda found: TABLES[found[1]](), markdown, flags=re.MULTILINE)


def on_page_content(content: str, **_) -> str:
    """arithmatex has marked the formulas: \\(…\\) in a line, \\[…\\] on their own."""
    content = INLINE.sub(lambda found: mathml(found[1], "inline"), content)
    return BLOCK.sub(lambda found: mathml(found[1], "block"), content)


def mathml(formula: str, display: str) -> str:
    converted = convert(html.unescape(formula.strip()), display=display)
    if "\\" in converted:
        raise ValueError(f"{formula}: the converter does not know all of it: {converted}")
    return converted


# --- The models ------------------------------------------------------------------------------------------------------


def models_table() -> str:
    """A table for each family and dataset, from the zoo."""
    sections = []
    for family, title in (("mask2former", "Mask2Former"), ("oneformer", "OneFormer")):
        for dataset, name in TITLES.items():
            rows = [row for row in ZOO.values() if (row.family, row.dataset) == (family, dataset)]
            if rows:
                sections += [f"## {title} on {name}", markdown_table(MODEL_COLUMNS, map(model_row, rows))]
    return "\n\n".join(sections)


MODEL_COLUMNS = ("name", "tasks", "published scores", "protocol", "weights' licence", "parameters", "files")


def model_row(row: PublishedModel) -> tuple[str, ...]:
    protocol, scores = row.config.protocol, ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in row.scores.items())
    sizes = f"{protocol.short_side} to {protocol.long_side}"
    if "panoptic" in protocol.tasks:
        sizes += f", score > {protocol.object_mask_threshold:g}"
    links = [f"[hub](https://huggingface.co/{row.hub_id})"] if row.hub_id else []
    links += [f"[original]({row.url})"] if row.url else []
    return (
        f"`{row.name}`",
        ", ".join(row.tasks),
        scores,
        sizes,
        row.weight_licence,
        f"{parameters(row.family, row.backbone, row.num_queries, row.config.num_classes, row.name) / 1e6:.0f} M",
        ", ".join(links),
    )


SEEN: dict[tuple, int] = {}


def parameters(family: str, backbone: str, queries: int, classes: int, name: str) -> int:
    """Of the network, without OneFormer's training-only text branch; built without storage."""
    key = (family, backbone, queries, classes)
    if key not in SEEN:
        with torch.device("meta"):
            network = {"mask2former": Mask2Former, "oneformer": OneFormer}[family](ZOO[name].config)
        SEEN[key] = sum(p.numel() for p in network.parameters())
    return SEEN[key]


# --- The results of the benchmarks -----------------------------------------------------------------------------------


@cache
def results() -> tuple[str, list[list[str]], str]:
    """RESULTS.md: the lines before its table, the table's rows without its head, the notes after it."""
    text = RESULTS.read_text(encoding="utf-8")
    lines = text.splitlines()
    at = [n for n, line in enumerate(lines) if line.startswith("|")]
    rows = [[cell.strip() for cell in lines[n].strip("|").split("|")] for n in at]
    return "\n".join(lines[1 : at[0]]).strip(), rows[2:], "\n".join(lines[at[-1] + 1 :]).strip()


def headlines() -> str:
    found = {tuple(row[:3]): row for row in results()[1]}
    rows = [(said, size, *found[work, size, part][3:6]) for work, size, part, said in HEADLINES]
    return markdown_table(("work", "size", "here", "transformers", "ratio"), rows)


def all_results() -> str:
    """Every row, folded away by kind of work, then the notes."""
    machine, rows, notes = results()
    head = ("size", "part", "ours", "transformers", "ratio", "goal")
    folded = []
    for work in dict.fromkeys(row[0] for row in rows):
        table = markdown_table(head, [row[1:] for row in rows if row[0] == work])
        folded += [f'??? note "{work}"', *(f"    {line}" if line else "" for line in ["", *table.splitlines()]), ""]
    return "\n".join([f"> {machine}".replace("\n", "\n> "), "", *folded, notes])


# --- Markdown --------------------------------------------------------------------------------------------------------


def code_page(title: str, folder: str) -> str:
    """Every file of a folder with its classes and functions, their documents and their source."""
    start = ROOT / folder
    lines = [f"# {title}: `{folder}`", "", module_docstring(start / "__init__.py")]
    for path in sorted(start.rglob("*.py")):
        if path in (start / "__init__.py", start / "__main__.py"):
            continue
        inside = path.relative_to(start)
        name = f"{inside.parent}/" if path.stem == "__init__" else str(inside)
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        lines += ["", f"## {name}", "", f"::: {module}", "    options:"]
        lines += [f"      {option}" for option in ("show_root_heading: false", "show_root_toc_entry: false")]
    return "\n".join(lines)


def module_docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def markdown_table(head, rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def zoo_functions() -> str:
    """What `weights` shows, wherever it is written, for mkdocstrings."""
    shown = [getattr(weights, name) for name in weights.__all__]
    return "\n\n".join(f"::: {f.__module__}.{f.__qualname__}" for f in shown if not isinstance(f, type))


TABLES: dict[str, Callable[[], str]] = {
    "zoo": zoo_functions,
    "models": models_table,
    "headlines": headlines,
    "results": all_results,
}
