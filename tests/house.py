"""What a reader of the house counts: circles and upward imports, long files and functions, many arguments and fields.

    python tests/house.py                 # of this checkout
    python tests/house.py OTHER/CHECKOUT  # of another one, for a table of before and after

A function is as long as its source, docstring included; `self` and `cls` are no arguments.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from test_architecture import FLOORS, imports, upward

LONG_FILE, LONG_FUNCTION, MANY_ARGUMENTS = 300, 60, 8
"""Lines, lines, arguments: what is above is listed."""

Found = list[tuple[int, str]]
"""How many, and of what; the largest first."""


def circles(root: Path) -> list[list[str]]:
    """The sets of modules that reach each other through imports, each set as large as it gets."""
    graph: dict[str, set[str]] = {}
    for one, other in imports(root):
        if one != other:
            graph.setdefault(one, set()).add(other)
    reached = {module: _reached(graph, module) for module in graph}
    sets = {tuple(sorted(x for x in reached[m] if m in reached.get(x, ()))) for m in graph if m in reached[m]}
    return [list(each) for each in sorted(sets)]


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    open_ = [start]
    while open_:
        new = graph.get(open_.pop(), set()) - found
        found |= new
        open_.extend(new)
    return found


def sources(root: Path) -> Iterator[tuple[str, str]]:
    """(path, text) of every Python file of the package, the scripts and the benchmarks."""
    for folder in ("hf_llc", "scripts", "benchmarks"):
        for path in sorted((root / folder).rglob("*.py")):
            yield str(path.relative_to(root)), path.read_text(encoding="utf-8")


def files(root: Path) -> Found:
    """Lines of each file."""
    return _largest((len(text.splitlines()), path) for path, text in sources(root))


def functions(root: Path) -> tuple[Found, Found]:
    """Lines of each function, and its arguments."""
    lines, arguments = [], []
    for path, text in sources(root):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                name = f"{path}: {node.name}"
                lines.append(((node.end_lineno or node.lineno) - node.lineno + 1, name))
                taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                arguments.append((len([each for each in taken if each.arg not in ("self", "cls")]), name))
    return _largest(lines), _largest(arguments)


def dataclasses(root: Path) -> Found:
    """Fields of each dataclass, those of its parents aside."""
    found = []
    for path, text in sources(root):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in node.decorator_list):
                fields = sum(isinstance(each, ast.AnnAssign) for each in node.body)
                found.append((fields, f"{path}: {node.name}"))
    return _largest(found)


def _largest(found: Iterator[tuple[int, str]] | list[tuple[int, str]]) -> Found:
    return sorted(found, key=lambda each: (-each[0], each[1]))


def report(root: Path) -> str:
    """The table, and under each line what it counts."""
    package = root / "hf_llc"
    names = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/*.py")}
    found = circles(package)
    lines = [f"{len(found):6}  circles of imports", *(f"          {' ↔ '.join(each)}" for each in found)]
    if names <= set(FLOORS):
        up = upward(package)
        lines += [f"{len(up):6}  imports that run upward", *(f"          {each}" for each in up)]
    else:
        lines.append("     –  imports that run upward: these modules have no floors")
    by_lines, by_arguments = functions(root)
    for kind, every, limit in (
        (f"files over {LONG_FILE} lines", files(root), LONG_FILE),
        (f"functions over {LONG_FUNCTION} lines, of {len(by_lines)}", by_lines, LONG_FUNCTION),
        (f"functions with over {MANY_ARGUMENTS} arguments", by_arguments, MANY_ARGUMENTS),
    ):
        over = [each for each in every if each[0] > limit]
        lines += [f"{len(over):6}  {kind}", *(f"          {count:4}  {what}" for count, what in over)]
    most, which = dataclasses(root)[0]
    lines.append(f"{most:6}  fields of the largest dataclass, {which}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]))
