"""The table, the sentence and the figure of dln_benchmark.py."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from experiment import Row
from matplotlib.figure import Figure

from hf_llc.models.deep_linear import SIZES
from hf_llc.numerals import number
from hf_llc.publishing.picture import COLOURS, WIDTH, legend_below

SAMPLERS = ("paper", "auto", "asymptotic")


def table(summaries: Sequence[Row]) -> str:
    """The summaries as text."""
    head = "size  sampler  budget  nets  lost  gradients  median |err|   rms    5 … 95 %     z mean ± sd of nets  order"
    return "\n".join([head, *map(_line, summaries)])


def _line(s: Row) -> str:
    return (
        f"{s['size']:<5} {s['sampler']:<7} {s['budget']:6g} {s['networks']:6d} {s['diverged']:5d} "
        f"{s['gradients']:10,d} {s['median_abs_error']:12.2%} {s['rms_error']:8.2%}  "
        f"{s['low_5']:+7.2%} … {s['high_95']:+7.2%} {s['z_mean']:+7.2f} ± {s['z_sd']:.2f} of {s['certain']} "
        f"{s['order_preserved']:8.4f}" + ("  trained" if s["trained"] else "")
    )


def draw(rows: Sequence[Row]) -> Figure:
    """A row of panels for each: λ̂ against λ on logarithmic axes (Figure 4) and on linear ones (J.1), the relative error
    (λ − λ̂)/λ with the paper's sign (J.2), MALA acceptance (J.3), loss traces at three step sizes (H.1)."""
    samplers = [name for name in SAMPLERS if any(row.get("sampler") == name for row in rows)]
    estimates, traces = [r for r in rows if "trace" not in r], [r for r in rows if "trace" in r]
    sizes = [size for size in SIZES if any(row["size"] == size for row in estimates)]
    tested = [
        name for name in samplers if any(r["sampler"] == name and r["accept_prob"] is not None for r in estimates)
    ]
    lines = 4 if traces else 3
    figure = Figure(figsize=(WIDTH, 2.8 * lines), layout="constrained")
    rest = [1 + len(tested)] + ([len(traces)] if traces else [])
    parts: Any = figure.subfigures(lines, 1)
    axes = [
        part.subplots(1, count, squeeze=False)[0] for part, count in zip(parts, [len(samplers)] * 2 + rest, strict=True)
    ]
    for line, (is_log, name) in enumerate(((True, "Figure 4"), (False, "J.1"))):
        for panel, sampler in zip(axes[line], samplers, strict=True):
            _against_exact(panel, [r for r in estimates if r["sampler"] == sampler], sizes, is_log=is_log)
            panel.set_title(f"{name}: {sampler}")
    _errors(axes[2][0], estimates, sizes, samplers)
    for panel, sampler in zip(axes[2][1:], tested, strict=True):  # samplers with momentum have no acceptance
        _acceptance(panel, [r for r in estimates if r["sampler"] == sampler], sizes)
        panel.set_title(f"J.3: {sampler}")
    for panel, row in zip(axes[3] if traces else [], sorted(traces, key=lambda row: row["step_size"]), strict=True):
        _trace(panel, row)
    return figure


def _against_exact(panel: Any, rows: Sequence[Row], sizes: Sequence[str], *, is_log: bool) -> None:
    exact = [row["exact"] for row in rows]
    panel.plot([min(exact), max(exact)], [min(exact), max(exact)], color="black", lw=0.8)
    for (index, size), is_trained in itertools.product(enumerate(sizes), (False, True)):
        part = [r for r in rows if (r["size"], r["trained"]) == (size, is_trained) and (r["llc"] or 0) > 0]
        style = {"marker": "x", "label": f"{size}, trained"} if is_trained else {"marker": ".", "label": size}
        if part:
            errors = [r.get("llc_se") or 0.0 for r in part]
            panel.errorbar(
                [r["exact"] for r in part], [r["llc"] for r in part], errors,
                ls="", ms=4, capsize=0, elinewidth=0.6, color=COLOURS[index], **style,
            )  # fmt: skip
    scale = "log" if is_log else "linear"
    panel.set(xscale=scale, yscale=scale, xlabel="exact λ", ylabel="λ̂")
    legend_below(panel, ncols=3)


def _errors(panel: Any, rows: Sequence[Row], sizes: Sequence[str], samplers: Sequence[str]) -> None:
    groups = [(size, sampler) for size in sizes for sampler in samplers]
    found = [r for r in rows if r["error"] is not None and not r["trained"]]
    errors = [[-r["error"] for r in found if (r["size"], r["sampler"]) == group] for group in groups]
    panel.boxplot(errors, whis=(5, 95), tick_labels=[f"{size}\n{sampler}" for size, sampler in groups])
    panel.axhline(0, color="black", lw=0.8)
    panel.axhspan(0, 0.75, color="tab:gray", alpha=0.12, lw=0)
    panel.axhline(0.15, color="tab:gray", ls="--", lw=1)
    panel.set(ylabel="(λ − λ̂)/λ", title="J.2: quartiles, whiskers 5–95 %\ngrey: the paper's range and median")


def _acceptance(panel: Any, rows: Sequence[Row], sizes: Sequence[str]) -> None:
    bins = [0.5 + k / 40 for k in range(21)]
    for index, size in enumerate(sizes):
        found = [max(r["accept_prob"], bins[0]) for r in rows if r["size"] == size and r["accept_prob"] is not None]
        panel.hist(found, bins, histtype="step", color=COLOURS[index], label=f"{size}, {len(found)} chains")
    panel.set_xticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], ["≤ 0.5", "0.6", "0.7", "0.8", "0.9", "1"])
    panel.axvspan(0.9, 0.95, color="tab:gray", alpha=0.2, lw=0)
    panel.set(xlabel="MALA acceptance (grey: the advised)", ylabel="networks")
    legend_below(panel, ncols=2)


def _trace(panel: Any, row: Row) -> None:
    panel.plot(row["trace"]["steps"], row["trace"]["llc"], lw=0.8)
    panel.axhline(row["exact"], color="black", ls="--", lw=0.8)
    acceptance = "–" if row["accept_prob"] is None else f"{row['accept_prob']:.2f}"
    panel.set(xlabel="step", ylabel="nβ(L_B(w) − L_n(w*))")
    panel.set_title(f"H.1: {row['kind']}\nε = {number(row['step_size'])}, acceptance {acceptance}\n(dashed: exact λ)")


def sentence(summaries: Sequence[Row]) -> str:
    """Whether the paper's claim is seen: estimates that rank and match the exact values at every size."""
    parts = []
    for s in summaries:
        name = f"{s['size']} {s['sampler']}{', trained' if s['trained'] else ''}"
        seen = s["median_abs_error"] < 0.1 and s["order_preserved"] > 0.95
        z = f"z-scores sd {s['z_sd']:.1f} of the {s['certain']} whose local and global λ agree"
        parts.append(
            f"{name}: median error {s['median_abs_error']:.1%}, order {s['order_preserved']:.3f}, {s['networks']} "
            f"networks, {s['trustworthy']} trustworthy, {s['diverged']} lost, {z}{'' if seen else ' (not seen)'}"
        )
    return "λ̂ follows the exact learning coefficient (median error under 10 %, 95 % of pairs in order): " + "; ".join(
        parts
    )
