"""How numbers are written for people: with an exponent of e below 0.0001 alone, and then as 2.5e-6; below zero as −350.

The minus is the sign U+2212, in every text that people read. Files for programs (JSON, CSV, parquet) and commands have
Python's own numbers.
"""

from __future__ import annotations

import math

_MOST = 1e15
"""From here on numbers are written with a power of ten: a float has no more whole digits to show."""


def number(value: float | None) -> str:
    """Four significant digits, with commas in large whole numbers; a dash for None and NaN (not measured)."""
    if value is None or math.isnan(value):
        return "–"
    if not math.isfinite(value):
        return minus(str(value))
    if abs(value) >= _MOST:
        exponent = math.floor(math.log10(abs(value)))
        return minus(f"{value / 10.0**exponent:.4g}·10^{exponent}")
    if float(value).is_integer() or abs(value) >= 9999.5:
        return minus(f"{value + 0.0:,.0f}")  # + 0.0: no minus before a zero
    return minus(f"{value:.4g}".replace("e-0", "e-"))


def minus(text: str) -> str:
    """The text of a number with a minus sign in place of Python's hyphen; an exponent of e keeps its own."""
    return f"−{text[1:]}" if text.startswith("-") else text


def typed(value: float) -> str:
    """A number as a setting takes it: six decimals at most, no commas, no power of ten."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def short(value: float | None) -> str:
    """Two significant digits; a dash for None and NaN."""
    return number(None if value is None else float(f"{value:.2g}"))


def signed(value: float) -> str:
    """Two significant digits and the sign."""
    return f"{'' if value < 0 or math.isnan(value) else '+'}{short(value)}"


def with_error(value: float, error: float) -> str:
    """Value ± error: two significant digits of the error, the value to the same decimal place.

    An error of less than 1 in 50,000 of the value stands beside it with its own power of ten.
    """
    if not math.isfinite(value):
        return "not a number"
    if not math.isfinite(error):
        return f"{number(value)} (standard error unknown)"
    if error <= 0:
        return f"{number(value)} ± 0"
    if error < 2e-5 * abs(value):
        return f"{number(value)} ± {short(error)}"
    decimals = 1 - math.floor(math.log10(float(f"{error:.1e}")))
    if max(abs(value), error) >= 1e7 or decimals > 6:
        exponent = math.floor(math.log10(max(abs(value), error)))
        return f"({with_error(value / 10**exponent, error / 10**exponent)})·10^{exponent}"
    return f"{_rounded(value, decimals)} ± {_rounded(error, decimals)}"


def _rounded(value: float, decimals: int) -> str:
    return minus(f"{round(value, decimals) + 0.0:.{max(decimals, 0)}f}")


def span(least: float, most: float) -> str:
    """A stretch of time in words: "about 40 s", "3–12 min", "50 s–2.5 min"; "" if it is not known."""
    if not math.isfinite(most):
        return ""
    low, high = duration(least), duration(most)
    if most <= 1.3 * least or low == high:
        return f"about {high}"
    return f"{low.split()[0] if low.split()[1] == high.split()[1] else low}–{high}"


def duration(seconds: float) -> str:
    """Seconds as "40 s", "2.5 min", "12 min" or "3 h"."""
    unit, size = next(((u, s) for u, s in (("h", 3600), ("min", 60)) if seconds >= 1.5 * s), ("s", 1))
    value = seconds / size
    return f"{value:.1f} {unit}" if size > 1 and value < 3 else f"{value:,.0f} {unit}"
