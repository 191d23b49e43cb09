"""A running estimate in words, for those who watch the chains."""

from __future__ import annotations

import math

import numpy as np

from hf_llc.judging import statistics
from hf_llc.numerals import number, with_error

Array = np.ndarray


def describe(draws: Array, heat: float) -> str:
    """λ̂ with its error, and r̂, as far as the draws can tell them.

    Args:
        draws: nβ·(loss − reference), `[chain, step]`.
        heat: what gradient noise adds to them, at most; NaN: not measured.
    """
    llc = float(draws.mean()) - (heat if math.isfinite(heat) else 0.0)
    if not math.isfinite(llc):
        return "a chain diverged"
    llc_se, r_hat = statistics.standard_error(draws), statistics.r_hat(draws)
    said = f"λ̂ {with_error(llc, llc_se) if math.isfinite(llc_se) else number(llc)}"
    return said + (f", r̂ {r_hat:.2f}" if math.isfinite(r_hat) else "")
