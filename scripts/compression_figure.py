"""The sentence, the table and the figure of compression.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from claims import verdicts
from classifiers import judged
from experiment import Row
from scipy import stats

from hf_llc.publishing.picture import COLOURS, WIDTH, legend_below

_MEASURES = {"bits": "bits a weight", "kept": "share of weights kept"}


def table(rows: Sequence[Row]) -> list[Row]:
    """A line a network and epoch."""
    names = ("epoch", "llc", "llc_se", "verdict", "bits", "kept", "train_loss", "train_accuracy")
    return [{"seed": row["seed"], **{name: point[name] for name in names}} for row in rows for point in row["curve"]]


def correlations(rows: Sequence[Row], measure: str) -> list[float]:
    """Spearman's ρ of λ̂ and a measure over the epochs of each network."""
    found = []
    for row in rows:
        pairs = [(point["llc"], point[measure]) for point in row["curve"] if None not in (point["llc"], point[measure])]
        one, other = ([pair[place] for pair in pairs] for place in (0, 1))
        test: Any = stats.spearmanr(one, other) if min(len({*one}), len({*other})) > 1 else None
        found.append(np.nan if test is None else float(test.statistic))
    return found


def claim(rows: Sequence[Row]) -> str:
    """Does λ̂ rise with the bits, and with the share kept, along training?

    By the mean of ρ over networks: of two orders of m epochs that have nothing to do with each other it has variance
    1/(m − 1) a network.
    """
    points = [point for row in rows for point in row["curve"]]
    lines = []
    for measure, name in _MEASURES.items():
        values = np.array(correlations(rows, measure))
        z = values.mean() * np.sqrt(len(values) * (len(rows[0]["curve"]) - 1))
        p = float(2 * stats.norm.sf(abs(z)))
        word = judged(float(values.mean()), p)
        each = ", ".join(f"{value:.2f}" for value in values)
        lines.append(f"{word}: λ̂ rises with the {name} along training (Spearman's ρ {each}; p = {p:.2g}).")
    return "\n".join([*lines, f"λ̂: {verdicts(points)}."])


def figure(rows: Sequence[Row]) -> Any:
    """λ̂ against the bits and against the share kept: a line a network, hollow where λ̂ is not trustworthy."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    panels = drawing.subplots(1, len(_MEASURES), sharey=True)
    for axes, (measure, name) in zip(panels, _MEASURES.items(), strict=True):
        for row, colour in zip(rows, [*COLOURS] * len(rows), strict=False):
            points = [point for point in row["curve"] if None not in (point["llc"], point[measure], point["llc_se"])]
            x, y, error = (np.array([point[key] for point in points]) for key in (measure, "llc", "llc_se"))
            good = np.array([point["verdict"] == "trustworthy" for point in points], dtype=bool)
            axes.plot(x, y, color=colour, lw=1, alpha=0.6)
            axes.errorbar(
                x[good], y[good], error[good], color=colour, ls="none", marker="o", label=f"seed {row['seed']}"
            )
            axes.plot(x[~good], y[~good], color=colour, ls="none", marker="o", mfc="white")
            for at in (0, -1) if len(points) > 1 and row is rows[0] else ():
                axes.annotate(
                    f"epoch {points[at]['epoch']}",
                    (x[at], y[at]),
                    xytext=(6, -10),
                    textcoords="offset points",
                    fontsize=7,
                )
        axes.set_xlabel(f"fewest {name}" if measure == "bits" else f"smallest {name}")
    panels[0].set_ylabel("λ̂")
    legend_below(panels[0])
    drawing.suptitle("λ̂ and how far the network can be compressed, along training; hollow: λ̂ not trustworthy")
    return drawing
