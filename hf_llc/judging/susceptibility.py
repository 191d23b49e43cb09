"""Susceptibilities of components to tokens, from losses along two kinds of chains (arXiv 2504.18274). Arrays only.

With φ = L − L(w*) along the chains of a component C (the rest of the weights at w*), and Δ = ℓ_xy − L of a token in its
context, along those chains and along the full model's F,

    χ = −Cov_C(φ, Δ) − E_C[φ]·(E_C[Δ] − E_F[Δ]) = −E_C[φ·(Δ − E_F Δ)].

Negative: where C's loss is high, this token's is higher still: C lowers the loss of such tokens. Up to a factor a
component, it is how E[φ] of C would answer if there were more of this token in the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hf_llc.judging.covariances import expected_agreement, fewest_draws, mean_errors

Array = np.ndarray


@dataclass(frozen=True)
class Susceptibility:
    """Of one component to m tokens; arrays `[m]`, in nats².

    Attributes:
        chi: χ.
        chi_se: its standard error.
        covariance: the part −Cov_C(φ, Δ).
        shift: the part −E_C[φ]·(E_C[Δ] − E_F[Δ]).
        agreement: correlation over tokens of the χ of two halves of C's chains; NaN for fewer than three tokens.
    """

    chi: Array
    chi_se: Array
    covariance: Array
    shift: Array
    agreement: float

    @property
    def z(self) -> Array:
        """χ less its mean over tokens, over its standard deviation over tokens: what compares between components."""
        spread = float(self.chi.std())
        return (self.chi - self.chi.mean()) / (spread if spread > 0 else math.nan)

    @property
    def agreement_expected(self) -> float:
        """What the errors say that the agreement should be."""
        return expected_agreement(self.chi, self.chi_se, np.isfinite(self.chi))

    @property
    def reliability(self) -> float:
        """Of the pattern over tokens, 2r/(1 + r) from the agreement r of halves; 0 if they do not agree."""
        return 2 * self.agreement / (1 + self.agreement) if self.agreement > 0 else 0.0


def susceptibility(phi: Array, component: Array, full: Array) -> Susceptibility:
    """χ of one component.

    Args:
        phi: φ along the component's chains, `[chain, draw]`.
        component: Δ along them, `[chain, draw, m]`; any constant may be taken off each token's.
        full: Δ along the full model's chains, the same constants taken off.

    The error is se² = MCSE_C[φ(Δ − E_F Δ)]² + (E_C φ)² MCSE_F[Δ]²: never those of two large means that cancel. NaN
    where there are too few draws for errors (`fewest_draws`).
    """
    if min(component.shape[1], full.shape[1]) < fewest_draws(len(phi)):
        unknown = np.full(full.shape[2], math.nan)
        return Susceptibility(unknown, unknown, unknown, unknown, math.nan)
    level = full.mean(axis=(0, 1))
    product = phi[..., None] * (component - level)
    chi, mean = -product.mean(axis=(0, 1)), float(phi.mean())
    shift = -mean * (component.mean(axis=(0, 1)) - level)
    error = np.hypot(mean_errors(product), mean * mean_errors(full))
    return Susceptibility(chi, error, chi - shift, shift, _agreement(phi, component, full))


def _agreement(phi: Array, component: Array, full: Array) -> float:
    """Correlation of the χ of two halves: of the chains of both kinds, or of the draws of a single one."""
    half = phi.shape[1] // 2
    parts = [np.s_[::2], np.s_[1::2]] if len(phi) > 1 else [np.s_[:, :half], np.s_[:, half:]]
    one, two = ((phi[part][..., None] * (component[part] - full[part].mean((0, 1)))).mean((0, 1)) for part in parts)
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return math.nan
    return float(np.corrcoef(one, two)[0, 1])
