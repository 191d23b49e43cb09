"""The picture of a curve: λ̂ with its error bars and the loss, against the step."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_llc.numerals import number, short
from hf_llc.publishing.picture import COLOURS, draw_estimates, drawn, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hf_llc.studies.curve import Curve


def plot_curve(curve: Curve, path: str | Path, *, x_scale: str = "linear") -> Path:
    """Draw λ̂ ± its standard error against the step, and below it the checkpoint's loss, as a PNG.

    Points that are not trustworthy are hollow and have no error bar, because their error is not reliable either; no
    line goes to them.

    Args:
        curve: the points.
        path: of the PNG.
        x_scale: "linear" or "log" axis of steps. A step 0 stands left of the others on a log axis.

    Returns:
        The path.
    """
    points = curve.points
    steps = [point.step for point in points]
    with drawn(path, height=5.2) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        draw_estimates(
            upper, steps, [p.llc for p in points], [p.llc_se for p in points], good=[p.is_trustworthy for p in points]
        )
        upper.set_ylabel("λ̂")
        lower.plot(steps, [point.loss for point in points], color=COLOURS[2], marker="s", ms=4)
        lower.set_ylabel(f"loss\n({curve.unit})")
        scale_steps(lower, steps, x_scale)
        lower.set_xlabel(curve.axis)
        legend_above(upper)
        figure.suptitle(_title(curve))
    return Path(path)


def scale_steps(axes: Axes, steps: Sequence[int], x_scale: str) -> None:
    """Set a linear axis, or a logarithmic one with room for a step 0."""
    from matplotlib.ticker import MaxNLocator

    if x_scale == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    elif min(steps) > 0:
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=float(np.min([step for step in steps if step > 0])))


def _title(curve: Curve) -> str:
    """The settings that all points share, and how λ̂ and the loss changed."""
    s = curve.settings
    return (
        f"n {s['n']:,}   nβ {number(s['nbeta'])}   γ {number(s['localization'])}   ε {short(s['step_size'])}   "
        f"batch {s['batch_size']}   {s['num_chains']} × {s['num_draws']} draws after {s['num_burnin_steps']} steps"
        + ("\nw* first taken to the nearest minimum" if s["minimize"] else "")
        + "\n"
        + textwrap.fill(curve.headline, 95)
    )
