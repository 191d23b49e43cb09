"""λ of the quadratic form at w*, for every γ/nβ at once, from quadratures of the Hessian's spectrum. Arrays only.

With eigenvalues h of ∇²L_n(w*) and c = γ/nβ,

    λ_Q = ½ Σ h/(h + c)    and    −dλ_Q/d ln γ = ½ Σ hc/(h + c)².

λ_Q is half the effective dimension at the curvature c, and the second sum counts directions about there. Directions of
negative curvature are left out of λ_Q. They take off λ̂: where γ still holds them, h > −c, the quadratic form has a law,
and the sum over all h is its λ̂. A direction beyond −c/2 is counted as one at −c/2; below −c the form has no law.

Where w* has a slope g, λ̂ of the same quadratic form, from w*, is less than λ_Q by

    nβ Σ (½h + c)/(h + c)² (gᵀe_h)²,

for its mean lies at −(H + c)⁻¹g. At strong γ all go as 1/γ: no γ makes up for a slope, or for negative curvature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

_ROUNDING = 1e-5
"""Curvature beside the largest that is taken for none."""


@dataclass(frozen=True)
class Quadratic:
    """The spectrum of a Hessian, as random vectors see it.

    Attributes:
        num_parameters: d.
        num_examples: that each product saw.
        probes: of each vector the `nodes` and their `weights`, which sum to 1 (`posterior.hessian.probe_spectrum`).
        slope: the same of the gradient at w*, and its `square` (`posterior.hessian.slope_spectrum`); None: not known.
        halves: some of the vectors again, and what they see over half of the same examples.
    """

    num_parameters: int
    num_examples: int
    probes: Sequence[Mapping[str, Sequence[float]]]
    slope: Mapping[str, Sequence[float]] | None = None
    halves: Sequence[tuple[Mapping[str, Sequence[float]], Mapping[str, Sequence[float]]]] = ()

    @property
    def top(self) -> float:
        """The largest eigenvalue, of L_n; NaN without probes."""
        return max((max(probe["nodes"]) for probe in self.probes), default=math.nan)

    @property
    def negative_share(self) -> float:
        """Σ|h| over negative h, as a share of Σ|h|: how far w* is from a minimum, or a saddle's share."""
        total = self._trace(lambda h: np.abs(h))[0]
        return self._trace(lambda h: np.where(self._is_negative(h), -h, 0.0))[0] / total if total > 0 else 0.0

    def llc(self, scale: float) -> tuple[float, float]:
        """λ_Q at c = `scale`, and its error, of vectors and of the choice of examples; NaN for one vector."""
        value, error = self._trace(_held(scale))
        changes = [self._seen(half, _held(scale)) - self._seen(whole, _held(scale)) for whole, half in self.halves]
        return value, math.hypot(error, _of_choice(changes))

    def expected(self, scale: float) -> tuple[float, float]:
        """λ_Q at c = `scale` less what negative curvature takes off λ̂, and its standard error over the vectors."""

        def each(h: Array) -> Array:
            held = np.maximum(np.where((h > 0) | self._is_negative(h), h, 0.0), -scale / 2)
            return 0.5 * held / (held + scale)

        return self._trace(each)

    def fall(self, scale: float) -> float:
        """By how much λ̂ from w* is less than λ_Q at c = `scale`, over nβ: what the slope at w* does; NaN: not known."""
        if self.slope is None:
            return math.nan
        h = np.maximum(np.asarray(self.slope["nodes"]), -scale / 2)
        return self.slope["square"][0] * float(np.dot(self.slope["weights"], (h / 2 + scale) / (h + scale) ** 2))

    def exponent(self, scale: float) -> tuple[float, float]:
        """−d ln λ_Q/d ln γ at c = `scale` with its error, as that of λ_Q; NaN if λ_Q is zero."""

        def of(probes: Sequence[Mapping[str, Sequence[float]]]) -> float:
            value, slope = (sum(self._seen(probe, f) for probe in probes) for f in (_held(scale), _slope(scale)))
            return slope / value if value > 0 else math.nan

        probes, count = list(self.probes), len(self.probes)
        if count < 2:
            return of(probes), math.nan
        without = [of(probes[:k] + probes[k + 1 :]) for k in range(count)]
        error = math.sqrt((count - 1) * float(np.var(without)))
        return of(probes), math.hypot(error, _of_choice([of([half]) - of([whole]) for whole, half in self.halves]))

    def negative_directions(self, scale: float) -> float:
        """How many eigenvalues lie below −c: along these the quadratic form falls faster than γ holds."""
        return self._trace(lambda h: np.where(self._is_negative(h) & (h < -scale), 1.0, 0.0))[0]

    def _is_negative(self, h: Array) -> Array:
        return h < -_ROUNDING * max(self.top, 0.0)

    def _seen(self, probe: Mapping[str, Sequence[float]], f: Callable[[Array], Array]) -> float:
        """tr f(∇²L) as one vector sees it."""
        return self.num_parameters * float(np.dot(probe["weights"], f(np.asarray(probe["nodes"]))))

    def _trace(self, f: Callable[[Array], Array]) -> tuple[float, float]:
        """tr f(∇²L) and its standard error."""
        found = [self._seen(probe, f) for probe in self.probes]
        if len(found) < 2:
            return math.nan, math.nan
        return float(np.mean(found)), float(np.std(found, ddof=1)) / math.sqrt(len(found))


def _held(scale: float) -> Callable[[Array], Array]:
    """h → what a direction of curvature h gives λ_Q at c = `scale`."""
    return lambda h: np.where(h > 0, 0.5 * h / (np.abs(h) + scale), 0.0)


def _slope(scale: float) -> Callable[[Array], Array]:
    """h → what it gives −dλ_Q/d ln γ."""
    return lambda h: np.where(h > 0, 0.5 * h * scale / (np.abs(h) + scale) ** 2, 0.0)


def _of_choice(changes: Sequence[float]) -> float:
    """The error of the choice of examples, from what half of them change for each of some vectors; 0: none is known.

    The noise of a choice of m examples widens the spectrum by about 1/√m, so all have 1/(√2 − 1) of that change. How
    unsure the mean change is counts too: with three vectors it may be near zero by chance.
    """
    known = [change for change in changes if math.isfinite(change)]
    if len(known) < 2:
        return 0.0
    return math.hypot(np.mean(known), np.std(known, ddof=1) / math.sqrt(len(known))) / (math.sqrt(2) - 1)
