"""The README's Python example runs as it stands and prints what it says; the file map and all links are true."""

from __future__ import annotations

import pkgutil
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import hf_llc
from hf_llc.result import LLCResult

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands. λ̂ is random: it may lie within five of its errors of what the README shows."""
    monkeypatch.chdir(tmp_path)
    code, shown = re.findall(r"```(?:python|text)\n(.*?)```", TEXT, flags=re.DOTALL)[:2]
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    pattern = r"λ̂ = (\d+) ± (\d+) of 53,216 parameters\nat nβ (\d+) and γ (\d+): trustworthy\n"
    said, found = (re.fullmatch(pattern, text) for text in (shown, printed))
    assert said is not None and found is not None
    assert abs(int(said[1]) - int(found[1])) < 5 * int(said[2]) and said[3] == found[3]
    assert abs(int(said[4]) - int(found[4])) < 0.1 * int(said[4])
    assert LLCResult.load(tmp_path / "runs" / "mine").is_trustworthy
    assert {path.name for path in (tmp_path / "runs" / "mine").iterdir()} >= {"result.json", "trace.png"}


def test_file_map_names_every_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"## The map of files\n.*?```\n(.*?)```", page, flags=re.DOTALL)
    assert block is not None
    named = set(re.findall(r"\w+(?:\.py|/)", block[1]))
    here = {path.name for path in (ROOT / "hf_llc").glob("*.py")} - {"__init__.py", "__main__.py"}
    here |= {f"{path.parent.name}/" for path in (ROOT / "hf_llc").glob("*/__init__.py")}
    assert here - named == set()
    there = {path.name if path.is_file() else f"{path.name}/" for path in ROOT.glob("[!.]*")}
    for folder in ("hf_llc", "scripts", "benchmarks", "tests", "docs"):
        there |= {path.name if path.is_file() else f"{path.name}/" for path in (ROOT / folder).rglob("*")}
    assert named - there == set()


def test_one_version() -> None:
    """CITATION.cff and the newest section of CHANGELOG.md have the version of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (hf_llc.__version__, project["license"])
    released = re.findall(r"^## \[(\d[\w.]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert released[0] == hf_llc.__version__


def test_the_readme_stays_short() -> None:
    """One screen and a half: nobody reads more before the first command."""
    lines = TEXT.splitlines()
    cells = [cell for line in lines if line.startswith("|") for cell in line.strip("|").split("|")]
    assert len(TEXT.split()) <= 900 and len(lines) <= 120
    assert max(map(len, cells)) <= 120 and max(len(line) for line in lines if not line.startswith("|")) <= 140


PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        name, _, heading = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if heading:
            assert heading in headings(path), target


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_the_page_of_formulas_names_functions_that_are_there() -> None:
    text = (ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")
    packages = "|".join(path.parent.name for path in (ROOT / "hf_llc").glob("*/__init__.py"))
    names = set(re.findall(rf"(?<![\w.])(?:{packages})(?:\.\w+)+", text))
    assert len(names) > 10
    for name in names:
        assert pkgutil.resolve_name(f"hf_llc.{name}") is not None
