"""An estimate in words, for those who watch: while chains run, and when they are judged."""

from __future__ import annotations

import math

import numpy as np

from hf_llc.judging import statistics
from hf_llc.judging.heat import SIGNIFICANT_HEAT
from hf_llc.numerals import number, short, with_error
from hf_llc.records.findings import Estimate

Array = np.ndarray


def describe(draws: Array, heat: float) -> str:
    """λ̂ with its error, and r̂, as far as the draws can tell them.

    A heat that is significant is not taken off: how much of it reaches λ̂ is measured when the chains have ended.

    Args:
        draws: nβ·(loss − reference), `[chain, step]`.
        heat: what gradient noise adds to them, at most; NaN: not measured.
    """
    llc = float(draws.mean())
    is_much = heat > SIGNIFICANT_HEAT * abs(llc)
    llc -= heat if math.isfinite(heat) and not is_much else 0.0
    if not math.isfinite(llc):
        return "a chain diverged"
    llc_se, r_hat = statistics.standard_error(draws), statistics.r_hat(draws)
    said = f"λ̂ {with_error(llc, llc_se) if math.isfinite(llc_se) else number(llc)}"
    said += f" less up to {short(heat)} of heat" if is_much else ""
    return said + (f", r̂ {r_hat:.2f}" if math.isfinite(r_hat) else "")


def judged(estimate: Estimate) -> str:
    """What chains that have ended say."""
    r_hat = f", r̂ {estimate.r_hat:.2f}" if math.isfinite(estimate.r_hat) else ""
    return f"λ̂ {with_error(estimate.llc, estimate.llc_se)}{r_hat}: {estimate.verdict}"
