"""The pictures of docs/llc.md and docs/heat.md: volumes and chains of three losses of two weights, and heat.

    python scripts/concept_pictures.py --output docs/pictures       # ten seconds on one core

Everything in them is computed here: areas by counting points, chains by SGLD, heat by hf_llc on a linear regression.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hf_llc import LLCEvaluator
from hf_llc.files import write_atomically

Array = NDArray[np.float64]

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#767676"

LOSSES: dict[str, tuple[Callable[[Array, Array], Array], float]] = {
    "w₁² + w₂²": (lambda one, two: one**2 + two**2, 1.0),
    "w₁² + w₂⁴": (lambda one, two: one**2 + two**4, 0.75),
    "w₁² w₂²": (lambda one, two: one**2 * two**2, 0.5),
}
"""Name → the loss, and its learning coefficient λ at 0. That of the last has multiplicity 2."""

FRACTIONS = {0.5: "½", 0.75: "¾", 1.0: "1"}


def areas(loss: Callable[[Array, Array], Array], levels: Array, *, points: int = 4_000_000) -> Array:
    """The area of {loss < level} within the square |w₁|, |w₂| < 1, for each level, by random points."""
    one, two = np.random.default_rng(0).uniform(-1, 1, (2, points))
    values = np.sort(loss(one, two))
    return 4 * np.searchsorted(values, levels) / points


def chain(
    loss: Callable[[Array, Array], Array], *, nbeta: float, gamma: float, step: float = 2e-4, steps: int = 120_000
) -> Array:
    """[step, weight]: SGLD at 0 with the exact gradient, by differences."""
    rng, w, kept, h = np.random.default_rng(1), np.zeros(2), np.empty((steps, 2)), 1e-5
    noise = rng.normal(scale=np.sqrt(step), size=(steps, 2))
    for t in range(steps):
        one = (loss(w[0] + h, w[1]) - loss(w[0] - h, w[1])) / (2 * h)
        two = (loss(w[0], w[1] + h) - loss(w[0], w[1] - h)) / (2 * h)
        w = w - step / 2 * (nbeta * np.array([one, two]) + gamma * w) + noise[t]
        kept[t] = w
    return kept


def volume_picture() -> Figure:
    """Where each loss is below δ, and how the area of that falls with δ."""
    figure = Figure(figsize=(9.6, 6.2), layout="constrained")
    axes = figure.subplots(2, 3, height_ratios=[1.15, 1])
    grid = np.linspace(-1, 1, 401)
    one, two = np.meshgrid(grid, grid)
    levels = np.geomspace(1e-4, 3e-2, 12)
    for column, (name, (loss, exponent)) in enumerate(LOSSES.items()):
        above, below = axes[0, column], axes[1, column]
        above.contourf(one, two, loss(one, two), levels=[0, 0.003, 0.03, 0.1], colors=["#0072B2", "#6BAFD6", "#D6E6F2"])
        _square(above, f"L = {name}")
        found = areas(loss, levels)
        below.loglog(levels, found, "o", color=BLUE, ms=4, label="counted")
        power = levels**exponent * (1 - np.log(levels) / 2 if exponent == 0.5 else 1)  # the cross's area is 4 of that
        below.loglog(levels, power * found[-1] / power[-1], color=ORANGE, lw=1.2, label="the formula")
        below.set_title(f"λ = {FRACTIONS[exponent]}" + (", m = 2" if exponent == 0.5 else ""), fontsize=10)
        below.set_xlabel("δ")
        below.grid(alpha=0.25)
    axes[1, 0].set_ylabel("area of {L < δ}")
    axes[1, 0].legend(frameon=False, fontsize=9)
    return figure


def chain_picture(*, nbeta: float = 400.0, gamma: float = 4.0) -> Figure:
    """A chain around each minimum, and nβ L along it."""
    figure = Figure(figsize=(9.6, 6.2), layout="constrained")
    axes = figure.subplots(2, 3, height_ratios=[1.15, 1])
    for column, (name, (loss, _)) in enumerate(LOSSES.items()):
        above, below = axes[0, column], axes[1, column]
        w = chain(loss, nbeta=nbeta, gamma=gamma)
        above.plot(*w[::60].T, ".", color=BLUE, ms=2, alpha=0.5)
        _square(above, f"L = {name}")
        energy = nbeta * loss(*w.T)
        below.plot(np.arange(0, len(w), 200), energy[::200], color=GREY, lw=0.6)
        below.axhline(energy.mean(), color=ORANGE, lw=1.6)
        below.set_ylim(0, 5)
        below.set_xlabel("step")
        below.set_xticks([0, 50_000, 100_000], ["0", "50,000", "100,000"])
        below.set_title(f"mean, λ̂ = {energy.mean():.2f}", fontsize=10, color=ORANGE)
    axes[1, 0].set_ylabel("nβ (L(w) − L(w*))")
    figure.supxlabel(f"nβ = {nbeta:.0f}, γ = {gamma:.0f}", fontsize=9)
    return figure


def regression(num_weights: int = 6) -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """A linear model at the least-squares fit of noisy labels: gradients of minibatches have much noise there."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(400, num_weights, generator=rng)
    y = x.sum(-1, keepdim=True) + torch.randn(400, 1, generator=rng)
    model = torch.nn.Linear(num_weights, 1, bias=False)
    model.weight.data = torch.linalg.lstsq(x, y).solution.T.contiguous()
    return model, (x, y)


def squared(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """−ln p of a normal with variance 1, up to a constant, for each example."""
    return ((output - label) ** 2 / 2).sum(-1)


def heat_picture(*, gamma: float = 10.0) -> Figure:
    """Minibatch losses with and without pairing; λ̂ against ε with the heat left in and taken off."""
    model, data = regression()
    common: dict[str, Any] = {"sampler": "baoab", "friction": 1.0, "localization": gamma, "batch_size": 16}
    common |= {"num_chains": 4, "chain_batch_size": 4, "num_burnin_steps": 500, "gradient": "plain"}
    steps, results = [1e-3, 2e-3, 4e-3, 6e-3], []
    for step in steps:
        evaluator = LLCEvaluator(**common, step_size=step, num_draws=3000, check_localization=False)
        results.append(evaluator.compute(model, data, loss_fn=squared, progress=False))
    h = torch.linalg.eigvalsh(data[0].T @ data[0] / len(data[0])).numpy()
    exact = float((results[0].nbeta * h / (results[0].nbeta * h + gamma)).sum() / 2)

    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    trace, first = results[0].trace, results[0]
    window = slice(600, 800)
    left.plot(first.nbeta * (trace.loss[0, window] - first.init_loss), color=GREY, lw=0.8, label="not paired")
    paired = first.nbeta * (trace.loss[0, window] - trace.init_loss[0, window])
    left.plot(paired, color=BLUE, lw=1.2, label="paired")
    left.set_xlabel("step")
    left.set_ylabel("nβ × rise of the minibatch's loss")
    left.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    for key, colour, label in (("llc_uncorrected", ORANGE, "heat left in"), ("llc", BLUE, "heat taken off")):
        values = [getattr(each, key) for each in results]
        errors = [each.llc_se for each in results]
        right.errorbar(steps, values, errors, fmt="o", color=colour, ms=4, capsize=3, label=label)
    right.axhline(exact, color="black", lw=1, ls="--", label=f"exact, {exact:.2f}")
    right.set_ylim(0, None)
    right.set_xticks(steps, [f"{step:.3f}" for step in steps])
    right.set_xlabel("step size ε")
    right.set_ylabel("λ̂")
    right.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


def _square(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_aspect("equal")
    axes.set_xlim(-1, 1)
    axes.set_ylim(-1, 1)
    axes.set_xticks([-1, 0, 1])
    axes.set_yticks([-1, 0, 1])
    axes.set_xlabel("w₁")
    axes.set_ylabel("w₂", rotation=0)


PICTURES = {"volume.png": volume_picture, "chain.png": chain_picture, "heat.png": heat_picture}


def main() -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser(description="The pictures of docs/llc.md and docs/heat.md.")
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"), help="folder of the pictures")
    parser.add_argument("--only", nargs="+", choices=list(PICTURES), default=list(PICTURES))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        figure = PICTURES[name]()
        write_atomically(args.output / name, lambda path, figure=figure: figure.savefig(path, dpi=110, format="png"))


if __name__ == "__main__":
    main()
