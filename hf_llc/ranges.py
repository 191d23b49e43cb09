"""How much work, or how many seconds, from the least to the most, and in words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from hf_llc.numerals import duration, span

SAID = 60.0
"""Seconds below which work needs no forecast."""


class Range(NamedTuple):
    """The least, a guess and the most of some work, or of the seconds that it takes."""

    least: float
    guess: float
    most: float

    def times(self, factor: float) -> Range:
        """Each of them times a factor."""
        return Range(*(factor * value for value in self))


def total(ranges: Iterable[Range]) -> Range:
    """The sum of ranges."""
    return Range(*(sum(column) for column in zip(*ranges, strict=True)))


def said(seconds: Range) -> str:
    """A range of seconds in words: "about 4 min (2–13 min)"; "" if it is not known."""
    if not math.isfinite(seconds.most):
        return ""
    about = f"about {duration(seconds.guess)}"
    between = span(seconds.least, seconds.most)
    return about if between.startswith("about") else f"{about} ({between})"
