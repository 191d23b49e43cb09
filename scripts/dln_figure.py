"""The table, the sentence and the figure of dln_benchmark.py."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from experiment import Row
from matplotlib.figure import Figure

from hf_llc.models.deep_linear import SIZES

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
    """λ̂ against λ (figures 4, J.1), the relative error (J.2) and its distribution (J.3), by sampler."""
    samplers = [name for name in SAMPLERS if any(row["sampler"] == name for row in rows)]
    figure = Figure(figsize=(4.2 * (len(samplers) + 1), 4), layout="constrained")
    axes = figure.subplots(1, len(samplers) + 1, squeeze=False)[0]
    sizes = [size for size in SIZES if any(row["size"] == size for row in rows)]
    exact = [row["exact"] for row in rows]
    for column, sampler in enumerate(samplers):
        panel = axes[column]
        panel.plot([min(exact), max(exact)], [min(exact), max(exact)], color="black", lw=0.8)
        for (number, size), is_trained in itertools.product(enumerate(sizes), (False, True)):
            wanted = (sampler, size, is_trained)
            part = [r for r in rows if (r["sampler"], r["size"], r["trained"]) == wanted and (r["llc"] or 0) > 0]
            style = {"marker": "x", "label": f"{size}, trained"} if is_trained else {"marker": ".", "label": size}
            if part:
                panel.plot([r["exact"] for r in part], [r["llc"] for r in part], ls="", ms=5, c=f"C{number}", **style)
        panel.set(xscale="log", yscale="log", xlabel="exact λ", ylabel="λ̂", title=sampler)
        panel.legend(frameon=False)
    groups = [(size, sampler) for size in sizes for sampler in samplers]
    found = [r for r in rows if r["error"] is not None and not r["trained"]]
    errors = [[100 * r["error"] for r in found if (r["size"], r["sampler"]) == group] for group in groups]
    axes[-1].boxplot(errors, whis=(5, 95), tick_labels=[f"{size}\n{sampler}" for size, sampler in groups])
    axes[-1].axhline(0, color="black", lw=0.8)
    axes[-1].set(ylabel="relative error (%)", title="box: quartiles, whiskers: 5–95 %", yscale="symlog")
    axes[-1].margins(y=0.08)  # the limits were taken on another scale
    return figure


def sentence(summaries: Sequence[Row]) -> str:
    """Whether the paper's claim is seen: estimates that rank and match the exact values at every size."""
    parts = []
    for s in summaries:
        name = f"{s['size']} {s['sampler']}{', trained' if s['trained'] else ''}"
        seen = s["median_abs_error"] < 0.1 and s["order_preserved"] > 0.95
        parts.append(
            f"{name}: median error {s['median_abs_error']:.1%}, order {s['order_preserved']:.3f}"
            f"{'' if seen else ' (not seen)'}"
        )
    return "λ̂ follows the exact learning coefficient (median error under 10 %, 95 % of pairs in order): " + "; ".join(
        parts
    )
