"""The picture of susceptibilities: tokens on the first two principal components of z-scored χ, and the components."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_llc.publishing.picture import COLOURS, drawn

if TYPE_CHECKING:
    from hf_llc.studies.susceptibility_table import SusceptibilityTable

Array = np.ndarray

_MOST = 4000
"""Points of a probe."""


def plot_susceptibility(table: SusceptibilityTable, path: str | Path) -> Path:
    """Draw tokens by their χ (left, a colour a probe) and components by their weights in them (right), as a PNG."""
    places, directions, shares = principal_components(table.matrix)
    places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    directions = np.pad(directions, ((0, 2 - len(directions)), (0, 0)))
    shares = [*shares, 0.0][:2]
    with drawn(path, height=4.2) as figure:
        left, right = figure.subplots(1, 2)
        start = 0
        for k, each in enumerate(table.tokens):
            here = places[start : start + len(each.text)]
            start += len(each.text)
            step = max(1, len(here) // _MOST)
            left.scatter(*here[::step].T, s=6, alpha=0.5, lw=0, color=COLOURS[k % len(COLOURS)], label=each.probe)
        left.legend()
        left.set_title(f"{table.level}s")
        right.axhline(0, color="black", lw=0.4)
        right.axvline(0, color="black", lw=0.4)
        for column, x, y in zip(table.columns, *directions, strict=True):
            colour = "black" if column.is_trustworthy else "#999999"
            right.plot([0, x], [0, y], color=colour, lw=0.8)
            right.annotate(column.component, (x, y), fontsize=7, color=colour)
        right.margins(0.15)
        right.set_title("components (grey: not to be trusted)")
        for axes in (left, right):
            axes.set_xlabel(f"first principal component ({shares[0]:.0%})")
            axes.set_ylabel(f"second ({shares[1]:.0%})")
        figure.suptitle(textwrap.fill(table.headline, 95))
    return Path(path)


def principal_components(matrix: Array) -> tuple[Array, Array, Sequence[float]]:
    """Of z-scored χ `[token, component]`: the tokens' places `[token, k]`, the components' directions `[k, component]`.

    And each one's share of the variance; k is at most 2.
    """
    known = np.nan_to_num(matrix)
    left, sizes, right = np.linalg.svd(known - known.mean(axis=0), full_matrices=False)
    total = float(np.square(sizes).sum())
    shares = [float(size**2 / total) if total > 0 else 0.0 for size in sizes[:2]]
    return left[:, :2] * sizes[:2], right[:2], shares
