"""The heat of gradient noise: its errors, and the heat capacity, a second estimate of λ."""

from __future__ import annotations

import math

import numpy as np

from hf_llc.judging.statistics import Array, block_means, mean_of, standard_error

SIGNIFICANT_HEAT = 0.02
"""Share of λ̂ above which the heat is significant, so that its share ω that reaches λ̂ is measured. A smaller heat is
subtracted with ω = 1, its upper bound."""

_HEAT_FORMULA = 0.1
"""Least error of the formula for the heat of gradient noise, as a share of the heat: of the share ω, and of stiff
directions. On quadratics it is exact but for 1 − εa/4, 6 % at a calibrated ε, whether or not the noise grows with
‖w − w*‖ (docs/mathematics.md)."""


def heat_capacity(excess: Array, *, is_full: bool, has_momentum: bool) -> tuple[float, float]:
    """Var(nβ L_n) under the posterior, and its standard error: a second estimate of λ.

    Where λ is exact, nβ(L_n − L_n(w*)) is close to Gamma(λ), whose variance and mean agree. With minibatches the
    variance of nβ(L_B(w_t) − L_B(w*)) includes that of the minibatch. Two successive steps have different minibatches
    at nearly the same w, so their covariance does not. Covariances c₁ and c₂ at one and two steps are extrapolated to
    none: along a line, 2c₁ − c₂, or with momentum, where they begin as a parabola, (4c₁ − c₂)/3.

    Args:
        excess: nβ(L_B(w_t) − L_B(w*)) after burn-in, `[chain, step]`.
        is_full: every step saw all examples.
        has_momentum: the sampler has a momentum.
    """
    if excess.shape[1] < 8 or not np.isfinite(excess).all():
        return math.nan, math.nan
    centred = excess - excess.mean()
    if is_full:
        products = np.square(centred)
    else:
        near, far = centred[:, :-2] * centred[:, 1:-1], centred[:, :-2] * centred[:, 2:]
        products = (4 * near - far) / 3 if has_momentum else 2 * near - far
    return float(products.mean()), standard_error(block_means(products, max(1, products.shape[1] // 500)))


def heat_errors(excess: Array, heat: Array) -> tuple[float, float]:
    """Two errors that taking off the heat of gradient noise adds to λ̂: of its mean, and of its formula.

    The heat is measured at few steps, and may come from few of them: where it grows with ‖w − w*‖, or where a few
    examples carry the noise. So its mean is as uncertain as its own spread says, within chains and between them. What
    counts is the spread of λ̂ less the heat: an excursion that raises the heat also raises λ̂.

    The formula is of first order in the heat. So its error is taken to be the share of λ̂ that is heat, at least a
    tenth: all of the heat where that is as large as what it is taken off.

    Args:
        excess: nβ(L_B(w_t) − L_B(w*)) after burn-in, `[chain, step]`.
        heat: of the same steps, NaN where it was not measured.

    Returns:
        The variance that the mean of the heat adds to that of the draws (negative where the two move together; 0 if it
        cannot be told), and the error of the formula.
    """
    mean = mean_of(heat)
    if not mean > 0:
        return 0.0, 0.0
    raw = float(excess.mean())
    formula = mean * min(1.0, max(_HEAT_FORMULA, mean / raw if raw > 0 else 1.0))
    steps = np.flatnonzero(np.isfinite(heat).all(axis=0))
    if len(steps) < 4 or not np.isfinite(excess).all():
        return 0.0, formula
    lengths = np.diff([*steps, excess.shape[1]])
    blocks = np.add.reduceat(excess, steps, axis=1) / lengths
    return standard_error(blocks - heat[:, steps]) ** 2 - standard_error(blocks) ** 2, formula
