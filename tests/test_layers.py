"""The layers of the code: who may import whom, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Bottom to top; a file may import from its own layer's packages and from lower layers.
LAYERS = [{"draws", "errors", "garbage", "hashes", "origins", "pages", "records", "walk"}, {"sizes"}, {"types"},
          {"c_header", "cells", "counts", "index"}, {"assumed"}, {"op"}, {"ir", "more_methods"}, {"keywords"}, {"methods"},
          {"access", "identity", "labels", "structures", "symbols"},
          {"declaration", "ops"}, {"autograd", "linalg", "loops", "utils"},
          {"plan", "tokens"}, {"literals"}, {"parsing"}, {"text"}, {"built", "viz"}, {"html", "lanes"}, {"lanes_page"},
          {"optim", "nn", "saving"}, {"passes", "runtime"}, {"feeds", "finite", "precision", "specialized", "timeline"},
          {"derivation", "fit", "inspection", "watching"}, {"program"}, {"driver", "exporting", "familiar"},
          {"static_graph", "lbfgs"},
          {"testing", "loading"}, {"checking", "cli_texts", "completion"}, {"cli"}, {"__main__"}]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def sources() -> list[Path]:
    return sorted(p for folder in ("graphc", "passes", "runtime") for p in (ROOT / folder).rglob("*.py"))


def test_every_file_has_a_layer() -> None:
    assert {layer_of(p) for p in sources()} - {"__init__"} <= set(RANK)


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] in ("passes", "runtime") else parts[1]


def imports(path: Path) -> list[tuple[str, str, bool]]:
    """(top package, first part below graphc, at module level) of every import outside TYPE_CHECKING blocks."""
    tree = ast.parse(path.read_text())
    guarded = {n for block in ast.walk(tree) if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
               for n in ast.walk(block)}
    package = ["graphc", *path.relative_to(ROOT / "graphc").parts[:-1]] if path.is_relative_to(ROOT / "graphc") else \
        ["graphc", *path.relative_to(ROOT).parts[:-1]]
    found = []
    for node in ast.walk(tree):
        if node in guarded:
            continue
        top = node in tree.body
        if isinstance(node, ast.Import):
            found += [(a.name.split(".")[0], [*a.name.split("."), ""][1], top) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            full = [*base, *(node.module or "").split(".")] if node.module else base
            if len(full) == 1 and full[0] == "graphc":
                found += [("graphc", a.name, top) for a in node.names]
            else:
                found.append((full[0], full[1] if len(full) > 1 else "", top))
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    own = layer_of(path)
    if own == "__init__":
        return
    for top, below, at_module_level in imports(path):
        if top == "graphc" and below in RANK and below != own and at_module_level:
            assert RANK[below] < RANK[own] or {below, own} <= {"optim", "nn"}, f"{own} imports {below}"
        if {own, below} == {"passes", "runtime"}:
            raise AssertionError(f"{own} imports {below}: they meet only in the plan")
        if top == "llvmlite":
            assert "native" in path.parts, "only runtime/native imports llvmlite"
        if top in ("networkx", "pygraphviz", "llvmlite") and "native" not in path.parts:
            assert not at_module_level, f"{top} is loaded only by what needs it"


def test_import_is_light() -> None:
    code = "import sys, graphc; print([m for m in ('llvmlite', 'networkx', 'torch', 'pygraphviz') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert out.stdout.strip() == "[]"
