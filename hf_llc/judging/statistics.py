"""Arrays in, numbers out: mixing, standard errors, and what the checks of a verdict compare.

`draws` is always an array `[chain, draw]` of nβ·(loss − reference), so that its mean is λ̂.
"""

from __future__ import annotations

import math

import numpy as np
from arviz_stats.base import array_stats
from scipy import stats

from hf_llc.judging.effective_size import block_means, ess

Array = np.ndarray


MATERIAL = 0.1
"""Share of λ̂, counted from the minimum that γ allows, by which w* may lie above that minimum: twice the standard error
that chains aim at by default, so that what is let pass does not matter beside it."""


def is_above_minimum(descent: dict[str, float] | None, llc: float, share: float = MATERIAL) -> bool:
    """A descent from w* falls by more than `share` of λ̂ from where it ends, and by more than three of its errors.

    Args:
        descent: `loss_drop` and `loss_drop_se` (`calibration.descent`); None: there was none.
        llc: λ̂ from w*.
        share: of λ̂ from the end of the descent, `llc` + `loss_drop`.
    """
    if descent is None:
        return False
    drop = descent["loss_drop"]
    return drop > max(share * max(llc + drop, 0.0), 3 * descent["loss_drop_se"])


def r_hat(draws: Array) -> float:
    """Rank-normalised split r̂ (Vehtari et al. 2021); NaN for constant, non-finite or fewer than 4 draws."""
    if draws.shape[1] < 4 or not np.isfinite(draws).all() or np.ptp(draws) == 0:
        return math.nan
    return float(np.asarray(array_stats.rhat(draws, chain_axis=0, draw_axis=1, method="rank")))


def standard_error(draws: Array) -> float:
    """Monte Carlo standard error of the mean of all draws; NaN for draws that are constant or too few.

    It is sd/√ESS, whose autocorrelations are taken around the mean of *all* chains: chains that disagree widen it. If
    they disagree more than their own errors explain (F test, p < 0.1) it is the standard error between chains, if that
    is larger: a slow direction that no single chain has crossed shows only there. On 400 sets of four well-mixed AR(1)
    chains this makes errors 2–4 % too wide.
    """
    size = ess(draws)
    if size <= 0:
        return math.nan
    within = float(draws.std(ddof=1)) / math.sqrt(size)
    num_chains = len(draws)
    if num_chains < 2:
        return within
    errors = [standard_error(chain[None]) for chain in draws]
    between = float(draws.mean(axis=1).var(ddof=1))
    ratio = between / float(np.mean(np.square(errors)))
    if not math.isfinite(ratio) or stats.f.sf(ratio, num_chains - 1, 20) < 0.1:
        return max(within, math.sqrt(between / num_chains))
    return within


def drift(draws: Array) -> dict[str, float]:
    """Mean of the second half of the draws minus that of the first, its standard error and its p value.

    All chains start at w*, so a relaxation still under way shows as the same drift in each. With three or more chains
    the error comes from their spread (t test), with fewer from the Monte Carlo errors of the halves.

    Returns:
        `drift`, `drift_se`, `p_value`; NaN if there are fewer than 4 draws or one is not finite.
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
    """The drift is significant (p < 0.01) and above both 2 % of λ̂ and its standard error."""
    return plateau["p_value"] < 0.01 and abs(plateau["drift"]) > max(0.02 * abs(llc), llc_se)


def spreading(excess: Array, sq_distance: Array, num_burnin_steps: int) -> dict[str, float]:
    """Whether the chains still move away from w*, and what that did to λ̂ lately.

    While flat directions fill the range that γ allows, ‖w − w*‖² grows, and a λ̂ that looks flat on its own draws may
    go on climbing with the logarithm of time. If ‖w − w*‖² grows along the draws (p < 0.01) and is a tenth above that
    of the later half of the burn-in, the change of λ̂ between the two measures what may still be missing.

    Args:
        excess: nβ(L_B(w_t) − L_B(w*)), every step, `[chain, step]`.
        sq_distance: ‖w − w*‖², NaN where it was not measured, `[chain, step]`.
        num_burnin_steps: steps dropped at the start.

    Returns:
        `distance_before`, `distance`: root mean square of ‖w − w*‖ over the later half of the burn-in and over the
        draws. `change`: of λ̂ between them; 0 if the chains have stopped spreading, NaN if that cannot be told.
    """
    before = slice(num_burnin_steps // 2, num_burnin_steps)
    is_measured: Array = np.asarray(np.isfinite(sq_distance).all(axis=0))
    early = sq_distance[:, before][:, is_measured[before]]
    late = sq_distance[:, num_burnin_steps:][:, is_measured[num_burnin_steps:]]
    if early.shape[1] < 2 or late.shape[1] < 4 or not np.isfinite(excess).all():
        return {"distance_before": math.nan, "distance": math.nan, "change": math.nan}
    early_mean, late_mean, trend = float(early.mean()), float(late.mean()), drift(late)
    distances = {"distance_before": math.sqrt(early_mean), "distance": math.sqrt(late_mean)}
    if late_mean < 1.1 * early_mean or trend["drift"] < 0 or trend["p_value"] >= 0.01:
        return distances | {"change": 0.0}
    return distances | {"change": float(excess[:, num_burnin_steps:].mean() - excess[:, before].mean())}


_SEEN = 2.33
"""Standard errors of a difference that one in a hundred exceeds, on one side."""


def unrelaxed(excess: Array, num_burnin_steps: int, rate: float) -> float:
    """What the mean of the draws may lack because they begin before the chains have relaxed; 0 if that is not seen.

    In a quadratic loss a direction of curvature a lacks a share e^{−ε_eff a t} of its energy after t steps, and none
    relaxes more slowly than ε_eff γ. If the later half of the burn-in lies below the draws by D (p < 0.01), the draws
    lack at most D·f/(1 − f), where f is the mean of e^{−ε_eff γ t} over the draws beside that over this half. Where f
    is above a half, γ relaxes too little in these steps for that to say much: there ‖w − w*‖ tells (`spreading`).

    Args:
        excess: nβ(L_B(w_t) − L_B(w*)), every step, `[chain, step]`.
        num_burnin_steps: steps dropped at the start.
        rate: ε_eff γ; NaN: not known.
    """
    early, late = excess[:, num_burnin_steps // 2 : num_burnin_steps], excess[:, num_burnin_steps:]
    if early.shape[1] < 2 or not math.isfinite(rate) or not np.isfinite(excess).all():
        return 0.0
    below = float(late.mean() - early.mean())
    if not below > _SEEN * math.hypot(standard_error(early), standard_error(late)):  # NaN: too few to tell
        return 0.0
    steps = np.arange(excess.shape[1]) - num_burnin_steps  # from the burn-in's end, so that no exponential is zero
    left = np.exp(np.clip(-rate * steps, -500, 500))
    share = float(left[num_burnin_steps:].mean() / left[num_burnin_steps // 2 : num_burnin_steps].mean())
    return below * share / (1 - share) if share < 0.5 else 0.0


def first_non_finite(values: Array) -> list[tuple[int, int]]:
    """(chain, step) of the first value that is not finite, for each chain that has one."""
    is_bad = ~np.isfinite(values)
    return [(int(chain), int(is_bad[chain].argmax())) for chain in np.flatnonzero(is_bad.any(axis=1))]


def stuck_chains(draws: Array) -> list[int]:
    """Chains whose draws are all one value."""
    return [int(chain) for chain in np.flatnonzero(np.ptp(draws, axis=1) == 0)] if draws.shape[1] > 1 else []


_AROUND = 5
"""Windows on each side of the lowest that its error is taken from, too."""


def deepest_dip(excess: Array) -> dict[str, float]:
    """How far the chains fell below L_n(w*), and when.

    A chain that starts at a minimum can only climb; one that first falls shows that w* was not at a minimum.

    Args:
        excess: nβ(L_B(w_t) − L_B(w*)), every step, `[chain, step]`; averaged over windows of 1/50 of the steps.

    Returns:
        `depth`: the lowest window mean over all chains (negative: below L_n(w*)); `depth_se`: its standard error
        between chains (NaN for one chain), not below that of the windows around it: of 50 windows the lowest is often
        one whose few chains happen to agree; `step`: the middle of the window.
    """
    size = max(1, excess.shape[1] // 50)
    windows = block_means(excess, size)
    windows = windows[np.isfinite(windows).all(axis=1)]
    if windows.size == 0:
        return {"depth": math.nan, "depth_se": math.nan, "step": math.nan}
    means = windows.mean(axis=0)
    lowest = int(means.argmin())
    error = math.nan
    if len(windows) > 1:
        variances = windows.var(axis=0, ddof=1)
        around = variances[max(lowest - _AROUND, 0) : lowest + _AROUND + 1]
        error = math.sqrt(max(variances[lowest], float(around.mean())) / len(windows))
    return {"depth": float(means[lowest]), "depth_se": error, "step": (lowest + 0.5) * size}


def is_dipping(dip: dict[str, float], llc: float, spread: float) -> bool:
    """The dip is deeper than 5 % of |λ̂| and than 4 of its standard errors (with one chain: 4 sd of its draws)."""
    error = dip["depth_se"] if math.isfinite(dip["depth_se"]) else spread
    return dip["depth"] < -max(0.05 * abs(llc), 4 * error)


def step_size_bias(grad_dot: Array, step_size: float) -> float:
    """What the finite step and minibatch gradients add to λ̂: (ε/8)·E⟨nβ∇L_B, ∇U_B⟩.

    For a quadratic L with full batches this is the exact excess of SGLD's λ̂ over that of ε → 0: there
    E⟨nβ∇L, ∇U⟩ = Σ nβh_i/(1 − εa_i/4) and λ̂ = ½ Σ nβh_i/(a_i(1 − εa_i/4)), with a_i = nβh_i + γ. With minibatches it
    also holds the heat (ε/8)·n²β²·E‖∇L_B − ∇L_n‖² of gradient noise: exact if nβh_i ≫ γ, else an upper bound.

    Args:
        grad_dot: ⟨nβ∇L_B, ∇U_B⟩ with ∇U_B = nβ∇L_B + γ(w − w*); NaN where it was not measured.
        step_size: ε.
    """
    values = grad_dot[np.isfinite(grad_dot)]
    return step_size / 8 * float(values.mean()) if values.size else math.nan


def reweighted(excess: Array, sq_distance: Array, localization: float) -> dict[str, float]:
    """Change of λ̂ when γ is halved and doubled, from the same draws with weights exp(−(γ′ − γ)/2 ‖w − w*‖²).

    In a large model a single draw has nearly all the weight. If the effective number of draws is below a tenth of
    them, or below 20, the answer is NaN.

    Args:
        excess: nβ(L_B(w_t) − L_B(w*)) after burn-in, `[chain, step]`.
        sq_distance: ‖w − w*‖², NaN where it was not measured, `[chain, step]`.
        localization: γ.

    Returns:
        `halved`, `halved_se`, `doubled`, `doubled_se`; the errors by the jackknife over chains, or over blocks of one.
    """
    is_measured = np.isfinite(excess) & np.isfinite(sq_distance)
    groups = [(x[keep], r[keep]) for x, r, keep in zip(excess, sq_distance, is_measured, strict=True) if keep.any()]
    if len(groups) == 1:
        groups = list(zip(*(np.array_split(values, 10) for values in groups[0]), strict=True))
    changes: dict[str, float] = {}
    for name, factor in (("halved", 0.5), ("doubled", 2.0)):
        difference = (factor - 1) * localization
        change = _reweighted_change([*groups], difference) if groups else math.nan
        without = [_reweighted_change(groups[:i] + groups[i + 1 :], difference) for i in range(len(groups))]
        error = math.sqrt((len(groups) - 1) * float(np.var(without))) if len(groups) > 1 else math.nan
        changes |= {name: change, f"{name}_se": error}
    return changes


def _reweighted_change(groups: list[tuple[Array, Array]], difference: float) -> float:
    """Weighted mean minus plain mean at γ + difference; NaN if too few draws carry the weight."""
    x, r = (np.concatenate(column) for column in zip(*groups, strict=True))
    if len(x) < 20:
        return math.nan
    exponent = -difference / 2 * r
    weights = np.exp(exponent - exponent.max())
    if weights.sum() ** 2 / np.square(weights).sum() < max(20, len(x) / 10):
        return math.nan
    return float((weights * x).sum() / weights.sum() - x.mean())


def mean_of(values: Array) -> float:
    """Mean of the finite values; NaN if there is none."""
    measured: Array = values[np.isfinite(values)]
    return float(measured.mean()) if measured.size else math.nan


def step_share(measured: Array, step_size: float) -> float:
    """Mean ε of chains that lowered it over the ε they began with; 1 if none did.

    Args:
        measured: ε, NaN where it was not measured, `[chain, step]`.
        step_size: ε they began with.
    """
    share = mean_of(measured) / step_size
    return share if math.isfinite(share) else 1.0
