"""How numbers are written for people: a value with its error, to the digits that mean something."""

from __future__ import annotations

import math
import sys

WIDTH = 100
"""Columns at most."""


_ASCII = {
    "λ̂": "llc", "r̂": "r_hat", "±": "+-", "·": "*", "×": "x", "−": "-", "–": "-", "→": "->", "…": "...", "β": "beta",
    "γ": "gamma", "ε": "epsilon", "‖": "|", "²": "^2", "ŵ": "w_min", "√": "sqrt", "≤": "<=", "≥": ">=", "Δ": "d",
    "∇": "grad ", "λ": "lambda", "≈": "~", "∞": "inf",
}  # fmt: skip


def with_error(value: float, error: float) -> str:
    """Value ± error: two significant digits of the error, the value to the same decimal."""
    if not math.isfinite(value):
        return "not a number"
    if not math.isfinite(error):
        return f"{value:.4g} (standard error unknown)"
    if error <= 0:
        return f"{value:.6g} ± 0"
    decimals = 1 - math.floor(math.log10(float(f"{error:.1e}")))
    if max(abs(value), error) >= 1e7 or decimals > 6:
        exponent = math.floor(math.log10(max(abs(value), error)))
        return f"({with_error(value / 10**exponent, error / 10**exponent)})·10^{exponent}"
    return f"{_rounded(value, decimals)} ± {_rounded(error, decimals)}"


def for_encoding(text: str, encoding: str | None = None) -> str:
    """`text`, or its nearest ASCII where `encoding` (None: standard output's) is not a Unicode one."""
    name = encoding if encoding is not None else getattr(sys.stdout, "encoding", None)
    if (name or "ascii").lower().replace("_", "-").startswith("utf"):
        return text
    for symbol, plain in _ASCII.items():
        text = text.replace(symbol, plain)
    return text.encode("ascii", "replace").decode("ascii")


def number(value: float | None) -> str:
    """Four significant digits, with commas in large whole numbers; a dash for what was not measured."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if 1e4 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _rounded(value: float, decimals: int) -> str:
    return f"{round(value, decimals):.{max(decimals, 0)}f}"
