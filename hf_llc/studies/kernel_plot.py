"""The picture of a loss kernel: the examples in a plane, near each other where their losses move together."""

from __future__ import annotations

import textwrap
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_llc.publishing.picture import COLOURS, GREY, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hf_llc.studies.influence_table import InfluenceTable

Array = np.ndarray

_FEWEST = 8
"""Examples from which on UMAP has neighbours to look at."""

_NEIGHBOURS = 15
"""Of each example that UMAP looks at: its own default."""

_OTHERS = "other"


def plot_kernel(
    table: InfluenceTable, path: str | Path, *, colour: str | None = None, values: Sequence[str | float] = ()
) -> Path:
    """Draw the examples of a loss kernel in a plane, as a PNG.

    Args:
        table: the kernel; its sources are its queries.
        path: of the PNG.
        colour: name of the column that `values` come from; None: all in one colour.
        values: of each example: a few texts, or numbers.

    Returns:
        The path.
    """
    places, how = placed(table.found.correlation, seed=int(table.settings.get("seed", 0)))
    with drawn(path, height=5.2) as figure:
        axes = figure.subplots()
        if colour is None:
            axes.scatter(*places.T, s=16, color=COLOURS[0], lw=0)
        else:
            _coloured(figure, axes, places, colour, values)
        for side, name in ((axes.set_xlabel, "first"), (axes.set_ylabel, "second")):
            side(f"{name} coordinate ({how})")
        said = "examples whose losses move together (ρ) are near each other"
        figure.suptitle(textwrap.fill(f"{said}; {table.headline}", 95))
    return Path(path)


def placed(correlation: Array, *, seed: int) -> tuple[Array, str]:
    """Places in a plane `[example, 2]`, and by what: UMAP of 1 − ρ where it is installed, else PCA of ρ.

    Args:
        correlation: ρ of the losses, `[example, example]`; NaN where one does not vary.
        seed: of UMAP.
    """
    known = np.nan_to_num((correlation + correlation.T) / 2)
    np.fill_diagonal(known, 1.0)
    if len(known) >= _FEWEST:
        try:
            import umap  # the extra hf_llc[umap]
        except ImportError:
            pass
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a precomputed distance has no inverse
                settings = {"n_neighbors": min(_NEIGHBOURS, len(known) - 1), "random_state": seed, "n_jobs": 1}
                found = umap.UMAP(metric="precomputed", **settings).fit_transform(np.clip(1 - known, 0, 2))
            return np.asarray(found, dtype=float), "UMAP of 1 − ρ"
    sizes, vectors = np.linalg.eigh(known)
    places = vectors[:, ::-1][:, :2] * np.sqrt(np.maximum(sizes[::-1][:2], 0))
    signs = np.where(places.sum(axis=0) < 0, -1.0, 1.0)  # else they are those of the machine's LAPACK
    return places * signs, "PCA of ρ"


def _coloured(figure: Figure, axes: Axes, places: Array, name: str, values: Sequence[str | float]) -> None:
    """Points in colours of their values: a scale for many numbers, else one each and a legend."""
    kinds = Counter(map(str, values))
    are_numbers = all(isinstance(value, (int, float)) for value in values)
    if are_numbers and len(kinds) > len(COLOURS):
        numbers = np.array(values, dtype=float)
        dots = axes.scatter(*places.T, s=16, c=numbers, cmap="viridis", lw=0, plotnonfinite=True)
        figure.colorbar(dots, ax=axes, label=name)
        return
    most = len(COLOURS) if len(kinds) <= len(COLOURS) else len(COLOURS) - 1
    shown = sorted(kind for kind, _ in kinds.most_common(most))
    for k, kind in enumerate([*shown, _OTHERS]):
        here = [
            i for i, value in enumerate(values) if (str(value) == kind if k < len(shown) else str(value) not in shown)
        ]
        if here:
            colour = COLOURS[k] if k < len(shown) else GREY
            label = textwrap.shorten(f"{kind} ({len(here)})", 40, placeholder="…")
            axes.scatter(*places[here].T, s=16, color=colour, lw=0, label=label)
    axes.legend(title=name, loc="center left", bbox_to_anchor=(1.0, 0.5))
