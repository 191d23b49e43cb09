"""K near minima whose λ is known, their volumes by direct integration, and what these say of λ̂ (dln_theory.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import special
from scipy.optimize import brentq
from torch import Tensor

Array = np.ndarray

BARRIER = -7 / 9
"""Where |(w + 1)(w − 1)⁸| is largest between its zeros: the two basins part there."""


@dataclass(frozen=True)
class Landscape:
    """K near a minimum, and what is known of it.

    Attributes:
        loss: K of parameters `[…, d]`.
        w_star: the minimum.
        learning_coefficient: λ.
        multiplicity: m.
        stiffness: the largest second derivative of K that chains meet at γ = 1, in the range of nβ sampled.
        leapfrog: leapfrog steps a trajectory, more where one direction is much slower than another.
        section: for d = 2, the half-width of {b: K(a, b) < ε} at a > 0, for arrays a and ε that broadcast.
        edge: for d = 2, the a where that is 0, or one beyond which there is no mass to speak of.
        edges: for d = 1, both ends of {w: K(w) < ε} in the basin, `[level, 2]`.
        basin: for d = 1, where the minimum's own basin ends.
        least_log10_nbeta: where chains leave the basin, or meet other curvatures, at smaller nβ.
    """

    loss: Callable[[Tensor], Tensor]
    w_star: tuple[float, ...]
    learning_coefficient: float
    multiplicity: int
    stiffness: float
    leapfrog: int
    section: Callable[[Array, Array], Array] | None = None
    edge: Callable[[Array], Array] = lambda epsilon: np.full_like(epsilon, 9.0)
    edges: Callable[[Array], Array] | None = None
    basin: tuple[float, float] = (-9.0, 9.0)
    least_log10_nbeta: float = 0.0

    def half_trace(self) -> float:
        """½ Tr H of K at the minimum: E K under N(w*, σ²I) is σ² times that, to second order in σ."""
        w = torch.tensor(self.w_star, dtype=torch.float64)
        hessian: Any = torch.autograd.functional.hessian(self.loss, w)
        return float(hessian.trace()) / 2


def one_parameter(w: Tensor) -> Tensor:
    """K = ½((w + 1)(w − 1)⁸)², `[…, 1]` → `[…]`."""
    return 0.5 * ((w[..., 0] + 1) * (w[..., 0] - 1) ** 8) ** 2


def _polynomial_edges(centre: float, basin: tuple[float, float]) -> Callable[[Array], Array]:
    """Ends of {`one_parameter` < ε} around one of its minima, by bisection."""

    def level(w: float) -> float:
        return 0.5 * ((w + 1) * (w - 1) ** 8) ** 2

    def edge(end: float, value: float) -> float:
        root: Any = end if level(end) <= value else brentq(lambda w: level(w) - value, centre, end, xtol=1e-15)
        return root

    return lambda epsilon: np.array([[edge(end, value) for end in basin] for value in epsilon])


_X = torch.arange(16, dtype=torch.float64) / 8
F1, F2 = torch.sin(torch.pi * _X), torch.cos(torch.pi * _X)
"""f₁ and f₂ of appendix F at inputs x over one period, where the mean of (f₁ − f₂)² is 1."""


def appendix_f(truth: Tensor) -> Callable[[Tensor], Tensor]:
    """K of ŷ = w⁸ f₁(x) + (1 − w⁸) f₂(x) and noise of variance 1 where `truth` makes the data, `[…, 1]` → `[…]`."""

    def loss(w: Tensor) -> Tensor:
        power = w**8
        return (power * F1 + (1 - power) * F2 - truth).square().mean(-1) / 2

    return loss


def _first_edges(epsilon: Array) -> Array:
    """½(1 − w⁸)² < ε around w = 1."""
    root = np.sqrt(2 * epsilon)
    return np.stack([np.maximum(1 - root, 0) ** (1 / 8), (1 + root) ** (1 / 8)], axis=1)


def _second_edges(epsilon: Array) -> Array:
    """½w¹⁶ < ε."""
    return (2 * epsilon)[:, None] ** (1 / 16) * np.array([-1.0, 1.0])


ORIGIN = (0.0, 0.0)
LEFT, RIGHT = (-9.0, BARRIER), (BARRIER, 9.0)


LANDSCAPES = {
    "a² + b²": Landscape(
        lambda w: w.square().sum(-1),
        ORIGIN,
        1.0,
        1,
        2.0,
        6,
        lambda a, e: np.sqrt(np.maximum(e - a**2, 0)),
        lambda e: np.minimum(e ** (1 / 2), 9),
    ),
    "a⁴ + b²": Landscape(
        lambda w: w[..., 0] ** 4 + w[..., 1] ** 2,
        ORIGIN,
        0.75,
        1,
        4.0,
        15,
        lambda a, e: np.sqrt(np.maximum(e - a**4, 0)),
        lambda e: np.minimum(e ** (1 / 4), 9),
    ),
    "a²b²": Landscape(lambda w: (w[..., 0] * w[..., 1]) ** 2, ORIGIN, 0.5, 2, 24.0, 60, lambda a, e: np.sqrt(e) / a),
    "a⁴b²": Landscape(
        lambda w: (w[..., 0] ** 2 * w[..., 1]) ** 2, ORIGIN, 0.25, 1, 300.0, 150, lambda a, e: np.sqrt(e) / a**2
    ),
    "w = −1": Landscape(one_parameter, (-1.0,), 0.5, 1, 2.0**16, 6, edges=_polynomial_edges(-1.0, LEFT), basin=LEFT),
    "w = 1": Landscape(one_parameter, (1.0,), 1 / 16, 1, 100.0, 120, edges=_polynomial_edges(1.0, RIGHT), basin=RIGHT),
    "F: f₁ true": Landscape(
        appendix_f(F1), (1.0,), 0.5, 1, 100.0, 8, edges=_first_edges, basin=(0.0, 9.0), least_log10_nbeta=2.0
    ),
    "F: f₂ true": Landscape(appendix_f(F2), (0.0,), 1 / 16, 1, 30.0, 120, edges=_second_edges, least_log10_nbeta=2.0),
}
"""By name; "w = …" are the two minima of the polynomial, "F: …" the two truths of the model of appendix F."""


def volume(landscape: Landscape, epsilon: Array) -> Array:
    """V(ε), the probability of K < ε under N(w*, I), within the minimum's own basin; by direct integration.

    Args:
        landscape: the landscape.
        epsilon: levels, `[level]`.
    """
    if landscape.section is not None:
        # a = edge·exp(−t²): smooth at the edge, and fine at 0, where sections are singular
        t = np.linspace(0, 5.5, 601)
        a = landscape.edge(epsilon)[:, None] * np.exp(-(t**2))
        density = 4 * t * a * np.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)
        inside = special.erf(landscape.section(a, epsilon[:, None]) / math.sqrt(2))
        return np.trapezoid(density * inside, t, axis=1)
    assert landscape.edges is not None
    ends = landscape.edges(epsilon) - landscape.w_star[0]
    return special.ndtr(ends[:, 1]) - special.ndtr(ends[:, 0])


def exact_llc(landscape: Landscape, nbeta: float) -> float:
    """nβ E[K] under exp(−nβK − ½‖w − w*‖²), from the volume alone."""
    s = np.linspace(-25, math.log(60), 301)
    x = np.exp(s)
    weighted = volume(landscape, x / nbeta) * np.exp(-x) * x
    return float(np.trapezoid(weighted * (x - 1), s) / np.trapezoid(weighted, s))


def volume_exponent(landscape: Landscape) -> float:
    """λ from the volume: d ln V / d ln ε at ε = 1e-12, plus the (m − 1)/ln(1/ε) that the logarithm takes from it."""
    ends = np.array([1e-12 * 0.9, 1e-12 / 0.9])
    slope = float(np.diff(np.log(volume(landscape, ends)))[0] / np.diff(np.log(ends))[0])
    return slope + (landscape.multiplicity - 1) / (12 * math.log(10))


def mass_exponent() -> float:
    """How fast the posterior mass at w = 1 gains on that at w = −1: d ln(Z₁/Z₋₁)/d ln(nβ) from 1e10 to 1e12."""

    def log_mass(landscape: Landscape, nbeta: float) -> float:
        s = np.linspace(-25, math.log(60), 301)
        return math.log(np.trapezoid(volume(landscape, np.exp(s) / nbeta) * np.exp(-np.exp(s) + s), s))

    low, high = (log_mass(LANDSCAPES["w = 1"], nbeta) - log_mass(LANDSCAPES["w = −1"], nbeta) for nbeta in (1e10, 1e12))
    return (high - low) / math.log(100)
