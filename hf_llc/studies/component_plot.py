"""The picture of a table of components: heads as a map of layers, and bars for the rest."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_llc.numerals import short
from hf_llc.publishing.picture import BAD, GOOD, WIDTH, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hf_llc.studies.component_table import ComponentTable, Row

_PIECE = re.compile(r"l(\d+)([hgxe])(\d+)")
_NAMES = {"h": "head", "g": "group of heads", "x": "head of cross-attention", "e": "expert"}
_MOST_BARS = 80


def plot_components(table: ComponentTable, path: str | Path) -> Path:
    """Draw λ̂ of heads (groups, experts) as a map, layer by number, and of the other components as bars, as a PNG.

    Each cell and each bar has its standard error; what is not trustworthy has grey figures or a hollow bar.

    Args:
        table: the components.
        path: of the PNG.

    Returns:
        The path.
    """
    pieces: dict[str, list[Row]] = {}
    bars: list[Row] = []
    for row in table.rows:
        match = _PIECE.fullmatch(row.component)
        if match is None:
            bars.append(row)
        else:
            pieces.setdefault(match[2], []).append(row)
    sizes = [_size(rows) for rows in pieces.values()] + (
        [(4.5, 0.28 * min(len(bars), _MOST_BARS) + 1.2)] if bars else []
    )
    width, height = sum(size[0] for size in sizes) + 0.5, max(size[1] for size in sizes) + 0.6
    with drawn(path, width=max(width, WIDTH), height=height) as figure:
        every = figure.subplots(1, len(sizes), squeeze=False, width_ratios=[size[0] for size in sizes])[0]
        for axes, (letter, rows) in zip(every, pieces.items(), strict=False):
            _draw_map(figure, axes, rows, _NAMES[letter])
        if bars:
            _draw_bars(every[-1], bars[:_MOST_BARS], len(bars))
        figure.suptitle(textwrap.fill(table.headline, int(13 * max(width, WIDTH))))
    return Path(path)


def _place(row: Row) -> tuple[int, int]:
    match = _PIECE.fullmatch(row.component)
    assert match is not None
    return int(match[1]), int(match[3])


def _size(rows: Sequence[Row]) -> tuple[float, float]:
    """Inches of a map."""
    layers, numbers = zip(*map(_place, rows), strict=True)
    return 0.62 * len(set(numbers)) + 1.6, 0.5 * len(set(layers)) + 1.0


def _draw_map(figure: Figure, axes: Axes, rows: Sequence[Row], what: str) -> None:
    layers = sorted({_place(row)[0] for row in rows})
    numbers = sorted({_place(row)[1] for row in rows})
    values = np.full((len(layers), len(numbers)), np.nan)
    for row in rows:
        layer, number = _place(row)
        values[layers.index(layer), numbers.index(number)] = row.llc if math.isfinite(row.llc) else np.nan
    axes.grid(visible=False)
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2 if np.isfinite(values).any() else 0.0
    for row in rows if len(layers) * len(numbers) <= 400 else ():
        y, x = layers.index(_place(row)[0]), numbers.index(_place(row)[1])
        colour = "#888888" if not row.is_trustworthy else "white" if values[y, x] < middle else "black"
        axes.text(x, y, f"{short(row.llc)}\n±{short(row.llc_se)}", ha="center", va="center", fontsize=6.5, color=colour)
    axes.set_xticks(range(len(numbers)), [str(i) for i in numbers], fontsize=8)
    axes.set_yticks(range(len(layers)), [str(i) for i in layers], fontsize=8)
    axes.set_xlabel(what)
    axes.set_ylabel("layer")
    figure.colorbar(image, ax=axes, label="λ̂", pad=0.02)


def _draw_bars(axes: Axes, rows: Sequence[Row], total: int) -> None:
    for y, row in enumerate(rows):
        error = row.llc_se if math.isfinite(row.llc_se) else 0.0
        value = row.llc if math.isfinite(row.llc) else 0.0
        edge = GOOD if row.is_trustworthy else BAD
        axes.barh(
            y, value, xerr=error, color=edge if row.is_trustworthy else "none", edgecolor=edge, ecolor="black",
            height=0.7,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.component[:28] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color="black", lw=0.6)
    axes.set_xlabel("λ̂" + (f" (first {len(rows)} of {total})" if total > len(rows) else ""))
