"""The picture of a comparison: λ̂ of every run, and its change from the first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_llc.publishing.picture import BAD, GOOD, drawn, steady_range
from hf_llc.records.findings import TRUSTWORTHY, is_trusted

if TYPE_CHECKING:
    from hf_llc.studies.comparison import Comparison


def plot_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Draw λ̂ ± its standard error (left) and the change from the first run ± its own (right), as a PNG.

    Runs that are not trustworthy are hollow and of another colour. Their error bars are not reliable either.

    Args:
        comparison: the rows.
        path: of the PNG.
    """
    rows = comparison.rows
    with drawn(path, height=1.4 + 0.42 * len(rows)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for place, row in enumerate(rows):
            is_good = is_trusted(row.verdict)
            style = {"color": GOOD if is_good else BAD, "mfc": GOOD if is_good else "white", "marker": "o"}
            left.errorbar(row.llc, place, xerr=row.llc_se, **style)
            if place:
                right.errorbar(row.change, place, xerr=row.change_se, **style)
        left.set_xlim(*steady_range([row.llc for row in rows], [row.llc_se for row in rows]))
        right.axvline(0, color="black", lw=1)
        left.set_yticks(range(len(rows)), [_label(row.name, row.verdict) for row in rows])
        left.set_ylim(len(rows) - 0.5, -0.5)
        left.set_xlabel("λ̂ ± standard error")
        paired = "" if all(row.is_paired for row in rows) else " (not all paired)"
        right.set_xlabel(f"change from {rows[0].name}{paired}".replace("$", r"\$"))
        figure.suptitle(f"λ̂ at {comparison.law}".replace("$", r"\$"))
    return Path(path)


def _label(name: str, verdict: str) -> str:
    text = name if verdict == TRUSTWORTHY else f"{name}\n({verdict})"
    return text.replace("$", r"\$")
