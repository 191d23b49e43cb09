"""Is what the finite step and gradient noise add to λ̂ too much?"""

from __future__ import annotations

from hf_llc.records.findings import Measurements


def is_step_too_large(measured: Measurements) -> bool:
    """The finite step and gradient noise add more than a tenth of a positive λ̂, and more than its standard error."""
    if does_heat_dominate(measured):
        return True
    return measured.llc > 0 and measured.step_size_bias > max(0.1 * measured.llc, measured.llc_se)


def does_heat_dominate(measured: Measurements) -> bool:
    """The heat that was taken off is more than what is left: a correction of first order says no more there."""
    raw = measured.llc_uncorrected
    return raw > 0 and raw - measured.llc > max(measured.llc, 0.0)


def smaller_step(measured: Measurements) -> float:
    """The factor on ε at which that addition would be a twentieth of λ̂; between 1/8 and 1/2."""
    return min(0.5, max(0.125, 0.05 * abs(measured.llc) / measured.step_size_bias))
