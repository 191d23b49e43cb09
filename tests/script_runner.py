"""Runs an experiment's script as its users do: on one process, or on several."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from forked import ROOT, run
from PIL import Image


def run_script(name: str, output: Path, *arguments: str, processes: int = 1) -> tuple[list[dict[str, Any]], list[str]]:
    """Run scripts/NAME.py into `output`; the rows that it left, without their times, and what each process printed."""
    said = run(ROOT / "scripts" / f"{name}.py", "--output", str(output), *arguments, processes=processes)
    rows = [json.loads(line) for line in (output / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row.pop("seconds")
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True)), said


def numbers(folder: Path) -> list[dict[str, str]]:
    """figure.csv, which is not empty, without its times."""
    with open(folder / "figure.csv", newline="", encoding="utf-8") as file:
        table = [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]
    assert table
    return table


def smoke_on_one_and_two(name: str, folder: Path, *arguments: str, unit: int = 1) -> list[dict[str, Any]]:
    """The smoke preset on one process and on two: the same rows, each process its share, and all files there.

    Jobs are shared out in units of so many, whole ones.
    """
    arguments = ("--preset", "smoke", *arguments)
    one, _ = run_script(name, folder / "one", *arguments)
    two, said = run_script(name, folder / "two", *arguments, processes=2)
    assert one == two
    done = [text.count(", seconds ") for text in said]
    is_even = abs(done[0] - done[1]) <= unit and all(count % unit == 0 for count in done)
    assert len(done) == 2 and sum(done) == len(one) and is_even, f"jobs of each: {done}, {said}"
    assert numbers(folder / "one") == numbers(folder / "two")
    claims = [
        re.sub(r"[\d.]+ times", "", (folder / n / "claim.txt").read_text(encoding="utf-8")) for n in ("one", "two")
    ]
    assert claims[0] == claims[1] and len(claims[0]) > 50
    with Image.open(folder / "one" / "figure.png") as a, Image.open(folder / "two" / "figure.png") as b:
        assert a.size == b.size and min(a.size) > 300
    again, [text] = run_script(name, folder / "two", *arguments)
    assert again == one and ", seconds " not in text, "a finished run was done again"
    return one
