"""docs/results: what the README says of the paper's experiments comes from the rows that lie there."""

from __future__ import annotations

import csv
import os
import runpy
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = sorted(path.name for path in (ROOT / "docs" / "results").iterdir())


def numbers(path: Path) -> list[list[str | float]]:
    """The table, numbers to nine digits: another numpy may round the last ones otherwise."""
    with open(path, newline="", encoding="utf-8") as file:
        return [[_rounded(cell) for cell in row] for row in csv.reader(file)]


def _rounded(cell: str) -> str | float:
    try:
        return float(f"{float(cell):.9g}")
    except ValueError:
        return cell


@pytest.mark.parametrize("name", RESULTS)
def test_plot_only_makes_figure_numbers_and_sentence_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed, folder = ROOT / "docs" / "results" / name, tmp_path / name
    folder.mkdir()
    shutil.copy(committed / "rows.jsonl", folder)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--plot-only", "--output", str(folder)])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(os.fspath(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    assert (folder / "claim.txt").read_text(encoding="utf-8") == (committed / "claim.txt").read_text(encoding="utf-8")
    assert numbers(folder / "figure.csv") == [
        [pytest.approx(cell, nan_ok=True) if isinstance(cell, float) else cell for cell in row]
        for row in numbers(committed / "figure.csv")
    ]
    assert (folder / "figure.png").stat().st_size > 0
    assert sorted(path.name for path in folder.iterdir()) == ["claim.txt", "figure.csv", "figure.png", "rows.jsonl"]


def test_the_readme_shows_each_picture() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert RESULTS and all(f"docs/results/{name}/figure.png" in text for name in RESULTS)
