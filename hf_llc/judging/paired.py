"""Differences of two λ̂, and their standard errors where chains share their noise. Arrays only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hf_llc.judging import statistics

Array = np.ndarray


@dataclass(frozen=True)
class Measured:
    """One λ̂ as a difference needs it.

    Attributes:
        llc: λ̂.
        llc_se: its standard error.
        draws: `[chain, draw]`, of which λ̂ is the mean less the heat; None if they were not kept.
        noise: what noise and minibatches are a function of; chains with equal `noise` share them, step by step.
    """

    llc: float
    llc_se: float
    draws: Array | None
    noise: tuple[object, ...]


def difference(one: Measured, other: Measured) -> tuple[float, float, bool]:
    """λ̂ of `other` minus λ̂ of `one`, its standard error, and whether the error is a paired one.

    Chains with the same noise move alike. The error is then that of the mean of the differences, draw by draw, which
    holds the covariance of the two (docs/mathematics.md). What the errors of the two λ̂ hold beside their Monte Carlo
    errors (heat, spreading) is added in quadrature, as if the two had nothing to do with each other.
    """
    change = other.llc - one.llc
    if one.draws is None or other.draws is None or one.noise != other.noise or one.draws.shape != other.draws.shape:
        return change, math.hypot(one.llc_se, other.llc_se), False
    paired = statistics.standard_error(other.draws - one.draws)
    if not math.isfinite(paired):
        equal = bool(np.array_equal(one.draws, other.draws)) and math.isfinite(one.llc)
        return change, 0.0 if equal else math.nan, True
    return change, math.hypot(paired, _beside(one), _beside(other)), True


def _beside(measured: Measured) -> float:
    """What the error of λ̂ holds beside its Monte Carlo error."""
    assert measured.draws is not None
    return math.sqrt(max(measured.llc_se**2 - statistics.standard_error(measured.draws) ** 2, 0.0))
