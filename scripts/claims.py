"""Sentences that several experiments share: which verdicts their rows have, and whether λ̂ is a tiny part of d."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from experiment import Row
from scipy import stats

from hf_llc.records.findings import is_trusted

TINY = 0.01
"""A tiny part: under a hundredth. A model without any degeneracy has a half."""


def verdicts(rows: Sequence[Row]) -> str:
    """How many rows have each verdict, and how many are trustworthy."""
    known = [row["verdict"] for row in rows if row.get("verdict") is not None]
    counts = Counter("trustworthy" if is_trusted(verdict) else verdict for verdict in known)
    good = counts.pop("trustworthy", 0)
    bad = ", ".join(f"{count} “{verdict}”" for verdict, count in counts.most_common())
    return f"{good} of {len(rows)} trustworthy" + (f", {bad}" if bad else "")


def tiny_part(llc: Sequence[float], parameters: int, what: str) -> str:
    """Is λ̂ a tiny part of the number of parameters? By a one-sided t test of its mean over networks.

    Args:
        llc: λ̂ of each network.
        parameters: d.
        what: the networks, in words.
    """
    shares = np.array(llc, dtype=float) / parameters
    found = f"{shares.mean():.2%} of {parameters:,}, at most {shares.max():.2%}, n = {len(shares)}"
    start = f"λ̂ of {what} is a tiny part of the number of parameters, below {TINY:.0%}"
    if len(shares) < 2 or not np.isfinite(shares).all() or shares.std() == 0:
        return f"Cannot tell: {start} ({found})."
    test: Any = stats.ttest_1samp(shares, TINY)
    p = float(test.pvalue) / 2 if test.statistic < 0 else 1 - float(test.pvalue) / 2
    word = "Seen" if p < 0.05 else "Not seen" if p > 0.95 else "Cannot tell"
    return f"{word}: {start} ({found}, one-sided t = {test.statistic:.3g}, p = {p:.2g})."
