"""The picture of a run: the chains' losses, and the running λ̂ below (after Figure H.1 of Lau et al. 2023)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_llc.numerals import number
from hf_llc.publishing.formatting import apart, counted, together
from hf_llc.publishing.headline import estimate_text, law_text, moved_text
from hf_llc.publishing.picture import COLOURS, GREY, drawn, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hf_llc.records.record import Record
    from hf_llc.records.trace import Trace

Array = np.ndarray

_MAX_POINTS = 4000
"""Points of a curve, at most: more cannot be seen, and a picture of 10^6 steps must not take minutes."""
_MAX_FAINT_CHAINS = 12
"""With more chains, the unsmoothed curves are left out: they would hide the smooth ones."""


def plot_trace(result: Record, path: str | Path) -> Path:
    """Draw the trace of `result` into a PNG; return its path.

    Above: the loss of every chain at each step (faint) and its moving mean, a cross where a chain stopped, L_n(w*), the
    trivial predictor's loss if the chains come near it, and burn-in shaded. The loss
    shown is L_n(w*) + L_B(w_t) − L_B(w*). The difference on one minibatch removes the noise of which examples it holds,
    which all chains share and which would hide the climb. A faint line may fall below zero. Below: the running
    λ̂ of each chain, from the same differences after burn-in, and the band λ̂ ± standard error. At the foot, where it was
    measured, MALA's acceptance.

    Args:
        result: with its trace.
        path: of the PNG, whatever its suffix.

    Raises:
        ValueError: the result has no trace.
    """
    from matplotlib.ticker import MaxNLocator

    trace = result.trace
    if trace is None:
        raise ValueError("the result has no trace to draw")
    heights = [3.0, 2.0] + ([0.9] if _has_acceptance(trace) else [])
    with drawn(path, height=1 + 0.9 * sum(heights)) as figure:
        panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        _draw_losses(panels[0], result, trace)
        _draw_running_llc(panels[1], result, trace)
        if _has_acceptance(trace):
            _draw_acceptance(panels[2], trace)
        for axes in panels:
            if result.num_burnin_steps > 0:
                axes.axvspan(-0.5, result.num_burnin_steps - 0.5, color="black", alpha=0.06, lw=0, label="burn-in")
        panels[0].set_xlim(-0.5, trace.shape[1] - 0.5)
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        panels[-1].set_xlabel(_caption(result))
        legend_above(panels[0], ncols=5)
        figure.suptitle(_title(result), color="black" if result.is_trustworthy else "#a00000")
    return Path(path)


def moving_mean(values: Array, window: int) -> Array:
    """Mean of the finite values among the last `window` steps, `[chain, step]` → same shape.

    It is NaN where the value itself is not finite.
    """
    is_finite = np.isfinite(values)
    sums = np.cumsum(np.where(is_finite, values, 0.0), axis=1)
    counts = np.cumsum(is_finite, axis=1).astype(float)
    sums[:, window:] -= sums[:, :-window].copy()
    counts[:, window:] -= counts[:, :-window].copy()
    mean = np.full(values.shape, np.nan)
    np.divide(sums, counts, out=mean, where=(counts > 0) & is_finite)
    return mean


def running_llc(
    trace: Trace, *, nbeta: float, num_burnin_steps: int, llc_per_chain: Sequence[float] = ()
) -> tuple[Array, Array]:
    """λ̂ from the steps so far, nβ·mean[L_B(w_t) − L_B(w*)] less the heat of each chain.

    Args:
        trace: of all chains.
        nbeta: nβ.
        num_burnin_steps: steps left out at the start; none if the trace is no longer than that (a stopped run).
        llc_per_chain: λ̂ of each chain, less its heat: where its curve ends; without it, no heat is taken off.

    Returns:
        The step numbers `[step]`, and the running λ̂ `[chain, step]`.
    """
    start = num_burnin_steps if num_burnin_steps < trace.shape[1] else 0
    excess = nbeta * (trace.loss[:, start:] - trace.init_loss[:, start:])
    running = moving_mean(excess, excess.shape[1])
    if len(llc_per_chain) == len(running) and running.shape[1]:
        heat = running[:, -1] - np.array(llc_per_chain)
        running = running - np.where(np.isfinite(heat), heat, 0.0)[:, None]
    return np.arange(start, trace.shape[1]), running


def _thin(steps: Array, values: Array) -> tuple[Array, Array]:
    """Every k-th point up to the last one, at most `_MAX_POINTS` in all."""
    stride = -(-len(steps) // _MAX_POINTS)
    return steps[::-1][::stride][::-1], values[..., ::-1][..., ::stride][..., ::-1]


def _colour(chain: int) -> str:
    return COLOURS[chain % len(COLOURS)]


def _draw_losses(axes: Axes, result: Record, trace: Trace) -> None:
    chains, num_steps = trace.shape
    loss = result.init_loss + trace.loss - trace.init_loss
    smooth = moving_mean(loss, max(1, num_steps // 50))
    marker = "o" if num_steps == 1 else None
    alpha = 0.9 if chains <= _MAX_FAINT_CHAINS else 0.45
    steps, raw = _thin(np.arange(num_steps), loss)
    _, mean = _thin(np.arange(num_steps), smooth)
    for chain in range(chains):
        if chains <= _MAX_FAINT_CHAINS:
            axes.plot(steps, raw[chain], color=_colour(chain), lw=0.5, alpha=0.18)
        label = "chains (moving mean)" if chain == 0 else None
        axes.plot(steps, mean[chain], color=_colour(chain), lw=1.3, alpha=alpha, marker=marker, label=label)
        last = np.flatnonzero(np.isfinite(smooth[chain]))[-1:]
        if last.size and last[0] < num_steps - 1:
            axes.plot(last, smooth[chain, last], color=_colour(chain), ls="none", marker="x", ms=9, mew=2)
    if math.isfinite(result.init_loss):
        axes.axhline(result.init_loss, color="black", lw=1, label=f"$L_n(w^*)$ = {number(result.init_loss)}")
    shown = raw if chains <= _MAX_FAINT_CHAINS else mean
    low, high = _range(shown, result.init_loss)
    trivial = result.trivial_loss
    if trivial is not None and _is_near(trivial, low, high):
        axes.axhline(trivial, color="black", lw=1.2, ls=":", label=f"trivial = {number(trivial)}")
        low, high = min(low, trivial), max(high, trivial)
    _scale(axes, low, high)
    axes.set_ylabel(f"$L_n(w^*)$ + change of loss\n({result.unit})")


def _range(values: Array, *more: float) -> tuple[float, float]:
    """Least and greatest finite value; (0, 1) if there is none."""
    finite = np.concatenate([values[np.isfinite(values)].ravel(), [x for x in more if math.isfinite(x)]])
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _is_near(trivial_loss: float, low: float, high: float) -> bool:
    """Return True if the trivial loss lies in the range of the data, or at most half that range away."""
    return low - (high - low) / 2 <= trivial_loss <= high + (high - low) / 2


def _scale(axes: Axes, low: float, high: float) -> None:
    """Set the limits, with a margin even for one value; logarithmic if the values span more than two decades."""
    if low > 0 and high / low > 100:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, min(high * 1.3, 1e300))
        return
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    axes.set_ylim(low - margin, high + margin)


def _has_acceptance(trace: Trace) -> bool:
    return bool(np.isfinite(trace.accept_prob).any())


def _draw_acceptance(axes: Axes, trace: Trace) -> None:
    """Draw the mean acceptance of the chains, neighbouring steps averaged to at most 100 points."""
    values = trace.accept_prob
    measured = np.flatnonzero(np.isfinite(values).any(axis=0))
    groups = np.array_split(measured, min(100, measured.size))
    steps = [group.mean() for group in groups]
    means = [float(np.nanmean(values[:, group])) for group in groups]
    axes.plot(steps, means, ls="none", marker=".", ms=4, color=GREY)
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("acceptance")


def _draw_running_llc(axes: Axes, result: Record, trace: Trace) -> None:
    steps, running = running_llc(
        trace,
        nbeta=result.nbeta,
        num_burnin_steps=result.num_burnin_steps,
        llc_per_chain=result.llc_per_chain,
    )
    steps, running = _thin(steps, running)
    marker = "o" if len(steps) == 1 else None
    alpha = 0.9 if len(running) <= _MAX_FAINT_CHAINS else 0.45
    for chain, values in enumerate(running):
        axes.plot(steps, values, color=_colour(chain), lw=1, alpha=alpha, marker=marker)
    if math.isfinite(result.llc) and len(steps):
        ends = [steps[0] - 0.5, steps[-1] + 0.5]  # λ̂ is of the draws: what stands here does not cross the burn-in
        axes.plot(ends, [result.llc] * 2, color="black", lw=1)
        if math.isfinite(result.llc_se):
            low, high = result.llc - result.llc_se, result.llc + result.llc_se
            axes.fill_between(ends, low, high, color="black", alpha=0.15, lw=0)
    late = running[:, len(steps) // 10 :]  # means over the first few steps would set the scale for all the rest
    error = result.llc_se if math.isfinite(result.llc_se) else 0.0
    low, high = _range(late, result.llc - error, result.llc + error)
    if low < 0 < high and high - low > 100 * (abs(result.llc) if math.isfinite(result.llc) else math.inf):
        axes.set_yscale("symlog", linthresh=max(abs(result.llc), 1e-12))
    else:
        _scale(axes, low, high)
    axes.set_ylabel("running λ̂")


def _caption(result: Record) -> str:
    draws = f"{result.num_chains:,} × {result.num_draws:,} draws after {result.num_burnin_steps:,} steps of burn-in"
    return f"step   ({draws}; n {result.n:,} {counted(result.unit)})"


def _title(result: Record) -> str:
    """λ̂ ± standard error, the verdict and the first reason for it, wrapped."""
    text = f"{estimate_text(result)} at {law_text(result)}   {result.verdict}"
    reasons = [reason.text for reason in result.reasons if not reason.is_note]
    moved = moved_text(result)
    first = [apart(line) for line in textwrap.wrap(together("; ".join(reasons[:1])), 90)[:3]]
    lines = [text, *([] if moved is None else [moved]), *first]
    return "\n".join(line.replace("$", r"\$") for line in lines)
