"""What the sentences of several experiments share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from claims import tiny_part, verdicts


@pytest.mark.parametrize(
    ("llc", "word"),
    [
        ([4.0, 5.0, 6.0], "Seen"),
        ([40.0, 50.0, 60.0], "Not seen"),
        ([9.0, 10.0, 11.5], "Cannot tell"),
        ([4.0], "Cannot tell"),
        ([4.0, float("nan")], "Cannot tell"),
    ],
)
def test_a_tiny_part_of_the_parameters_is_tested(llc: list[float], word: str) -> None:
    said = tiny_part(llc, 1000, "these")
    assert said.startswith(f"{word}: λ̂ of these is a tiny part")
    assert f"n = {len(llc)}" in said


def test_verdicts_are_counted() -> None:
    rows = [{"verdict": name} for name in ("trustworthy", "drifting", "too few draws", "drifting")]
    assert verdicts(rows) == "1 of 4 trustworthy, 2 “drifting”, 1 “too few draws”"
    assert verdicts(rows[:1]) == "1 of 1 trustworthy"
