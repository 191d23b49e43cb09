"""Imports run one way, down the list of packages in docs/architecture.md; lazy and TYPE_CHECKING ones too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "hf_llc"

FLOORS = (
    *(
        "version",
        "errors",
        "files",
        "our_files",
        "seals",
        "numerals",
        "ranges",
        "budget",
        "setting_checks",
        "observe_setting",
        "weights_setting",
        "sampler_rules",
        "config",
        "presets",
        "problem",
        "components",
        "theory",
    ),
    *("embedded", "backend", "models"),
    *(
        "parallel",
        "progress_display",
        "clock",
        "progress",
        "records",
        "posterior",
        "samplers",
        "observables",
        "chains",
        "judging",
        "calibration",
    ),
    *("publishing", "loading", "result", "workflow", "studies", "evaluator", "callback", "metrics"),
    *("__init__", "cli", "__main__"),
)
"""From the ground up: each imports only itself and what stands before it."""


def imports(root: Path) -> Iterator[tuple[str, str]]:
    """(module, module of ours that it imports), wherever in the file the import stands."""
    files = {".".join(("hf_llc", *path.relative_to(root).with_suffix("").parts)): path for path in root.rglob("*.py")}
    for module, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in (name for name in names if name.split(".")[0] == "hf_llc"):
                candidates = (name, f"{name}.__init__", name.rpartition(".")[0], f"{name.rpartition('.')[0]}.__init__")
                yield module, next(candidate for candidate in candidates if candidate in files)


def floor(module: str) -> int:
    return FLOORS.index(module.split(".")[1])


def upward(root: Path) -> list[str]:
    return sorted({f"{one} imports {other}" for one, other in imports(root) if floor(other) > floor(one)})


def circle(root: Path) -> list[str]:
    """The modules of a circle of imports; empty if there is none."""
    graph: dict[str, set[str]] = {}
    for one, other in imports(root):
        if one != other:
            graph.setdefault(one, set()).add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.slow
def test_no_import_runs_upward() -> None:
    assert upward(ROOT) == []


@pytest.mark.slow
def test_no_circle_of_imports() -> None:
    assert circle(ROOT) == []


@pytest.mark.parametrize("line", ["from hf_llc.cli import console", "import hf_llc.workflow.run"])
@pytest.mark.parametrize("place", ["{}", "def f():\n    {}", "if TYPE_CHECKING:\n    {}"])
def test_a_planted_import_is_seen(line: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    for name in ("cli/console", "workflow/run"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.py").write_text("from hf_llc.records import trace\n", encoding="utf-8")
    (tmp_path / "records" / "trace.py").write_text(place.format(line), encoding="utf-8")
    assert len(upward(tmp_path)) == 1
    assert len(circle(tmp_path)) == 3
