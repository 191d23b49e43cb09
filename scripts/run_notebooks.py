"""Run the notebooks in this process, and write what they print and draw into them. No jupyter is needed.

    python scripts/run_notebooks.py                           # all of notebooks/, some minutes on one core
    python scripts/run_notebooks.py notebooks/first_llc.ipynb

A notebook's cells share one namespace, and work in an empty folder of their own.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

from hf_llc.files import write_atomically


class Printed(io.StringIO):
    """What a cell prints. As a notebook does, it takes every letter: reports then have λ̂ and γ."""

    encoding = "utf-8"


FOLDER = Path(__file__).parents[1] / "notebooks"


def run(notebook: dict[str, Any]) -> None:
    """Run the code cells in order, in the working folder; each gets its output.

    Raises:
        Exception: what a cell raises, with a note that says which cell it was.
    """
    import matplotlib.pyplot as plt

    matplotlib.use("Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for count, cell in enumerate(code, start=1):
        printed = Printed()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
                exec(compile("".join(cell["source"]), f"cell {count}", "exec"), names)
        except Exception as error:
            error.add_note(f"in cell {count}: {''.join(cell['source'])[:200]}")
            raise
        cell["execution_count"] = count
        cell["outputs"] = [*_text(printed.getvalue()), *_pictures(plt)]


def _text(printed: str) -> Iterator[dict[str, Any]]:
    lines = [line for line in printed.splitlines(keepends=True) if line.strip() and not re.match(r"\s*\d+%\|", line)]
    if lines:
        yield {"name": "stdout", "output_type": "stream", "text": lines}


def _pictures(plt: Any) -> Iterator[dict[str, Any]]:
    for number in plt.get_fignums():
        file = io.BytesIO()
        plt.figure(number).savefig(file, dpi=70, bbox_inches="tight", format="png")
        data = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": ["<Figure>"]}
        yield {"data": data, "metadata": {}, "output_type": "display_data"}
    plt.close("all")


def main() -> None:
    """Run the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description="Run the notebooks, and write their outputs into them.")
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(FOLDER.glob("*.ipynb")))
    for path in [each.resolve() for each in parser.parse_args().notebooks]:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            run(notebook)
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        write_atomically(path, lambda place, text=text: place.write_text(text, encoding="utf-8"))
        print(f"{path.name}: {os.path.getsize(path) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
