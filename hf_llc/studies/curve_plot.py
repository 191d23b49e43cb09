"""The picture of a curve: λ̂ with its error bars and the loss, against the step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_llc.numerals import number, short
from hf_llc.publishing.picture import new_figure, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hf_llc.studies.curve import Curve

_LLC_COLOUR, _LOSS_COLOUR = "#0072b2", "#d55e00"
"""From the palette of Okabe and Ito, which colour-blind readers can tell apart."""


def plot_curve(curve: Curve, path: str | Path, *, x_scale: str = "linear") -> Path:
    """Draw λ̂ ± its standard error (left axis) and the checkpoint's loss (right axis) against the step, as a PNG.

    Points that are not trustworthy are hollow and have no error bar, because their error is not reliable either.

    Args:
        curve: the points.
        path: of the PNG.
        x_scale: "linear" or "log" axis of steps. A step 0 stands left of the others on a log axis.

    Returns:
        The path.
    """
    figure = new_figure(8, 4.8)
    axes = figure.subplots()
    _draw_llc(axes, curve)
    right = axes.twinx()
    steps = [point.step for point in curve.points]
    right.plot(steps, [point.loss for point in curve.points], color=_LOSS_COLOUR, lw=1.2, ls="--", marker="s", ms=4)
    axes.plot([], [], color=_LOSS_COLOUR, lw=1.2, ls="--", marker="s", ms=4, label="loss (right)")
    right.set_ylabel(f"loss ({curve.unit})", color=_LOSS_COLOUR)
    right.tick_params(axis="y", colors=_LOSS_COLOUR)
    _scale(axes, steps, x_scale)
    axes.set_xlabel(curve.axis)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8, frameon=False, reverse=True)
    figure.suptitle(_title(curve), fontsize=9)
    save_picture(figure, path)
    return Path(path)


def _draw_llc(axes: Axes, curve: Curve) -> None:
    points = curve.points
    axes.plot([p.step for p in points], [p.llc for p in points], color=_LLC_COLOUR, lw=1, alpha=0.5)
    good = [p for p in points if p.is_trustworthy]
    bad = [p for p in points if not p.is_trustworthy]
    if good:
        axes.errorbar(
            [p.step for p in good],
            [p.llc for p in good],
            [p.llc_se for p in good],
            color=_LLC_COLOUR,
            ls="none",
            marker="o",
            ms=5,
            capsize=3,
            label="λ̂ ± standard error",
        )
    if bad:
        axes.plot(
            [p.step for p in bad],
            [p.llc for p in bad],
            color=_LLC_COLOUR,
            ls="none",
            marker="o",
            ms=7,
            mfc="white",
            label="λ̂, not trustworthy",
        )
    axes.set_ylabel("λ̂", color=_LLC_COLOUR)
    axes.tick_params(axis="y", colors=_LLC_COLOUR)


def _scale(axes: Axes, steps: list[int], x_scale: str) -> None:
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
        + ("   minimized" if s["minimize"] else "")
        + f"\n{curve.headline}"
    )
