"""The README's Python example runs as it stands, and its file map is true."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

from hf_llc.result import LLCResult

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    block = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)[0]
    exec(compile(block, "README.md", "exec"), {})
    assert f"{LLCResult.load(tmp_path / 'runs' / 'mine')}\n" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "runs" / "mine").iterdir()} >= {"result.json", "trace.png"}


def test_file_map_names_every_module() -> None:
    block = re.search(r"## Files\n\n```\n(.*?)```", TEXT, flags=re.DOTALL)
    assert block is not None
    named = set(re.findall(r"\w+(?:\.py|/)", block[1]))
    here = {path.name for path in (ROOT / "hf_llc").glob("*.py")} - {"__init__.py", "__main__.py"}
    here |= {f"{path.parent.name}/" for path in (ROOT / "hf_llc").glob("*/__init__.py")}
    assert here - named == set()
    there = {path.name if path.is_file() else f"{path.name}/" for path in ROOT.glob("[!.]*")}
    for folder in ("hf_llc", "scripts", "benchmarks", "tests", "docs"):
        there |= {path.name if path.is_file() else f"{path.name}/" for path in (ROOT / folder).rglob("*")}
    assert named - there == set()


def test_pictures_and_files_are_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_the_page_of_formulas_names_functions_that_are_there() -> None:
    text = (ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")
    packages = "|".join(path.parent.name for path in (ROOT / "hf_llc").glob("*/__init__.py"))
    names = set(re.findall(rf"(?<![\w.])(?:{packages})(?:\.\w+)+", text))
    assert len(names) > 10
    for name in names:
        assert pkgutil.resolve_name(f"hf_llc.{name}") is not None
