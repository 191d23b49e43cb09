"""Arrays in, numbers out: mixing, standard errors, and the checks behind a verdict.

`draws` is always an array `[chain, draw]` of nβ·(loss − reference), so its mean is λ̂.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from arviz_stats.base import array_stats
from scipy import stats

Array = np.ndarray

HEAT_ERROR = 0.25
"""Relative uncertainty of the heat of gradient noise that is taken off λ̂ (`hf_llc.calibration.pilot`)."""


def block_means(values: Array, size: int) -> Array:
    """Means over `size` consecutive steps, `[chain, step]` → `[chain, step // size]`; the first steps that do not fill
    a block are dropped."""
    count = values.shape[1] // size
    return values[:, values.shape[1] - count * size :].reshape(len(values), count, size).mean(axis=2)


def ess(draws: Array) -> float:
    """Effective sample size of the mean (Vehtari et al. 2021). Constant draws carry no information: 0."""
    if draws.shape[1] < 4 or not np.isfinite(draws).all() or np.ptp(draws) == 0:
        return 0.0
    return float(np.asarray(array_stats.ess(draws, chain_axis=0, draw_axis=1, method="mean")))


def r_hat(draws: Array) -> float:
    """Rank-normalised split r̂ (Vehtari et al. 2021); NaN where it is not defined."""
    if draws.shape[1] < 4 or not np.isfinite(draws).all() or np.ptp(draws) == 0:
        return math.nan
    return float(np.asarray(array_stats.rhat(draws, chain_axis=0, draw_axis=1, method="rank")))


def standard_error(draws: Array) -> float:
    """Monte Carlo standard error of the mean of all draws.

    sd/√ESS, whose autocorrelations are taken around the mean of *all* chains, so that chains which disagree widen it.
    Where they disagree more than their own errors would lead one to expect (F test, p < 0.1) it is the standard error
    between chains, if that is larger: a slow direction that no single chain has crossed shows there alone. (On 400
    sets of four well-mixed AR(1) chains this makes errors 2–4 % too wide.) NaN for draws that are constant or too few.
    """
    size = ess(draws)
    if size <= 0:
        return math.nan
    within = float(draws.std(ddof=1)) / math.sqrt(size)
    num_chains = len(draws)
    if num_chains < 2:
        return within
    own = [standard_error(chain[None]) for chain in draws]
    between = float(draws.mean(axis=1).var(ddof=1))
    ratio = between / float(np.mean(np.square(own)))
    if not math.isfinite(ratio) or stats.f.sf(ratio, num_chains - 1, 20) < 0.1:
        return max(within, math.sqrt(between / num_chains))
    return within


def drift(draws: Array) -> dict[str, float]:
    """Mean of the second half of the draws minus that of the first, its standard error and its p value.

    All chains start at w*, so a relaxation still under way shows as the same drift in each. With three or more chains
    the error comes from their spread (t test), with fewer from the Monte Carlo errors of the halves.
    """
    half = draws.shape[1] // 2
    if half < 2 or not np.isfinite(draws).all():
        return {"drift": math.nan, "drift_se": math.nan, "p_value": math.nan}
    first, second = draws[:, :half], draws[:, -half:]
    change = second.mean(axis=1) - first.mean(axis=1)
    mean = float(change.mean())
    if len(draws) >= 3:
        error = float(change.std(ddof=1)) / math.sqrt(len(draws))
        p = 2 * float(stats.t.sf(abs(mean) / error, len(draws) - 1)) if error > 0 else float(mean == 0)
    else:
        error = math.hypot(standard_error(first), standard_error(second))
        p = 2 * float(stats.norm.sf(abs(mean) / error)) if error > 0 else math.nan
    return {"drift": mean, "drift_se": error, "p_value": p}


def is_drifting(plateau: dict[str, float], llc: float, llc_se: float) -> bool:
    """A drift that is no accident (p < 0.01) and moves λ̂ by more than 2 % and more than its stated error."""
    return plateau["p_value"] < 0.01 and abs(plateau["drift"]) > max(0.02 * abs(llc), llc_se)


def spreading(excess: Array, sq_distance: Array, num_burnin_steps: int) -> dict[str, float]:
    """Do the chains still move away from w*, and what did that do to λ̂ lately?

    While flat directions fill the range that γ allows, ‖w − w*‖² grows, and a λ̂ that looks flat on its own draws may go
    on climbing with the logarithm of time. Where ‖w − w*‖² grows along the draws, by no accident (p < 0.01), and is a
    tenth above that of the later half of the burn-in, the change of λ̂ since then measures what may still be missing.

    Args:
        excess: nβ(L_B(w_t) − L_B(w*)), every step, `[chain, step]`.
        sq_distance: ‖w − w*‖² where it was measured, else NaN, `[chain, step]`.
        num_burnin_steps: steps dropped.

    Returns:
        `was`, `distance`: root mean square of ‖w − w*‖ over the later half of the burn-in and over the draws; `change`:
        of λ̂ between them, 0 where the chains have stopped spreading, NaN where that cannot be told.
    """
    before = slice(num_burnin_steps // 2, num_burnin_steps)
    seen: Array = np.asarray(np.isfinite(sq_distance).all(axis=0))
    early, kept = sq_distance[:, before][:, seen[before]], sq_distance[:, num_burnin_steps:][:, seen[num_burnin_steps:]]
    if early.shape[1] < 2 or kept.shape[1] < 4 or not np.isfinite(excess).all():
        return {"was": math.nan, "distance": math.nan, "change": math.nan}
    was, now, trend = float(early.mean()), float(kept.mean()), drift(kept)
    found = {"was": math.sqrt(was), "distance": math.sqrt(now)}
    if now < 1.1 * was or trend["drift"] < 0 or trend["p_value"] >= 0.01:
        return found | {"change": 0.0}
    return found | {"change": float(excess[:, num_burnin_steps:].mean() - excess[:, before].mean())}


def first_non_finite(values: Array) -> list[tuple[int, int]]:
    """(chain, step) of the first value of each chain that is not finite."""
    bad = ~np.isfinite(values)
    return [(int(c), int(bad[c].argmax())) for c in np.flatnonzero(bad.any(axis=1))]


def stuck_chains(draws: Array) -> list[int]:
    """Chains whose draws are all one value."""
    return [int(c) for c in np.flatnonzero(np.ptp(draws, axis=1) == 0)] if draws.shape[1] > 1 else []


def deepest_dip(excess: Array) -> dict[str, float]:
    """How far the chains fell below L_n(w*), and when.

    A chain that starts at a minimum can only climb; one that first falls says that w* was not at one. The trace
    nβ·(L_B(w_t) − L_B(w*)), `[chain, step]`, is averaged over windows of 1/50 of its steps.

    Returns:
        `depth`: the lowest window mean over all chains (negative: below), `depth_se`: its standard error between chains
        (NaN for one chain), `step`: the window's middle.
    """
    size = max(1, excess.shape[1] // 50)
    windows = block_means(excess, size)
    windows = windows[np.isfinite(windows).all(axis=1)]
    if windows.size == 0:
        return {"depth": math.nan, "depth_se": math.nan, "step": math.nan}
    means = windows.mean(axis=0)
    at = int(means.argmin())
    error = float(windows[:, at].std(ddof=1)) / math.sqrt(len(windows)) if len(windows) > 1 else math.nan
    return {"depth": float(means[at]), "depth_se": error, "step": (at + 0.5) * size}


def is_dipping(dip: dict[str, float], llc: float, spread: float) -> bool:
    """The dip is deeper than 5 % of |λ̂| and than 4 of its standard errors (one chain: than 4 sd of its draws)."""
    error = dip["depth_se"] if math.isfinite(dip["depth_se"]) else spread
    return dip["depth"] < -max(0.05 * abs(llc), 4 * error)


def step_size_bias(grad_dot: Array, step_size: float) -> float:
    """How much of λ̂ is owed to the finite step and to minibatch gradients: (ε/8)·E⟨nβ∇L_B, ∇U_B⟩.

    For a quadratic L with full batches this is the exact excess of SGLD's λ̂ over that of ε → 0, because there
    E⟨nβ∇L, ∇U⟩ = Σ nβh_i/(1 − εa_i/4) and λ̂ = ½ Σ nβh_i/(a_i(1 − εa_i/4)). With minibatches it also holds
    (ε/8)·n²β²·E‖∇L_B − ∇L_n‖², the heat that gradient noise adds: exact where nβh_i ≫ γ, else an upper bound.
    """
    values = grad_dot[np.isfinite(grad_dot)]
    return step_size / 8 * float(values.mean()) if values.size else math.nan


def reweighted(excess: Array, sq_distance: Array, localization: float) -> dict[str, float]:
    """By how much λ̂ moves when γ is halved and doubled: the same draws with weights exp(−(γ′ − γ)/2 ‖w − w*‖²).

    From the steps where the distance was measured. The weights of a large model lie on one draw: where their effective
    number is below a tenth of the draws, or below 20, there is no answer (NaN).

    Returns:
        `halved`, `halved_se`, `doubled`, `doubled_se`; the errors by the jackknife over chains, or over blocks of one.
    """
    seen = np.isfinite(excess) & np.isfinite(sq_distance)
    groups = [(x[s], r[s]) for x, r, s in zip(excess, sq_distance, seen, strict=True) if s.any()]
    if len(groups) == 1:
        groups = list(zip(*(np.array_split(values, 10) for values in groups[0]), strict=True))
    found: dict[str, float] = {}
    for name, factor in (("halved", 0.5), ("doubled", 2.0)):
        value = _change([*groups], (factor - 1) * localization) if groups else math.nan
        without = [_change(groups[:i] + groups[i + 1 :], (factor - 1) * localization) for i in range(len(groups))]
        spread = math.sqrt((len(groups) - 1) * float(np.var(without))) if len(groups) > 1 else math.nan
        found |= {name: value, f"{name}_se": spread}
    return found


def _change(groups: list[tuple[Array, Array]], change: float) -> float:
    """Weighted mean minus plain mean; NaN where too few draws carry the weight."""
    x, r = (np.concatenate(column) for column in zip(*groups, strict=True))
    if len(x) < 20:
        return math.nan
    exponent = -change / 2 * r
    weights = np.exp(exponent - exponent.max())
    if weights.sum() ** 2 / np.square(weights).sum() < max(20, len(x) / 10):
        return math.nan
    return float((weights * x).sum() / weights.sum() - x.mean())


def heat_capacity(excess: Array, *, is_full: bool, has_momentum: bool) -> tuple[float, float]:
    """Var_π(nβ L_n), which like its mean over that at w* tends to λ, and its standard error.

    (nβ(L_n − L_n(w*)) is close to Gamma(λ) where λ is exact: variance and mean agree.) With minibatches the variance of
    nβ(L_B(w_t) − L_B(w*)) has the minibatch's own in it, but two successive steps have different batches at nearly the
    same w: their covariance has not. Covariances at one and two steps are extrapolated to none: along a line, 2c₁ − c₂,
    or with momentum, where they begin as a parabola, (4c₁ − c₂)/3.
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


def mean_of(values: Array) -> float:
    """Mean of the values that were measured; NaN if none was."""
    seen: Any = values[np.isfinite(values)]
    return float(seen.mean()) if seen.size else math.nan


def step_share(measured: Array, step_size: float) -> float:
    """The mean ε of chains that lowered it, as a share of the one they began with; 1 where none did.

    Args:
        measured: ε where it was measured, else NaN, `[chain, step]`.
        step_size: ε to begin with.
    """
    share = mean_of(measured) / step_size
    return share if math.isfinite(share) else 1.0
