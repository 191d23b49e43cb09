"""The notebooks run from top to bottom, in short; what they show was printed by them, and is light."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import documentation
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

SHORTER = {"max_steps=800": "max_steps=4", "every=200": "every=2"}
"""What is put in place, beside what documentation.py says: four steps of training, λ̂ twice."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """The runner of scripts/run_notebooks.py."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import run_notebooks

    return run_notebooks.run


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    path: Path, run: Callable[[dict[str, Any]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    documentation.make_short(monkeypatch, num_draws=24)
    text = path.read_text(encoding="utf-8")
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    notebook = json.loads(text)
    before = [[sorted(output) for output in cell["outputs"]] for cell in code_cells(notebook)]
    run(notebook)
    assert [[sorted(output) for output in cell["outputs"]] for cell in code_cells(notebook)] == before


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_shows(path: Path) -> None:
    """Every cell was run, in order; nothing of a machine and no fault stands in it; it is light."""
    cells = code_cells(read(path))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output["output_type"] in ("stream", "display_data") for cell in cells for output in cell["outputs"])
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 150_000 and "Traceback" not in text and "/tmp" not in text and "/home" not in text


def test_a_cell_that_fails_is_named(run: Callable[[dict[str, Any]], None]) -> None:
    cell = {"cell_type": "code", "source": ["1 / 0"], "outputs": []}
    with pytest.raises(ZeroDivisionError) as caught:
        run({"cells": [cell]})
    assert "in cell 1" in caught.value.__notes__[0]


def test_there_are_three() -> None:
    assert len(NOTEBOOKS) == 3
