"""The picture of a run: what the losses and the running λ̂ of every chain did (after [L], Figure H.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hf_llc.report import with_error
from hf_llc.result import LLCResult, Trace

Array = np.ndarray

_COLOURS = ("#1f77b4", "#d95f02", "#2a9d5c", "#7b4fb5", "#a6761d", "#c2378f", "#17a2b8", "#666666")
_ACCEPTANCE = "#444444"
_MAX_POINTS = 2000


def plot_trace(result: LLCResult, path: str | Path) -> Path:
    """Draw the trace into a PNG file, whatever the suffix of `path`.

    Above: minibatch losses and their moving mean, L_n(w*), the burn-in shaded, MALA acceptance on the right axis.
    Below: the running λ̂ of each chain after burn-in, with λ̂ ± its standard error.

    Raises:
        ValueError: the result has no trace.
    """
    if result.trace is None:
        raise ValueError("the result has no trace; load it from its folder")
    path = Path(path)
    figure = Figure(figsize=(9, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    title = f"λ̂ = {with_error(result.llc, result.llc_se)}      {result.verdict}"
    above.set_title(title, color="black" if result.is_trustworthy else "#b00020", fontsize=12)
    _losses(above, result, result.trace)
    _running(below, result, result.trace)
    below.set_xlabel("step")
    below.set_xlim(0, max(1, result.trace.shape[1]))
    figure.savefig(path, format="png", dpi=130)
    return path


def moving_mean(values: Array, window: int) -> Array:
    """Mean of the finite ones of the last `window` values (fewer at the start); NaN where there is none."""
    is_there = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(is_there, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(is_there)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - window)
    seen = count[end] - count[start]
    mean = np.divide(total[end] - total[start], seen, out=np.full(len(values), np.nan), where=seen > 0)
    return np.where(is_there, mean, np.nan)


def running_mean(values: Array) -> Array:
    """Mean of all values so far; NaN from the first that is not finite."""
    with np.errstate(all="ignore"):
        mean = np.cumsum(values) / np.arange(1, len(values) + 1)
    return np.where(np.isfinite(mean), mean, np.nan)


def _losses(axes: Any, result: LLCResult, trace: Trace) -> None:
    chains, steps = trace.shape
    step = np.arange(steps)
    window = max(1, steps // 40)
    thin = slice(None, None, max(1, steps // _MAX_POINTS))
    few = chains <= 8
    for chain in range(chains):
        colour = _COLOURS[chain % len(_COLOURS)]
        loss = np.where(np.isfinite(trace.loss[chain]), trace.loss[chain], np.nan)
        axes.plot(step[thin], loss[thin], color=colour, alpha=0.25 if few else 0.08, linewidth=0.6)
        mean = moving_mean(loss, window)
        axes.plot(
            step[thin],
            mean[thin],
            color=colour,
            alpha=1.0 if few else 0.5,
            linewidth=1.4 if few else 0.7,
            marker="o" if steps < 3 else None,
        )
    axes.axhline(result.init_loss, color="black", linewidth=1.2)
    handles = [
        Line2D([], [], color=_COLOURS[0], alpha=0.3, linewidth=0.8, label="minibatch loss"),
        Line2D([], [], color=_COLOURS[0], label=f"mean of {window} steps"),
        Line2D([], [], color="black", linewidth=1.2, label=f"$L_n(w^*)$ = {result.init_loss:.4g}"),
    ]
    handles += _scale(axes, result, trace.loss)
    if result.num_burnin_steps > 0:
        axes.axvspan(0, result.num_burnin_steps, color="0.5", alpha=0.15, linewidth=0)
        handles.append(Line2D([], [], color="0.5", alpha=0.3, linewidth=7, label="burn-in"))
    handles += _acceptance(axes, trace)
    axes.set_ylabel(f"loss ({result.unit})")
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, -0.01),
        ncols=len(handles),
        fontsize=7.5,
        frameon=False,
        columnspacing=1.2,
        handlelength=1.4,
    )


def _scale(axes: Any, result: LLCResult, loss: Array) -> list[Line2D]:
    """Logarithmic if the loss spans over two decades; the constant predictor's line if it is near what is shown."""
    seen = loss[np.isfinite(loss)]
    seen = np.append(seen, result.init_loss) if np.isfinite(result.init_loss) else seen
    if len(seen) == 0:
        return []
    low, high = float(seen.min()), float(seen.max())
    if low > 0 and high > 100 * low:
        axes.set_yscale("log")
    trivial = result.trivial_loss
    reach = 1.5 * (high - low)
    if trivial is None or not (low - reach <= trivial <= high + reach):
        return []
    line = axes.axhline(trivial, color="#b00020", linewidth=1.2, linestyle=":")
    line.set_label(f"constant predictor {trivial:.4g}")
    return [line]


def _acceptance(axes: Any, trace: Trace) -> list[Line2D]:
    """MALA acceptance at the steps where it was measured, the mean over chains, on the right axis."""
    measured = np.isfinite(trace.accept_prob)
    steps = np.flatnonzero(measured.any(axis=0))
    if len(steps) == 0:
        return []
    steps = steps[:: max(1, len(steps) // 200)]
    values = [trace.accept_prob[measured[:, i], i].mean() for i in steps]
    right = axes.twinx()
    right.set_ylim(-0.02, 1.02)
    right.set_ylabel("acceptance", color=_ACCEPTANCE)
    right.plot(steps, values, linestyle="none", marker=".", markersize=3.5, color=_ACCEPTANCE, alpha=0.6)
    return [Line2D([], [], linestyle="none", marker=".", color=_ACCEPTANCE, label="acceptance (right)")]


def _running(axes: Any, result: LLCResult, trace: Trace) -> None:
    burnin, steps = result.num_burnin_steps, trace.shape[1]
    step = np.arange(burnin, steps)
    thin = slice(None, None, max(1, len(step) // _MAX_POINTS))
    few = trace.shape[0] <= 8
    for chain in range(trace.shape[0]):
        with np.errstate(all="ignore"):
            mean = running_mean(result.nbeta * (trace.loss[chain, burnin:] - trace.init_loss[chain, burnin:]))
        axes.plot(
            step[thin],
            mean[thin],
            color=_COLOURS[chain % len(_COLOURS)],
            linewidth=1.3 if few else 0.7,
            alpha=1.0 if few else 0.5,
            marker="o" if len(step) < 3 else None,
        )
    if np.isfinite(result.llc):
        axes.axhline(result.llc, color="black", linewidth=1.0, linestyle="--", label="λ̂ ± standard error")
        if np.isfinite(result.llc_se):
            axes.axhspan(result.llc - result.llc_se, result.llc + result.llc_se, color="black", alpha=0.12, linewidth=0)
        axes.legend(loc="upper left", fontsize=7.5, frameon=False)
    if burnin > 0:
        axes.axvspan(0, burnin, color="0.5", alpha=0.15, linewidth=0)
    _frame_running(axes, result)
    axes.set_ylabel("running λ̂ of each chain")


def _frame_running(axes: Any, result: LLCResult) -> None:
    """Keep the first noisy means from flattening the rest: show what the latter four fifths of the means span."""
    ends: list[float] = []
    for line in axes.get_lines():
        values = np.asarray(line.get_ydata(), dtype=float)
        values = values[len(values) // 5 :] if len(values) > 20 else values
        ends += values[np.isfinite(values)].tolist()
    if np.isfinite(result.llc) and np.isfinite(result.llc_se):
        ends += [result.llc - 2 * result.llc_se, result.llc + 2 * result.llc_se]
    if ends:
        low, high = min(ends), max(ends)
        margin = 0.15 * (high - low) or 0.1 * max(abs(high), 1e-12)
        axes.set_ylim(low - margin, high + margin)
