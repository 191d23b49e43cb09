"""How all figures look, and how one becomes a file."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_llc.files import check_room

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROOM = 2**23
"""Bytes that fonts and pixels take at most. Where they are short, matplotlib's C++ prints tracebacks and goes on."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6d31", "#333333")
"""The palette of Okabe and Ito, which colour-blind readers can tell apart, without its yellow; and two dark ones."""
GOOD, BAD, GREY = COLOURS[0], COLOURS[1], "#777777"
"""Of a λ̂ that is trustworthy, of one that is not, and of what is only there to compare with."""
WIDTH = 7.0
"""Inches of a figure: at the 700 pixels of a model's card its letters are 12 to 14 pixels high."""
STEADY = 20
"""Standard errors that an axis of λ̂ spans at least: a change of two of them, which is none, takes a tenth of it."""

STYLE: dict[str, Any] = {
    "figure.dpi": 144,
    "savefig.dpi": 144,
    "savefig.facecolor": "white",
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "figure.titlesize": 9.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 5.0,
    "errorbar.capsize": 2.5,
}
"""What is not matplotlib's own, as its `rcParams`."""


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in the one style; matplotlib's own settings come back afterwards."""
    import matplotlib
    from cycler import cycler

    settings: Any = {**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}
    with matplotlib.rc_context(settings):
        yield


@contextlib.contextmanager
def drawn(path: str | Path, *, height: float, width: float = WIDTH) -> Iterator[Figure]:
    """A figure of so many inches to draw on, in the one style, which is then written as a PNG.

    Raises:
        MemoryError: there is too little memory to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(width, height), layout="constrained")  # pyplot would keep it, and ask for a display
        FigureCanvasAgg(figure)
        yield figure
        save_picture(figure, path)


def save_picture(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG that says that it is ours (`hf_llc.our_files`).

    Raises:
        MemoryError: there is too little memory to draw.
    """
    check_room(_ROOM)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # names of models and data are in any script
        figure.savefig(path, format="png", metadata={"Software": "hf_llc"})


def legend_above(axes: Axes, **options: Any) -> None:
    """A legend over the axes, where it covers no data."""
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), **{"ncols": 4, **options})


def legend_below(axes: Axes, **options: Any) -> None:
    """A legend under the label of the axis, where it covers no data."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), borderaxespad=4.2, **{"ncols": 2, **options})


def steady_range(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis of λ̂ that hold every value with its error and make no noise look like a trend.

    The axis spans 20 median errors at least, and begins at zero where the values come near it.

    Args:
        values: λ̂.
        errors: their standard errors; NaN where one is not known.
    """
    pairs = [(v, e if math.isfinite(e) else 0.0) for v, e in zip(values, errors, strict=True) if math.isfinite(v)]
    if not pairs:
        return 0.0, 1.0
    low, high = min(v - e for v, e in pairs), max(v + e for v, e in pairs)
    known = sorted(e for _, e in pairs)
    wanted = max(STEADY * known[len(known) // 2], 1.15 * (high - low)) or 0.2 * abs(high) or 1.0
    middle = (low + high) / 2
    bottom, top = middle - wanted / 2, middle + wanted / 2
    if 0 <= low < 0.6 * high or (bottom < 0 <= low):
        return 0.0, max(top, 1.1 * high)
    return bottom, top


def draw_estimates(
    axes: Axes,
    places: Sequence[float],
    values: Sequence[float],
    errors: Sequence[float],
    *,
    good: Sequence[bool],
    colour: str = GOOD,
    label: str = "λ̂ ± standard error",
) -> None:
    """λ̂ against something: good ones with error bars, neighbours joined; others hollow, joined to none.

    The error of an untrustworthy λ̂ is not reliable, and is not drawn. One beyond the axis of the good ones stands at
    its rim, as an arrowhead.
    """
    kept = [i for i, is_good in enumerate(good) if is_good and math.isfinite(values[i])]
    shown = kept or [i for i, value in enumerate(values) if math.isfinite(value)]
    low, high = steady_range([values[i] for i in shown], [errors[i] if i in kept else math.nan for i in shown])
    for one, two in itertools.pairwise(kept):
        if two == one + 1:
            axes.plot([places[one], places[two]], [values[one], values[two]], color=colour, lw=1, alpha=0.5)
    if kept:
        axes.errorbar(
            [places[i] for i in kept], [values[i] for i in kept], [errors[i] if errors[i] > 0 else 0 for i in kept],
            color=colour, ls="none", marker="o", label=label,
        )  # fmt: skip
    others = [i for i in range(len(values)) if i not in kept and math.isfinite(values[i])]
    for marker, name, some in (
        ("o", "λ̂, not trustworthy", [i for i in others if low <= values[i] <= high]),
        ("^", "λ̂, not trustworthy, above", [i for i in others if values[i] > high]),
        ("v", "λ̂, not trustworthy, below", [i for i in others if values[i] < low]),
    ):
        if some:
            heights = [min(max(values[i], low), high) for i in some]
            axes.plot(
                [places[i] for i in some], heights, color=BAD, ls="none", marker=marker, ms=7, mfc="white", label=name,
                clip_on=False, zorder=3,
            )  # fmt: skip
    axes.set_ylim(low, high)
