"""The sentence, the table and the figure of mnist_entropy_sgd.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from claims import tiny_part, verdicts
from classifiers import judged
from experiment import Row
from scipy import stats

OPTIMIZERS = ("sgd", "entropy-sgd")


def at_equal_loss(rows: Sequence[Row], name: str = "llc") -> list[tuple[float, float]]:
    """Pairs of entropy-SGD's last λ̂ and SGD's λ̂ at the same training loss, from the same seed.

    SGD's λ̂ is interpolated along its curve, linearly in the logarithm of the loss. A seed is left out if SGD's measured
    losses do not enclose entropy-SGD's.
    """
    pairs = []
    for seed in sorted({row["seed"] for row in rows}):
        one = {row["optimizer"]: row for row in rows if row["seed"] == seed}
        curve = sorted(one["sgd"]["curve"], key=lambda point: point["train_loss"])
        losses = np.log([point["train_loss"] for point in curve])
        wanted = np.log(one["entropy-sgd"]["train_loss"])
        if losses[0] <= wanted <= losses[-1]:
            sgd = float(np.interp(wanted, losses, np.array([point[name] for point in curve], dtype=float)))
            pairs.append((one["entropy-sgd"][name], sgd))
    return pairs


def _largest(row: Row) -> float:
    """λ̂ of all steps or of their later half."""
    return max(row["llc"], row["llc_late"])


def _what_it_is(rows: Sequence[Row]) -> str:
    """Is λ̂ a tiny part of d, and what do the verdicts say of it?"""
    text = ""
    for name in OPTIMIZERS:
        mine = [row for row in rows if row["optimizer"] == name]
        if all("num_parameters" in row for row in mine):
            text += tiny_part([_largest(row) for row in mine], mine[0]["num_parameters"], f"{name}'s networks") + "\n"
            text += f"Verdicts with {name}: {verdicts(mine)}.\n"
    return text + _WHY if text else text


_WHY = (
    "λ̂ is the paper's, of all steps from w* on: chains drift, their later half has more. A step too large adds to λ̂. "
    "The part of d is of the larger of the two; the optimizers are compared as the paper compares them.\n"
)


def claim(rows: Sequence[Row]) -> str:
    """Is λ̂ lower with entropy-SGD? After as many epochs, as in the paper (Welch's t test); and at equal training loss
    (paired t test: both networks of a seed begin alike and are sampled with the same noise and minibatches)."""
    mine = {name: [row for row in rows if row["optimizer"] == name] for name in OPTIMIZERS}
    sgd, entropy = (np.array([row["llc"] for row in mine[name]], dtype=float) for name in OPTIMIZERS)
    loss = {name: np.mean([row["train_loss"] for row in mine[name]]) for name in OPTIMIZERS}
    test: Any = stats.ttest_ind(entropy, sgd, equal_var=False)
    text = (
        f"{judged(-test.statistic, test.pvalue)}: after as many epochs λ̂ is lower with entropy-SGD than with SGD "
        f"({entropy.mean():.4g}, sd {entropy.std(ddof=1):.2g}, against {sgd.mean():.4g}, sd {sgd.std(ddof=1):.2g}; "
        f"{len(sgd)} repetitions each, Welch's t = {test.statistic:.2f}, p = {test.pvalue:.2g}; training losses "
        f"{loss['entropy-sgd']:.2g} and {loss['sgd']:.2g}).\n"
    )
    text += _what_it_is(rows)
    pairs = np.array(at_equal_loss(rows), dtype=float).reshape(-1, 2)
    if len(pairs) < 2:
        return text + "Cannot tell: SGD did not have entropy-SGD's last loss between two measured epochs."
    difference = pairs[:, 0] - pairs[:, 1]
    paired: Any = stats.ttest_1samp(difference, 0.0)
    return text + (
        f"{judged(-paired.statistic, paired.pvalue)}: it is lower than with SGD at the same training loss "
        f"({pairs[:, 0].mean():.4g} against {pairs[:, 1].mean():.4g}: {difference.mean():+.2g} ± "
        f"{difference.std(ddof=1) / np.sqrt(len(difference)):.1g}, paired over {len(difference)} seeds, "
        f"p = {paired.pvalue:.2g})."
    )


def table(rows: Sequence[Row]) -> list[Row]:
    """One line a measured epoch of each network."""
    named = ("optimizer", "seed")
    return [{**{n: row[n] for n in named}, **point} for row in rows for point in row["curve"]]


def figure(rows: Sequence[Row]) -> Any:
    """λ̂ of the trained networks, and λ̂ against training loss on the way."""
    from matplotlib import pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), width_ratios=(1, 1.2))
    colors = dict(zip(OPTIMIZERS, ("tab:blue", "tab:orange"), strict=True))
    columns = [(name, [row["llc"] for row in rows if row["optimizer"] == name], colors[name]) for name in OPTIMIZERS]
    columns.append(("sgd at the loss\nof entropy-sgd", [pair[1] for pair in at_equal_loss(rows)], "tab:cyan"))
    columns = [column for column in columns if column[1]]
    for place, (_, values, color) in enumerate(columns):
        left.plot(place + np.linspace(-0.15, 0.15, len(values)), values, "o", color=color, alpha=0.7)
        left.plot([place - 0.3, place + 0.3], [np.mean(values)] * 2, color=color, lw=2)
    left.set(xticks=range(len(columns)), xticklabels=[name for name, _, _ in columns], xlim=(-0.6, len(columns) - 0.4))
    left.set(ylabel="λ̂", title="after training\n(the paper: about 1000 for both, d = 1,863,690)")
    for row in rows:
        losses, llcs = ([point[k] for point in row["curve"]] for k in ("train_loss", "llc"))
        color, label = colors[row["optimizer"]], row["optimizer"] if row["seed"] == 0 else None
        right.plot(losses, llcs, ".-", color=color, alpha=0.6, lw=1, label=label)
        right.plot(losses[-1], llcs[-1], "o", color=color, mec="black", zorder=3)
    right.set(xscale="log", xlabel="training loss (nats), falling", ylabel="λ̂", title="on the way (end: black rim)")
    right.invert_xaxis()
    right.legend(frameon=False)
    fig.tight_layout()
    return fig
