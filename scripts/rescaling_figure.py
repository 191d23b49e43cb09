"""The table, the sentence and the figure of rescaling_invariance.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from experiment import Row
from matplotlib import pyplot as plt
from scipy import stats

from hf_llc.publishing.picture import WIDTH, legend_below

NETWORKS = {"10-20-10": 166, "20-30-20": 537, "30-40-30": 1110}
"""Widths, and λ̂ of the authors' networks of these widths: ours are drawn anew."""


PRECONDITIONERS = {
    "known": "A = c²",
    "none": "none (SGLD)",
    "adaptive": "adaptive (RMSProp, frozen)",
    "curvature": "curvature at w*",
}


TOLERANCE = 0.1
"""λ̂ that differ from their mean by less, two standard errors included, count as the same."""


FIRST, OTHERS = "10-20-10", ("20-30-20", "30-40-30")


def summarize(rows: Sequence[Row]) -> list[Row]:
    """One line a network, preconditioner and α: mean of the runs, and its standard error.

    The error is the relative spread of runs around their means, pooled over all α and networks with the known
    preconditioner: single runs have it too.
    """
    cells: dict[tuple[str, str, float], list[float]] = {}
    for row in rows:
        key = row["network"], row["preconditioner"], row["log10_alpha"]
        cells.setdefault(key, []).append(math.nan if row["llc"] is None else row["llc"])
    repeated = [np.array(values) for (_, kind, _), values in cells.items() if kind == "known" and len(values) > 1]
    sd = math.sqrt(float(np.mean([values.var(ddof=1) / values.mean() ** 2 for values in repeated])))
    return [
        {
            "network": name,
            "preconditioner": preconditioner,
            "log10_alpha": log10_alpha,
            "llc": float(np.mean(values)),
            "llc_se": sd * float(np.mean(values)) / math.sqrt(len(values)),
            "llc_se_dof": sum(len(other) - 1 for other in repeated),
            "runs": len(values),
            "authors": NETWORKS[name] if preconditioner == "known" else "",
        }
        for (name, preconditioner, log10_alpha), values in cells.items()
    ]


def lines_of(table: Sequence[Row], network: str, preconditioner: str) -> list[Row]:
    """One curve of the figure, by α."""
    found = [line for line in table if (line["network"], line["preconditioner"]) == (network, preconditioner)]
    return sorted(found, key=lambda line: line["log10_alpha"])


def is_constant(lines: Sequence[Row]) -> str:
    """Seen, not seen or cannot tell: is λ̂ the same at every α, within the tolerance?"""
    llc, error = (np.array([line[key] for line in lines]) for key in ("llc", "llc_se"))
    off = np.abs(llc / llc.mean() - 1)
    if not np.isfinite(llc).all() or (off - 2 * error / llc.mean() > TOLERANCE).any():
        return "not seen"
    return "seen" if (off + 2 * error / llc.mean() <= TOLERANCE).all() else "cannot tell"


def claim(table: Sequence[Row]) -> str:
    """Is λ̂ invariant, with the known preconditioner and with each of the others?"""
    parts = []
    for name in NETWORKS:
        lines = lines_of(table, name, "known")
        if len(lines) > 1:
            llc, error = (np.array([line[key] for line in lines]) for key in ("llc", "llc_se"))
            between = float((((llc - llc.mean()) / error) ** 2).sum()) / (len(lines) - 1)
            p = stats.f.sf(between, len(lines) - 1, lines[0]["llc_se_dof"])
            parts.append(
                f"{name} {is_constant(lines)} (λ̂ = {llc.mean():.1f}, at no α further than "
                f"{np.abs(llc / llc.mean() - 1).max():.1%} ± {(error / llc).mean():.1%} from it, "
                f"p = {p:.2f} for no difference)"
            )
    others = []
    for preconditioner in list(PRECONDITIONERS)[1:]:
        lines = lines_of(table, FIRST, preconditioner)
        if len(lines) > 1:
            least, most = (lines[pick([line["llc"] for line in lines])] for pick in (np.nanargmin, np.nanargmax))
            others.append(
                f"{PRECONDITIONERS[preconditioner]} {is_constant(lines)} "
                f"({least['llc']:.1f} at α = {10 ** least['log10_alpha']:g} to {most['llc']:.1f} at "
                f"{10 ** most['log10_alpha']:g})"
            )
    exponents = [line["log10_alpha"] for line in table]
    return (
        f"λ̂ is the same within {TOLERANCE:.0%} for α from {10 ** min(exponents):g} to {10 ** max(exponents):g} if the "
        f"preconditioner knows α: {'; '.join(parts)}. Other preconditioners on {FIRST}: {'; '.join(others)}."
    )


def draw(table: Sequence[Row]) -> Any:
    """Left: the paper's figure, three networks. Right: one network, all preconditioners."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.9), layout="constrained")
    for i, (name, authors) in enumerate(NETWORKS.items()):
        lines = lines_of(table, name, "known")
        if lines:
            _curve(left, lines, f"C{i}o-", name)
            left.axhline(authors, color=f"C{i}", ls=":", lw=1)
    left.plot([], [], "k:", lw=1, label="the authors' networks of these widths")
    left.set_title("A = c²: the preconditioner knows α")
    for i, (preconditioner, name) in enumerate(PRECONDITIONERS.items()):
        lines = lines_of(table, FIRST, preconditioner)
        if lines:
            _curve(right, lines, f"C{(0, 3, 4, 5)[i]}{'osD^'[i]}-", name)
    right.set_title(f"{FIRST}: other preconditioners")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="α", ylabel="λ̂, ±2 standard errors")
        axes.set_ylim(bottom=0)
        legend_below(axes, ncols=1)
    return figure


def _curve(axes: Any, lines: Sequence[Row], style: str, label: str) -> None:
    axes.errorbar(
        [10 ** line["log10_alpha"] for line in lines],
        [line["llc"] for line in lines],
        [2 * line["llc_se"] for line in lines],
        fmt=style,
        ms=4,
        lw=1,
        label=label,
    )
