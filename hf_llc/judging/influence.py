"""Bayesian influence functions and loss kernels from losses along chains (arXiv 2509.26544, 2509.26537). Arrays only.

BIF_ij = −(nβ/n)·Cov(ℓ_i, ℓ_j) is the change of E[ℓ_j], in nats, when the weight of example i in the data grows by one.
Negative: more of i lowers the loss of j. Leaving i out changes E[ℓ_j] by about −BIF_ij. The loss kernel is
Cov(ℓ_i, ℓ_j), in nats².
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hf_llc.errors import InputError
from hf_llc.judging.covariances import covariances, expected_agreement, fewest_draws
from hf_llc.numerals import short
from hf_llc.records.findings import is_trusted

Array = np.ndarray

UNIT = "nats of the query for one more unit of weight on the source; negative: the source helps"

_RELIABLE = 0.8
"""Reliability from which on a matrix is called signal."""

_SAME = 0.9999
"""ρ from which on two losses are one and the same, which says nothing of the draws."""


@dataclass(frozen=True)
class Influence:
    """Of m sources on q queries; matrices `[m, q]`.

    Attributes:
        bif: −(nβ/n)·Cov(ℓ_i, ℓ_j), nats; see `UNIT`.
        bif_se: its standard error.
        covariance: the loss kernel Cov(ℓ_i, ℓ_j), nats².
        correlation: ρ_ij; positive: the losses fall together.
        correlation_se: its standard error.
        agreement: correlation between the ρ of two halves of the draws.
        agreement_expected: what the errors of ρ say that it should be.
        reliability: of the whole, 2r/(1 + r) from the agreement r.
        num_draws: of each chain.
        verdict: "trustworthy", or what is amiss.
        remedy: what is missing; empty if nothing is.
    """

    bif: Array
    bif_se: Array
    covariance: Array
    correlation: Array
    correlation_se: Array
    agreement: float
    agreement_expected: float
    reliability: float
    num_draws: int
    verdict: str
    remedy: str

    @property
    def is_trustworthy(self) -> bool:
        """True if the matrix is signal."""
        return is_trusted(self.verdict)


def influence(
    sources: Array, queries: Array, *, nbeta: float, n: int, chains_verdict: str = "trustworthy"
) -> Influence:
    """Influence of sources on queries.

    Args:
        sources: ℓ_i along the chains after burn-in, `[chain, draw, m]`, nats; any constant may be taken off.
        queries: ℓ_j, `[chain, draw, q]`.
        nbeta: nβ of the chains.
        n: that of nβ: tokens where ℓ_i is summed over tokens.
        chains_verdict: on the chains themselves.

    Returns:
        The matrices; NaN where there are too few records for errors, as the verdict then says.

    Raises:
        InputError: a chain has ended.
    """
    for name, x in (("sources", sources), ("queries", queries)):
        if not np.isfinite(x).all():
            chain = int(np.flatnonzero(~np.isfinite(x).all(axis=(1, 2)))[0])
            raise InputError(f"losses of the {name} are not finite", value=f"chain {chain}", remedy="lower step_size")
    chains, draws = sources.shape[:2]
    if draws < fewest_draws(chains):
        return _without_errors(sources, queries, fewest_draws(chains))
    found = covariances(sources, queries)
    weight = nbeta / n
    agreement = _agreement(sources, queries, found.correlation)
    expected = expected_agreement(found.correlation, found.correlation_se, _told_apart(found.correlation))
    reliability = 2 * agreement / (1 + agreement) if agreement > 0 else 0.0
    verdict, remedy = _verdict(reliability, agreement, expected, chains_verdict)
    return Influence(
        bif=-weight * found.covariance,
        bif_se=weight * found.covariance_se,
        covariance=found.covariance,
        correlation=found.correlation,
        correlation_se=found.correlation_se,
        agreement=agreement,
        agreement_expected=expected,
        reliability=reliability,
        num_draws=draws,
        verdict=verdict,
        remedy=remedy,
    )


def _without_errors(sources: Array, queries: Array, fewest: int) -> Influence:
    """Of fewer records than tell an error: nothing is said of the examples."""
    draws, unknown = sources.shape[1], np.full((sources.shape[2], queries.shape[2]), math.nan)
    missing = f"{fewest} records or more of each chain after burn-in ({draws} now): lower observe_every, or run longer"
    return Influence(
        bif=unknown,
        bif_se=unknown,
        covariance=unknown,
        correlation=unknown,
        correlation_se=unknown,
        agreement=math.nan,
        agreement_expected=math.nan,
        reliability=0.0,
        num_draws=draws,
        verdict="too few draws",
        remedy=missing,
    )


def _told_apart(correlation: Array) -> Array:
    return np.isfinite(correlation) & (np.abs(correlation) < _SAME)


def _agreement(sources: Array, queries: Array, correlation: Array) -> float:
    """Correlation of the ρ of two halves: of the chains, or of the draws of a single one."""
    half = sources.shape[1] // 2
    parts = [np.s_[::2], np.s_[1::2]] if len(sources) > 1 else [np.s_[:, :half], np.s_[:, half:]]
    one, two = (_correlation(sources[part], queries[part]) for part in parts)
    keep = _told_apart(correlation) & np.isfinite(one) & np.isfinite(two)
    if keep.sum() < 3 or np.ptp(one[keep]) == 0 or np.ptp(two[keep]) == 0:
        return math.nan
    return float(np.corrcoef(one[keep], two[keep])[0, 1])


def _correlation(a: Array, b: Array) -> Array:
    flat = [x.reshape(-1, x.shape[2]).astype(np.float64) for x in (a, b)]
    centred = [x - x.mean(0) for x in flat]
    with np.errstate(divide="ignore", invalid="ignore"):
        one, two = (x / np.sqrt(np.square(x).sum(0)) for x in centred)
        return one.T @ two


def _verdict(reliability: float, agreement: float, expected: float, chains_verdict: str) -> tuple[str, str]:
    if not is_trusted(chains_verdict):
        return chains_verdict, "the chains are not to be trusted; see the report of λ̂"
    if not math.isfinite(agreement):
        return "too few examples", "three pairs or more whose losses vary"
    if reliability < _RELIABLE:
        times = _RELIABLE / (1 - _RELIABLE) * (1 - reliability) / max(reliability, 0.02)
        return "too few draws", f"about {short(max(times, 1.5))} times as many draws (num_draws, num_chains)"
    if agreement < expected - 0.2:
        return "halves disagree", "longer chains: two halves differ by more than their errors say"
    return "trustworthy", ""
