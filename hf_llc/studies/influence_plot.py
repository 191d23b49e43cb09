"""The picture of an influence matrix: ρ of sources and queries, and how well two halves agree on it."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_llc.publishing.picture import drawn

if TYPE_CHECKING:
    from hf_llc.studies.influence_table import InfluenceTable


def plot_influence(table: InfluenceTable, path: str | Path) -> Path:
    """Draw ρ and BIF over its error as maps, source by query, as a PNG.

    Args:
        table: the matrices.
        path: of the PNG.

    Returns:
        The path.
    """
    found = table.found
    with np.errstate(divide="ignore", invalid="ignore"):
        sure = found.bif / found.bif_se
    from matplotlib.ticker import MaxNLocator

    with drawn(path, height=4.2) as figure:
        one, two = figure.subplots(1, 2)
        for axes, values, limit, label in (
            (one, found.correlation, 1.0, "ρ (positive: the losses fall together)"),
            (two, sure, 6.0, "BIF / its standard error (negative: helps)"),
        ):
            shown = float(np.nanquantile(np.abs(values), 0.98)) if np.isfinite(values).any() else limit
            bound = min(limit, max(shown, 0.05))
            image = axes.imshow(values, cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest")
            axes.grid(visible=False)
            axes.set_xlabel(f"query ({table.level})")
            axes.set_ylabel(f"source ({table.level})")
            figure.colorbar(image, ax=axes, label=label, location="bottom", pad=0.02, ticks=MaxNLocator(5))
        figure.suptitle(textwrap.fill(table.headline, 95))
    return Path(path)
