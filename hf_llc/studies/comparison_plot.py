"""The picture of a comparison: λ̂ of every run, and its change from the first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_llc.publishing.picture import new_figure, save_picture

if TYPE_CHECKING:
    from hf_llc.studies.comparison import Comparison

_GOOD, _BAD = "#0072b2", "#d55e00"
"""From the palette of Okabe and Ito, which colour-blind readers can tell apart."""


def plot_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Draw λ̂ ± its standard error (left) and the change from the first run ± its own (right), as a PNG.

    Runs that are not trustworthy are hollow and of another colour. Their error bars are not reliable either.

    Args:
        comparison: the rows.
        path: of the PNG.
    """
    rows = comparison.rows
    figure = new_figure(9, 1.6 + 0.45 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    for place, row in enumerate(rows):
        is_good = row.verdict == "trustworthy"
        style = {"color": _GOOD if is_good else _BAD, "mfc": _GOOD if is_good else "white", "marker": "o", "ms": 6}
        left.errorbar(row.llc, place, xerr=row.llc_se, capsize=3, **style)
        if place:
            right.errorbar(row.change, place, xerr=row.change_se, capsize=3, **style)
    right.axvline(0, color="black", lw=1)
    left.set_yticks(range(len(rows)), [_label(row.name, row.verdict) for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.set_xlabel("λ̂ ± standard error")
    right.set_xlabel(f"change from {rows[0].name}" + ("" if all(r.is_paired for r in rows) else " (not all paired)"))
    figure.suptitle(f"λ̂ at {comparison.law}".replace("$", r"\$"), fontsize=10)
    save_picture(figure, path)
    return Path(path)


def _label(name: str, verdict: str) -> str:
    text = name if verdict == "trustworthy" else f"{name}\n({verdict})"
    return text.replace("$", r"\$")
