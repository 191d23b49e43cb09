"""The figure, the numbers and the sentence of pile_attention_only.py."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from claims import tiny_part
from experiment import Row
from scipy.stats import chi2

from hf_llc.numerals import number, short
from hf_llc.publishing.picture import BAD, COLOURS, GOOD, GREY, WIDTH
from hf_llc.records.findings import is_trusted

AGREE = 0.1
"""Seeds agree where the standard deviation of λ̂ over them is below this share of its mean."""


WAYS = {"paper": "the paper's settings", "ours": "hf_llc's settings"}


def _used(rows: Sequence[Row]) -> dict[str, str]:
    """The ways of `WAYS` in which some model was estimated."""
    return {way: name for way, name in WAYS.items() if any(row.get("settings") == way for row in rows)}


def last(rows: Sequence[Row], way: str) -> list[Row]:
    """One way's estimates of the fully trained models, in the order of their seeds."""
    found = [row for row in rows if row["stage"] == "llc" and row["settings"] == way]
    steps = max((row["step"] or 0 for row in found), default=0)
    return sorted((row for row in found if (row["step"] or 0) == steps), key=lambda row: row["seed"] or 0)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Standard deviation over seeds as a share of the mean, and its 95 % interval (χ², for normal values)."""
    share, free = float(np.std(values, ddof=1) / abs(np.mean(values))), len(values) - 1
    low, high = (share * math.sqrt(free / chi2.ppf(p, free)) for p in (0.975, 0.025))
    return share, low, high


def claim(rows: Sequence[Row]) -> str:
    """Whether models trained from different seeds have the same λ̂; for a single model, its λ̂."""
    single = [row for row in rows if row["seed"] is None]
    if single:
        found = (f"{number(r['llc'])} with {WAYS[r['settings']]} ({r['verdict']}; {_damage([r])})" for r in single)
        return f"{single[0]['model']}: λ̂ = " + ", ".join(found) + "."
    words = []
    for way, name in _used(rows).items():
        found = last(rows, way)
        values = [row["llc"] for row in found if row["llc"] is not None]
        if len(values) < 3:
            seen = f"cannot tell from {len(values)} of {len(found)} seeds"
        else:
            share, low, high = spread(values)
            word = "seen" if high < AGREE else "not seen" if low > AGREE else "cannot tell"
            seen = (
                f"{word} ({len(values)} of {len(found)} seeds, λ̂ = {np.mean(values):.4g}, standard deviation over "
                f"seeds {share:.1%} of it, 95 % interval {low:.1%} … {high:.1%})"
            )
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(r["verdict"] for r in found).items())
        words.append(f"with {name} {seen}; verdicts: {verdicts}; {_damage(found)}")
    tiny = ""
    for way, name in _used(rows).items():
        found = [row for row in last(rows, way) if row["llc"] is not None and "num_parameters" in row]
        stayed = [row for row in found if row["verdict"] != "left the basin"]
        if stayed:
            models = f"{len(stayed)} models with {name}"
            tiny += " " + tiny_part([row["llc"] for row in stayed], stayed[0]["num_parameters"], models)
        elif found:
            tiny += f" With {name} all chains left the basin, so that λ̂ is no part of the models' parameters at all."
    return f"Figure L.1, λ̂ agrees within {AGREE:.0%} between training seeds: " + ". And ".join(words) + "." + tiny


def _damage(rows: Sequence[Row]) -> str:
    """The mean loss of the chains, beside the loss at w* and that of a constant predictor."""
    mean, first, trivial = (
        f"{np.mean(found):.3g}" if (found := [row[key] for row in rows if row[key] is not None]) else "not finite"
        for key in ("mean_loss", "init_loss", "trivial_loss")
    )
    return f"the chains' mean loss is {mean}, {first} at w*, {trivial} of a constant predictor"


def draw(rows: Sequence[Row]) -> Any:
    """Training losses, λ̂ of each seed in both ways, and λ̂ and the loss along the training of seed 0."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    trained = [row for row in rows if row["stage"] == "train"]
    along = [row for row in rows if row["stage"] == "llc" and row["settings"] == "paper" and row["seed"] == 0]
    count = bool(trained) + len(_used(rows)) + 2 * (len(along) > 1)
    lines = math.ceil(count / 2)
    figure = Figure(figsize=(WIDTH, 2.7 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(lines, 2, squeeze=False).flat)
    for spare in panels[count:]:
        spare.remove()
    if trained:
        axes = panels.pop(0)
        for row in trained:
            axes.plot(*zip(*row["curve"], strict=True), lw=1, alpha=0.8)
        axes.set(xscale="log", xlabel="step", ylabel="training loss (nats a token)", title=f"{len(trained)} trainings")
    for way, name in _used(rows).items():
        _draw_seeds(panels.pop(0), last(rows, way), name)
    if len(along) > 1:
        _draw_curve(panels[:2], sorted(along, key=lambda row: row["step"]))
    return figure


def _draw_seeds(axes: Any, rows: Sequence[Row], name: str) -> None:
    """Each seed's λ̂ and chains, and mean ± standard deviation over seeds; from zero, so that shares can be seen."""
    for i, row in enumerate(rows):
        chains = [value for value in row["llc_per_chain"] if value is not None]
        axes.plot([i] * len(chains), chains, ls="none", marker="_", ms=9, color=GREY, alpha=0.5)
        good = is_trusted(row["verdict"])
        if row["llc"] is not None:
            colour = GOOD if good else BAD
            axes.errorbar(
                i, row["llc"], row["llc_se"] if good else None, fmt="o", color=colour, mfc=GOOD if good else "white"
            )
    values = [row["llc"] for row in rows if row["llc"] is not None]
    over = ""
    if len(values) > 1:
        mean, sd = np.mean(values), np.std(values, ddof=1)
        axes.axhspan(mean - sd, mean + sd, color=GREY, alpha=0.2, lw=0)
        axes.axhline(mean, color=GREY, lw=0.8)
        over = f"   (mean {mean:.4g}, sd {sd:.2g}, {sd / abs(mean):.1%})"
    verdicts, row = ", ".join(dict.fromkeys(row["verdict"] for row in rows)), rows[0]
    settings = f"nβ {number(row['nbeta'])}   γ {number(row['localization'])}   ε {short(row['step_size'])}"
    axes.set_title(f"{name}: {verdicts}\n{settings}")
    axes.set_xticks(range(len(rows)), [str(row["model"] if row["seed"] is None else row["seed"]) for row in rows])
    label = "" if row["seed"] is None else "seed"
    axes.set(xlabel=label + over, ylabel="λ̂", xlim=(-0.5, len(rows) - 0.5))
    shown = [value for row in rows for value in [*row["llc_per_chain"], 0.0] if value is not None]
    axes.set_ylim(min(shown), 1.2 * max([1e-9, *shown]))


def _draw_curve(panels: Sequence[Any], rows: Sequence[Row]) -> None:
    """λ̂ and the loss along the training, in panels of their own."""
    axes, lower = panels
    steps = [row["step"] for row in rows]
    good = [is_trusted(row["verdict"]) for row in rows]
    axes.plot(steps, [row["llc"] for row in rows], "o", color=BAD, mfc="white")
    kept = [row for row, is_good in zip(rows, good, strict=True) if is_good]
    if kept:
        values = ([row[name] for row in kept] for name in ("step", "llc", "llc_se"))
        axes.errorbar(*values, fmt="o-", color=GOOD)
    kinds = ", ".join(dict.fromkeys(row["verdict"] for row in rows))
    axes.set_title(f"along the training, the paper's settings\n({kinds})")
    axes.set(ylabel="λ̂", ylim=(0, None))
    lower.plot(steps, [row["init_loss"] for row in rows], "s-", color=COLOURS[2], ms=4)
    lower.set(ylabel="held-out loss at w*\n(nats a token)")
    for each in panels:
        first = min(step for step in steps if step)
        each.set_xscale("symlog", linthresh=first)
        each.set_xlim(-0.3 * first, 1.4 * max(steps))
        each.set_xlabel("step")


NUMBERS = (
    *("model", "seed", "step", "settings", "llc", "llc_se", "verdict", "init_loss", "mean_loss", "trivial_loss"),
    *("nbeta", "localization", "step_size", "num_chains", "num_draws", "num_burnin_steps", "accept_prob", "r_hat"),
    *("gain", "relative_distance", "num_gradients", "seconds"),
)
"""Columns of figure.csv, a row an estimate."""
