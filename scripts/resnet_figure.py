"""The picture, the table and the sentence of resnet_cifar10.py."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from classifiers import judged
from experiment import Row
from scipy import stats

from hf_llc.numerals import short
from hf_llc.publishing.picture import BAD, GOOD, GREY, WIDTH, legend_below
from hf_llc.records.findings import is_trusted

Sweeps = Sequence[tuple[Any, Sequence[Row]]]
"""Each sweep with its rows."""

NAMES = {
    "learning_rate": "learning rate",
    "batch_size": "batch size",
    "momentum": "momentum",
    "l2": "L2",
}

SIGNS = {"learning_rate": -1, "batch_size": 1, "momentum": -1, "l2": -1}
"""The paper's claim: how λ̂ goes as each is raised. Of L2 without momentum only."""

PAPER = {
    "learning_rate": {0.005: 7900, 0.01: 7800, 0.05: 6650, 0.1: 5350, 0.2: 3050},
    "batch_size": {16: 1600, 32: 3500, 64: 5200, 128: 6700, 256: 7400, 512: 7800, 1024: 7900},
    "momentum": {0.0: 6700, 0.9: 850},
    "l2": {},
}
"""λ̂ at the end of training, read off the paper's figures; without momentum."""

PANELS = (("llc", "λ̂"), ("test_accuracy", "test accuracy"), ("train_loss", "training loss"))


_ENOUGH = 5
"""Seeds for a band of 95 %: that of three is four standard errors to either side."""


def band(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (Student's t over seeds; NaN with one)."""
    array = np.array(values, dtype=float)
    if len(array) < 2:
        return float(array.mean()) if len(array) else np.nan, np.nan
    half = stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))
    return float(array.mean()), float(half)


def sound(rows: Sequence[Row]) -> list[Row]:
    """Rows whose training and sampling stayed finite."""
    return [row for row in rows if row["diverged"] is None]


OFF = ("not a minimum", "left the basin")
"""Verdicts after which λ̂ says nothing of the network that was trained."""


def valid(rows: Sequence[Row]) -> list[Row]:
    """Sound rows whose last λ̂ belongs to the network that was trained."""
    return [row for row in sound(rows) if row["verdict"] not in OFF]


def spearman(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Spearman's rank correlation and its p value; NaN where there is none."""
    if len(one) < 3 or len(set(one)) < 2 or len(set(other)) < 2:
        return math.nan, math.nan
    test: Any = stats.spearmanr(one, other)
    return float(test.statistic), float(test.pvalue)


def trend(sweep: Any, rows: Sequence[Row]) -> tuple[float, float]:
    """`spearman` of what the sweep varies with λ̂."""
    return spearman([row[sweep.name] for row in rows], [row["llc"] for row in rows])


def title(sweep: Any) -> str:
    """What varies and what does not."""
    held = ", ".join(f"{NAMES[n]} {v:g}" for n, v in sweep.base.items() if n not in (sweep.name, "l2"))
    return f"{NAMES[sweep.name]}\n({held})"


def claim(sweeps: Sweeps) -> str:
    """For each sweep whether λ̂ goes as the paper says; then the runs that diverged, and BatchNorm's other mode."""
    found = [_said(sweep, rows) for sweep, rows in sweeps]
    rows = {
        tuple(sorted((k, v) for k, v in row.items() if k in (*NAMES, "step_size", "seed"))): row
        for _, s in sweeps
        for row in s
    }
    lost = [row for row in rows.values() if row["diverged"] is not None]
    found.append(
        f"{len(lost)} of {len(rows)} runs diverged and are left out of the above"
        + (": " + "; ".join(f"{_settings(row)}: {row['diverged']}" for row in lost) if lost else "")
        + "."
    )
    both = [row for row in rows.values() if row.get("llc_other_norm") is not None]
    if both:
        base, change = (band([row["llc_other_norm"] - row["llc"] * k for row in both]) for k in (0, 1))
        found.append(
            f"With BatchNorm's other statistics while sampling λ̂ of the base network is {base[0]:.3g}, a change by "
            f"{change[0]:+.2g} ± {change[1]:.2g} (95 %, paired over {len(both)} seeds)."
        )
    return "\n".join(found)


def _said(sweep: Any, rows: Sequence[Row]) -> str:
    """One sweep's sentence: λ̂ along it, in how many ways the runs can be chosen, and test accuracy."""
    rho, p = trend(sweep, valid(rows))
    sign = SIGNS[sweep.name]
    way = "falls" if sign < 0 else "rises"
    groups = {value: [row["llc"] for row in valid(rows) if row[sweep.name] == value] for value in sweep.values}
    means = ", ".join(f"{value:g}: {f'{band(group)[0]:.3g}' if group else '–'}" for value, group in groups.items())
    momentum = sweep.base["momentum"]
    with_what = f" with momentum {momentum:g}" if sweep.name != "momentum" and momentum else ""
    note = ", for which the paper claims no order" if sweep.name == "l2" and momentum else ""
    return (
        f"{judged(sign * rho, p)}: λ̂ {way} with {NAMES[sweep.name]}{with_what}{note} ({means}; Spearman's "
        f"ρ = {rho:.2f}, p = {p:.2g}, {len(valid(rows))} runs{_chosen(sweep, rows)}). {_generalizing(rows)}"
    )


def _chosen(sweep: Any, rows: Sequence[Row]) -> str:
    """Which runs the trend keeps and leaves out by their verdicts, and what it is of others."""
    parts = []
    off = [row for row in sound(rows) if row["verdict"] in OFF]
    if off:
        values = ", ".join(f"{value:g}" for value in sorted({row[sweep.name] for row in off}))
        rho, p = trend(sweep, sound(rows))
        parts.append(
            f"{len(off)} left out, of {values}, whose verdicts are {_kinds(off)}: with them ρ = {rho:.2f}, p = {p:.2g}"
        )
    bad = [row for row in valid(rows) if not is_trusted(row["verdict"])]
    if bad:
        good = [row for row in valid(rows) if is_trusted(row["verdict"])]
        rho, p = trend(sweep, good)
        alone = f", ρ = {rho:.2f}, p = {p:.2g}" if math.isfinite(rho) else ", no trend"
        parts.append(
            f"{len(bad)} of the kept are {_kinds(bad)}, as chains so short of equilibrium must be; trustworthy ones "
            f"alone: {len(good)}{alone}"
        )
    return "".join(f"; {part}" for part in parts)


def _generalizing(rows: Sequence[Row]) -> str:
    """Whether lower λ̂ goes with higher test accuracy, over the runs that the trend keeps."""
    mine = valid(rows)
    rho, p = spearman([row["llc"] for row in mine], [row["test_accuracy"] for row in mine])
    return (
        f"{judged(-rho, p)}: the lower λ̂, the higher the test accuracy (ρ = {rho:.2f}, p = {p:.2g}, {len(mine)} runs)."
    )


def _kinds(rows: Sequence[Row]) -> str:
    """Their verdicts, with how many have each."""
    counts = Counter(row["verdict"] for row in rows)
    shown = [f"“{verdict}”" + (f" ({n})" if len(counts) > 1 else "") for verdict, n in sorted(counts.items())]
    return ", ".join(shown)


def _settings(row: Row) -> str:
    return ", ".join(f"{NAMES[name]} {row[name]:g}" for name in NAMES) + f", seed {row['seed']}"


def table(sweeps: Sweeps) -> list[Row]:
    """One line a sweep, value, seed and measured step; a run that diverged before any has one line, without numbers."""
    lines = []
    blank = ("step", "llc", "llc_se", "verdict", "accept_prob", "train_loss", "test_accuracy")
    for sweep, rows in sweeps:
        for row in rows:
            named = {"sweep": sweep.name, **{name: row[name] for name in NAMES}, "seed": row["seed"]}
            for point in row["curve"] or [{}]:
                paper = PAPER[sweep.name].get(row[sweep.name]) if sweep.base["momentum"] == 0 else None
                lines.append(
                    {**named, **{n: point.get(n) for n in blank}, "diverged": row["diverged"], "paper_llc": paper}
                )
    return lines


def figure(sweeps: Sweeps) -> Any:
    """Two lines a sweep: λ̂ at the end against what varies, and the paper's; below λ̂, accuracy and loss on the way.

    Means over seeds with their 95 % intervals, or, of few seeds, with every seed. Legends stand below their panels.
    """
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    fig = plt.figure(figsize=(WIDTH, 5.0 * len(sweeps)), layout="constrained")
    parts: Any = fig.subfigures(len(sweeps), 1, squeeze=False)
    for part, (sweep, rows) in zip(parts.flat, sweeps, strict=True):
        above, below = part.subfigures(2, 1, height_ratios=[1.15, 1])
        ends, papers = above.subplots(1, 2)
        _ends(ends, sweep, rows)
        _papers(papers, sweep)
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(sweep.values)))
        panels = below.subplots(1, len(PANELS))
        for axis, (name, label) in zip(panels, PANELS, strict=True):
            for color, value in zip(colors, sweep.values, strict=True):
                mine = [row for row in sound(rows) if row[sweep.name] == value]
                if not mine:
                    continue
                steps = [point["step"] for point in mine[0]["curve"]]
                curves = np.array([[point[name] for point in row["curve"]] for row in mine], dtype=float)
                mean, half = np.array([band(values) for values in curves.T]).T
                axis.plot(steps, mean, ".-", color=color, lw=2, label=f"{value:g}")
                if len(curves) < _ENOUGH:
                    axis.plot(steps, curves.T, "-", color=color, lw=0.7, alpha=0.6)
                else:
                    axis.fill_between(steps, mean - half, mean + half, color=color, alpha=0.2, lw=0)
            axis.set(xlabel="training step", ylabel=label, yscale="log" if name == "train_loss" else "linear")
            axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            _keep_in_view(axis)
        _legend_below(panels[1], columns=len(sweep.values), title=NAMES[sweep.name])
    return fig


def _legend_below(axis: Any, *, columns: int, **how: Any) -> None:
    """A legend under the axis label, where it covers no curve."""
    legend_below(axis, ncols=columns, title_fontsize="small", **how)


def _papers(axis: Any, sweep: Any) -> None:
    """The paper's λ̂ after training, of its own network and data."""
    known = {} if sweep.base["momentum"] else PAPER[sweep.name]
    axis.set_title("the paper, read off its figures" if known else "the paper: no number given")
    axis.plot(range(len(known)), list(known.values()), "s--", color=GREY)
    axis.set(xticks=range(len(known)), xticklabels=[f"{value:g}" for value in known], xlabel=NAMES[sweep.name])
    axis.set_ylabel("the paper's λ̂")
    if not known:
        axis.set_axis_off()
    else:
        axis.set_ylim(0, 1.1 * max(known.values()))


def _keep_in_view(axis: Any) -> None:
    """The axis shows all lines; of a band what fits within a third as much again."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axis.lines] or [np.zeros(1)])
    is_log = axis.get_yscale() == "log"
    shown = np.log(drawn) if is_log else drawn
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    room = 0.3 * (high - low) or 1.0
    limits = np.array([low - room, high + room])
    axis.set_ylim(*(np.exp(limits) if is_log else limits))


def _ends(axis: Any, sweep: Any, rows: Sequence[Row]) -> None:
    """λ̂ of each trained network against what the sweep varies; how many diverged, at the foot."""
    places = {value: i for i, value in enumerate(sweep.values)}
    mine = sound(rows)
    other = [(places[row[sweep.name]], row["llc_other_norm"]) for row in mine if row.get("llc_other_norm") is not None]
    if other:
        axis.plot(*zip(*other, strict=True), "o", mfc="none", color=GREY, label="BatchNorm's other mode")
    kept, off = valid(rows), [row for row in mine if row["verdict"] in OFF]
    for is_good, label in ((True, "λ̂ ± standard error"), (False, "not trustworthy")):
        some = [row for row in kept if is_trusted(row["verdict"]) == is_good]
        if some:
            color = GOOD if is_good else BAD
            axis.errorbar(
                [places[row[sweep.name]] for row in some], [row["llc"] for row in some],
                [row["llc_se"] for row in some] if is_good else None,
                fmt="o", capsize=0, color=color, mfc=color if is_good else "white", label=label,
            )  # fmt: skip
    if off:
        at = [places[row[sweep.name]] for row in off]
        axis.plot(at, [row["llc"] for row in off], "x", color=BAD, label="not a minimum, or basin left")
    means = [band([row["llc"] for row in kept if row[sweep.name] == value])[0] for value in sweep.values]
    axis.plot(range(len(means)), means, "-", color=GREY, lw=1, label="mean over seeds")
    _legend_below(axis, columns=2)
    for value, place in places.items():
        lost = sum(row["diverged"] is not None for row in rows if row[sweep.name] == value)
        if lost:
            axis.annotate(f"{lost} diverged", (place, 0.02), xycoords=("data", "axes fraction"), color=BAD, ha="center")
    rho, p = trend(sweep, kept)
    axis.set(xticks=range(len(sweep.values)), xticklabels=[f"{value:g}" for value in sweep.values])
    axis.set(xlabel=f"{NAMES[sweep.name]}   (ρ = {short(rho)}, p = {short(p)})")
    axis.set_title(title(sweep))
    axis.set_ylabel("λ̂ after training")
