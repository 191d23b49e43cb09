"""The picture of components along training: a panel for the heads of each layer, a line with its band a component."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_llc.publishing.picture import COLOURS, WIDTH, drawn
from hf_llc.studies.curve_plot import scale_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hf_llc.studies.component_curve import ComponentCurve

_PIECE = re.compile(r"l(\d+)([hgxe])(\d+)")
_OF_LAYERS = re.compile(r"l\d+( \w+)?")
_KINDS = {"h": "heads", "g": "groups of heads", "x": "heads of cross-attention", "e": "experts"}
_ACROSS = 3
_MOST = 16
"""Lines in a panel: each colour whole and dashed."""


def plot_component_curve(curve: ComponentCurve, path: str | Path, *, x_scale: str = "linear") -> Path:
    """Draw λ̂ of each component against the step, in a band of one standard error, as a PNG.

    A λ̂ that is not to be trusted is a hollow point.

    Args:
        curve: the tables.
        path: of the PNG.
        x_scale: "linear" or "log" axis of steps.

    Returns:
        The path.
    """
    panels: dict[str, list[str]] = {}
    for name in curve.components:
        panels.setdefault(_panel_of(name), []).append(name)
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    with drawn(path, width=max(WIDTH, 3.1 * across), height=2.7 * down + 0.6) as figure:
        every = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
        for axes, (title, names) in zip(every, panels.items(), strict=False):
            axes.set_title(title if len(names) <= _MOST else f"{title} (first {_MOST} of {len(names)})")
            _draw(axes, curve, names[:_MOST])
            scale_steps(axes, curve.steps, x_scale)
        for axes in every[len(panels) :]:
            axes.set_visible(False)
        for axes in every[max(0, len(panels) - across) : len(panels)]:
            axes.set_xlabel(curve.axis)
            axes.tick_params(labelbottom=True)
        for axes in every[::across]:
            axes.set_ylabel("λ̂")
        figure.suptitle(textwrap.fill(curve.headline, 95))
    return Path(path)


def _panel_of(name: str) -> str:
    piece = _PIECE.fullmatch(name)
    if piece is not None:
        return f"layer {piece[1]}: {_KINDS[piece[2]]}"
    layers = _OF_LAYERS.fullmatch(name)
    if layers is not None:
        return f"{layers[1].strip()} of each layer" if layers[1] else "layers"
    return "all weights" if name == "all" else "others"


def _draw(axes: Axes, curve: ComponentCurve, names: Sequence[str]) -> None:
    steps = np.array(curve.steps, dtype=float)
    for place, name in enumerate(names):
        rows = curve.of(name)
        values = np.array([row.llc for row in rows])
        errors = np.array([row.llc_se if math.isfinite(row.llc_se) else 0.0 for row in rows])
        good = np.array([row.is_trustworthy for row in rows])
        colour, style = COLOURS[place % len(COLOURS)], "-" if place < len(COLOURS) else "--"
        axes.plot(steps, values, color=colour, ls=style, lw=1.2, label=name)
        axes.fill_between(steps, values - errors, values + errors, color=colour, alpha=0.2, lw=0)
        axes.plot(steps[good], values[good], color=colour, ls="none", marker="o", ms=3)
        axes.plot(steps[~good], values[~good], color=colour, ls="none", marker="o", ms=3.5, mfc="white")
    axes.legend(fontsize=6.5, ncols=1 + (len(names) > 4))
