"""The documents: their code is run, their commands are accepted, and what they name exists.

Blocks of Python and commands in README.md, CONTRIBUTING.md and docs/ are run page by page, in order, offline, in a
temporary folder with a photo `street.jpg` and a folder `photos/`. A comment above a block says why it is left out,
`<!-- not run: download -->`; one on a page, `<!-- after: own-data.md -->`, that another page's blocks come first.
"""

import ast
import re
import shlex
import shutil
import socket
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former import cli
from weights.bundled import PHOTO
from weights.zoo import ZOO

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- not run: (.+?) -->\n)?```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODEL = "mask2former_swin_tiny_coco_panoptic"
# How many blocks are left out, and why. A block that can run offline is not among them.
LEFT_OUT = {"download": 6, "installs": 4, "data": 3, "GPU": 1, "hours": 3}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int  # of its first line in the page
    language: str
    source: str
    left_out: str | None  # why it is not run

    @property
    def commands(self) -> list[list[str]]:
        lines = self.source.replace("\\\n", " ").splitlines()
        parts = (part for line in lines for part in line.split("  #")[0].split("&&"))
        return [words for words in map(shlex.split, parts) if words]


@cache
def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^[ \t]+```", text, re.MULTILINE), f"{page.name}: an indented block would not be found"
    return [
        Block(page, text[: found.start(3)].count("\n") + 1, found[2], found[3], found[1])
        for found in BLOCK.finditer(text)
    ]


ALL = [block for page in PAGES for block in blocks(page)]


def run(block: Block, names: dict) -> None:
    if block.language == "python":
        source = "\n" * (block.line - 1) + block.source  # so that an error names the page's own line
        exec(compile(source, str(block.page), "exec"), names)
        return
    for words in block.commands:
        if words[0] in ("mask2former", "oneformer"):
            code = cli.main(words[1:], words[0])
        elif words[:3] == ["python", "-m", "tests.parity"]:
            from tests import parity

            code = parity.main(words[3:])
        else:
            raise AssertionError(f"{block.page.name}, line {block.line}: who runs {words[0]!r}? Say why it is not run")
        assert code == 0, f"{block.page.name}, line {block.line}: {shlex.join(words)} gave {code}"


@pytest.fixture(scope="module")
def folder_after(tmp_path_factory):
    """page → the folder in which its blocks, and those of the pages it comes after, have been run."""

    @cache
    def folder_after(page: Path) -> Path:
        text = page.read_text(encoding="utf-8")
        earlier = re.search(r"^<!-- after: (\S+) -->$", text, re.MULTILINE)
        folder = folder_after(page.with_name(earlier[1])) if earlier else tmp_path_factory.mktemp(page.stem)
        if not earlier:
            (folder / "photos").mkdir()
            for name in ("street.jpg", "photos/one.jpg", "photos/two.jpg"):
                shutil.copy(PHOTO, folder / name)
        names = {"__name__": "__main__"}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(socket.socket, "connect", refuse)
            for block in blocks(page):
                if block.language in ("python", "bash") and not block.left_out:
                    run(block, names)
        return folder

    return folder_after


def refuse(self, address):
    raise AssertionError(f"a block wants {address}: mark it `<!-- not run: download -->`")


@pytest.mark.filterwarnings("ignore:the class head of")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_can_be_done(page, folder_after):
    folder_after(page)


def test_what_is_not_run_says_why_and_is_counted():
    assert Counter(block.left_out for block in ALL if block.left_out) == LEFT_OUT
    assert {block.language for block in ALL} == {"python", "bash", "text"}
    assert sum(block.language != "text" and not block.left_out for block in ALL) >= 30


@pytest.mark.parametrize("block", [b for b in ALL if b.left_out], ids=lambda b: f"{b.page.name}:{b.line}")
def test_what_is_not_run_is_at_least_accepted(block, monkeypatch):
    """Python that compiles; commands whose options exist. What they would do is tested elsewhere."""
    if block.language == "python":
        ast.parse(block.source)
        return
    done = {name: (options, lambda _: 0) for name, (options, _) in cli.COMMANDS.items()}
    for _, stand_in in done.values():
        stand_in.__doc__ = "Anything."
    monkeypatch.setattr(cli, "COMMANDS", done)
    for words in block.commands:
        if words[0] == "torchrun":
            words = words[words.index("-m") + 1 :]
        if words[0] in ("mask2former", "oneformer"):
            assert cli.main(words[1:], words[0]) == 0, words
        else:
            assert words[0] in ("pip", "python", "ruff", "mkdocs"), words


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_files_tests_and_links_exist(page):
    """Between backquotes: a path of the project; after a test file, the tests it is said to have. Links on GitHub."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    inside = "|".join(("mask2former", "oneformer", "weights", "tests", "benchmarks", "docs", r"\.ci"))
    for path in re.findall(rf"`((?:{inside})/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    for file, tests in re.findall(r"`tests/(test_\w+\.py)`:((?: `test_\w+`,?)+)", text):
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        for test in re.findall(r"`(test_\w+)`", tests):
            assert f"def {test}(" in source, f"{file}: {test}"
    if page.parent == ROOT:  # mkdocs --strict looks after the links of the pages
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert "://" in link or (ROOT / link).exists(), link


def test_the_readme_is_short_and_its_map_is_true():
    """A folder a line: every package with its folders, and everything in the map is there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    named = {line.split()[0] for line in text.split("## File map")[1].split("```")[1].splitlines()[1:]}
    packages = {path.parent.relative_to(ROOT) for path in (ROOT / "mask2former").glob("*/__init__.py")}
    expected = {f"{path}/" for path in packages} | {
        f"{n}/" for n in ("oneformer", "weights", "benchmarks", "tests", "docs")
    }
    assert named == expected


def test_the_readmes_numbers_are_the_benchmarks():
    """Ours, transformers' and the ratio of each row stand side by side in one row of RESULTS.md, at that size."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    measured = {(row[1], *row[3:6]) for row in cells}
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("| work | size |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert len(rows) >= 5
    for _, size, ours, theirs, ratio in rows:
        assert (size, ours, theirs, ratio.split()[0]) in measured


def test_continuous_integration_runs_the_readmes_command_after_the_documents():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^pip install .* && python -m pytest$", readme, re.MULTILINE)) == 1
    steps = (ROOT / ".ci/run").read_text(encoding="utf-8")
    order = [steps.index(step) for step in ("README.md", "ruff check", "mkdocs build --strict", "${command#* && }")]
    assert order == sorted(order)


@pytest.fixture(scope="module")
def generate():
    """docs/generate.py, as mkdocs loads it."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("latex2mathml")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        import generate

        yield generate
    sys.modules.pop("generate")


def test_generated_tables_hold_what_their_sources_hold(generate, monkeypatch):
    assert round(generate.parameters("mask2former", "swin_tiny", 100, 133, MODEL) / 1e6) == 47
    monkeypatch.setattr(generate, "parameters", lambda *_: 47e6)  # of all networks it takes ten seconds
    page = generate.on_page_markdown("{{ models }}")
    for row in ZOO.values():
        line = next(line for line in page.splitlines() if f"`{row.name}`" in line)
        assert row.weight_licence in line and all(f"{score:g}" in line for score in row.scores.values())
    results = generate.on_page_markdown("{{ results }}")
    written = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    assert results.count("×") >= written.count("×") and written.splitlines()[-1] in results
    assert len(generate.on_page_markdown("{{ headlines }}").splitlines()) == 2 + len(generate.HEADLINES)
    with pytest.raises(KeyError):
        generate.on_page_markdown("{{ nothing }}")


def test_formulas_become_mathml(generate):
    html = generate.on_page_content(r'<p><span class="arithmatex">\(x_1 &lt; y\)</span></p>')
    assert "<msub>" in html and ("&lt;" in html or "&#x0003C;" in html) and "arithmatex" not in html
    with pytest.raises(ValueError, match="nonsense"):
        generate.mathml(r"\nonsense x", "inline")


def test_what_a_docstring_says_of_arguments_becomes_a_list():
    pytest.importorskip("griffe")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        from docstrings import as_markdown
    text = "Do it.\n\nArgs:\n    size, shape: of it,\n        in pixels.\n    other: too.\nnote: none.\n\nRaises it."
    expected = (
        "Do it.\n\n**Args**\n\n* `size, shape`: of it,\n  in pixels.\n* `other`: too.\n  note: none.\n\nRaises it."
    )
    assert as_markdown(text, {"size", "shape", "other"}) == expected


def test_the_readmes_picture_is_what_the_library_makes(generate, tmp_path):
    (tmp_path / "overlay.jpg").write_bytes(generate.pictures()["overlay.jpg"])
    with Image.open(tmp_path / "overlay.jpg") as made, Image.open(ROOT / "docs/pictures/overlay.jpg") as committed:
        assert made.size == committed.size
        assert np.abs(np.asarray(made, float) - np.asarray(committed, float)).mean() < 2
    assert (ROOT / "docs/pictures/overlay.jpg").stat().st_size <= 100_000
