"""Step size, friction, gradient and localization of underdamped sampling, found by a pilot chain.

Step size: h = √ε is half of 1/√κ, κ the largest curvature of the energy seen along the pilot; BAOAB is stable below
2/√κ. Friction: a gradient with noise of power Q = E‖nβ(∇L_B − ∇L_n)‖² heats the soft directions, and so λ̂, by at most

    (ε/8)·coth(ζh/2)·Q = ε_eff Q/8,    ε_eff = ε·coth(ζh/2),

where ε_eff is also the ε of the overdamped dynamics that slow directions see: a direction of curvature a relaxes in
2/(ε_eff a) steps. (A kick η displaces w by (h²/2)·coth(ζh/2)·η in the end, a thermal kick by h/(1 − e^{−ζh}) each: the
ratio of the two diffusions is the relative heat (ε/4)·coth(ζh/2)·Var η.) So the friction is the least that keeps this
below its share of λ̂, whatever the batch size; where γ is open, only the part of the noise counts that the loss, not γ,
holds (`noise_spectrum`): ε_eff decides how strong γ must be. A control variate doubles the cost of a step and is taken
where it more than halves Q. Localization: the least whose flat directions relax in a twentieth of the steps allowed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_llc.calibration.noise_spectrum import NUM_GRADIENTS, Spectrum, heating_share, noise_spectrum
from hf_llc.config import SampleConfig
from hf_llc.judging.statistics import HEAT_ERROR
from hf_llc.posterior.curvature import STABLE, Curvature
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.samplers import BAOAB
from hf_llc.samplers.effective_step import effective_step_size, relaxing_localization
from hf_llc.samplers.walk import Walk

PILOT = -2
"""The pilot's chain number: its noise and batches are nobody else's, so it never touches the estimate's draws."""

_BLOCK = 50
"""Steps between two looks at the curvature and the gradient noise."""

_BLOCKS = (4, 20)
_PILOT_SHARE = 10
"""The pilot takes a tenth of the steps allowed to a chain, within these numbers of blocks."""

_HEAT_SHARE = 3
"""Gradient noise may add as much to λ̂ as makes that uncertainty a third of the standard error asked for."""

_FRICTION = (0.05, 3.0)
"""Below: momentum that lasts longer than a few oscillations of slow directions gains nothing. Above: overdamped."""

_NOISY = 0.25
"""Friction from which on it pays to find out which part of the noise heats λ̂."""

_LEAST_SHARE = 0.1
"""A smaller part is not told from none."""


def gradient_noise(
    posterior: Posterior, w: Tensor, first: Tensor, second: Tensor, *, anchor: Tensor, nbeta: float
) -> tuple[float, float]:
    """Q = E‖nβ(∇L_B(w) − ∇L_n(w))‖² from two batches, plain and with the control variate.

    Half the squared difference of two independent unbiased gradients estimates the variance of either.

    Args:
        posterior: gradients.
        w: where, `[1, parameter]`.
        first: a batch, int64 `[1, m]`.
        second: another.
        anchor: w*, `[1, parameter]`.
        nbeta: nβ.

    Returns:
        Q of plain gradients and of ∇L_B(w) − ∇L_B(w*) + ∇L_n(w*).
    """
    there = _difference(posterior, w, first, second)
    plain = _square(posterior, there)
    here = _difference(posterior, anchor, first, second)
    controlled = _square(posterior, [a.sub_(b) for a, b in zip(there, here, strict=True)])
    return nbeta**2 * plain / 2, nbeta**2 * controlled / 2


def _difference(posterior: Posterior, w: Tensor, first: Tensor, second: Tensor) -> list[Tensor]:
    one = posterior.gradient(w, first)[1]
    return [a.sub_(b) for a, b in zip(one, posterior.gradient(w, second)[1], strict=True)]


def _square(posterior: Posterior, parts: list[Tensor]) -> float:
    total = torch.zeros((), dtype=torch.float64, device=posterior.device)
    for part in parts:
        total = total + part.square().sum(dtype=torch.float64)
    return float(posterior.over_shards(total))


def settle(step_size: float, ceiling: float, friction: float | None = None) -> tuple[float, float]:
    """(ε, friction): the least friction with ε_eff at most `ceiling`, at this ε or, where none will do, a smaller one.

    Args:
        step_size: the largest ε that is stable.
        ceiling: of ε_eff.
        friction: keep this one and lower ε alone.
    """
    low, high = _FRICTION if friction is None else (friction, friction)
    if ceiling >= effective_step_size(step_size, low):
        return step_size, low
    if ceiling <= effective_step_size(step_size, high):
        return ceiling * math.tanh(high / 2), high
    ratio = ceiling / step_size
    return step_size, math.log((ratio + 1) / (ratio - 1))


def initial_law(sample: SampleConfig) -> Law:
    """nβ and γ of a pilot's first steps; where γ is "auto", a weak one."""
    assert sample.nbeta is not None
    return Law(nbeta=sample.nbeta, localization=1.0 if sample.localization == "auto" else sample.localization)


class Pilot:
    """One underdamped chain from w* whose step size and friction, and γ if it is "auto", follow what it finds.

    Args:
        posterior: around w*.
        sample: batch size, seed and max_steps; a friction or gradient that is given stays.

    Attributes:
        step_size, friction, gradient, law: what was found, after `run`.
        path: one row a block of steps.
        num_gradients: gradient evaluations spent, in batches of the batch size.
    """

    def __init__(self, posterior: Posterior, sample: SampleConfig) -> None:
        assert isinstance(sample.batch_size, int)
        self.posterior, self.sample, self.batch_size = posterior, sample, sample.batch_size
        self.gradient = "plain" if sample.gradient == "auto" else sample.gradient
        self.law = initial_law(sample)
        self.walk = self._walk(None)
        self.curvature = Curvature(posterior, nbeta=self.law.nbeta)
        self.step_size, self.friction = 1.0, 1.0
        self.path: list[dict[str, Any]] = []
        self.spectrum: Spectrum | None = None
        self.spent = 0

    def _walk(self, w: Tensor | None) -> Walk:
        sampled = {"seed": self.sample.seed, "batch_size": self.batch_size, "gradient": self.gradient}
        return Walk(self.posterior, self.law, [PILOT], w=w, **sampled)

    @property
    def energy_curvature(self) -> float:
        """κ, the largest curvature of nβL + (γ/2)‖w − w*‖² seen so far."""
        return self.curvature.loss + self.law.localization

    @property
    def num_gradients(self) -> int:
        """Gradient evaluations so far."""
        return self.spent + self.curvature.num_gradients

    def run(self) -> None:
        """All blocks."""
        self.curvature.refresh(self.walk.w, self.walk.batches.indices(0), iterations=20)
        self._settle([self._look(0)], math.nan)
        kernel = BAOAB(self.step_size, friction=self.friction)
        blocks = min(max(self.sample.max_steps // _PILOT_SHARE // _BLOCK, _BLOCKS[0]), _BLOCKS[1])
        looks: list[tuple[float, float]] = []
        for block in range(blocks):
            kernel.step_size, kernel.friction = self.step_size, self.friction
            excess = self._block(kernel, block * _BLOCK)
            if not math.isfinite(excess):  # thrown out of the basin: begin again with a fourth of ε
                self.walk.w.copy_(self.posterior.start(1))
                kernel.state.clear()
                self.curvature.loss = 4 * self.energy_curvature
            self.curvature.refresh(self.walk.w, self.walk.batches.indices((block + 1) * _BLOCK), iterations=3)
            looks.append(self._look((block + 1) * _BLOCK))
            if self._pays(is_last=block + 1 == blocks):
                self.spectrum = self._spectrum()
            self.path.append({
                "steps": (block + 1) * _BLOCK, "step_size": self.step_size, "friction": self.friction,
                "gradient": self.gradient, "localization": self.law.localization,
                "curvature": self.energy_curvature, "llc": excess, "noise": looks[-1][0],
                "controlled_noise": looks[-1][1],
            })  # fmt: skip
            self._settle(looks[len(looks) // 2 :], self.llc)

    @property
    def llc(self) -> float:
        """Mean of nβ(L_B(w_t) − L_B(w*)) over the later half of the blocks: not yet λ̂, but of its order."""
        later = [row["llc"] for row in self.path[len(self.path) // 2 :] if math.isfinite(row["llc"])]
        return sum(later) / len(later) if later else math.nan

    def _settle(self, looks: list[tuple[float, float]], llc: float) -> None:
        """Gradient, friction and step size from what is known."""
        share = self.sample.target_se / HEAT_ERROR / _HEAT_SHARE * (max(llc, 1.0) if math.isfinite(llc) else 1.0)
        plain, controlled = (sum(column) / len(looks) for column in zip(*looks, strict=True))
        step_size = STABLE / self.energy_curvature
        if self.sample.gradient == "auto" and self.path:  # at w* itself the control variate is always perfect
            is_free = effective_step_size(step_size, _FRICTION[0]) * plain <= 8 * share
            kind = "plain" if is_free or 2 * controlled >= plain else "control-variate"
            if kind != self.gradient:
                self.gradient = kind
                if kind == "control-variate" and "mean" not in vars(self.posterior.init_gradients):
                    self.spent += -(-self.posterior.num_examples // self.batch_size)
        noise = plain if self.gradient == "plain" else controlled
        friction = None if self.sample.friction == "auto" else self.sample.friction
        ceiling = self._ceiling(step_size, 8 * share / noise) if noise > 0 else math.inf
        self.step_size, self.friction = settle(step_size, ceiling, friction)
        if self.sample.localization == "auto":
            slow = effective_step_size(self.step_size, self.friction)
            self.law = replace(self.law, localization=relaxing_localization(slow, self.sample))
        self.walk = self._walk(self.walk.w)

    def _ceiling(self, step_size: float, allowed: float) -> float:
        """The largest ε_eff with ε_eff·ω at most `allowed`: γ falls with ε_eff, and ω grows."""
        if self.spectrum is None:
            return allowed
        low, high = allowed, max(allowed, effective_step_size(step_size, _FRICTION[0]))
        for _ in range(40):
            middle = math.sqrt(low * high)
            share = max(heating_share(self.spectrum, relaxing_localization(middle, self.sample)), _LEAST_SHARE)
            low, high = (middle, high) if middle * share <= allowed else (low, middle)
        return low

    def _pays(self, *, is_last: bool) -> bool:
        """Whether to find the spectrum now: where noise asks for friction, and friction for a stronger γ."""
        if not self.path or self.posterior.step_in_backward:  # the friction of the first block is a guess; no memory
            return False
        is_noisy = self.sample.localization == "auto" and self.friction >= _NOISY
        return is_noisy and (self.spectrum is None or is_last)

    def _spectrum(self) -> Spectrum:
        """Where in the spectrum of the loss the noise of the pilot's gradients lies."""
        self.spent += NUM_GRADIENTS
        return noise_spectrum(
            self.posterior,
            self.law,
            self.walk.w,
            seed=self.sample.seed,
            batch_size=self.batch_size,
            gradient=self.gradient,
        )

    def _block(self, kernel: BAOAB, start: int) -> float:
        """Fifty steps; the mean of nβ(L_B(w_t) − L_B(w*)), NaN where the chain broke."""
        excess = []
        for step in range(start, start + _BLOCK):
            indices = self.walk.batches.indices(step)
            loss = kernel.step(self.walk, indices, step=step, measure=False).loss
            excess.append(loss - self.posterior.paired_loss(indices, 1))
        total = sum(torch.cat(excess).tolist())  # a device is waited for once
        self.spent += _BLOCK * self.posterior.init_gradients.per_gradient(self.gradient)
        return self.law.nbeta * total / _BLOCK

    def _look(self, step: int) -> tuple[float, float]:
        """Power of the gradient noise where the pilot is, plain and with the control variate."""
        first, second = self.walk.batches.indices(step), self.walk.batches.indices(step + 1)
        if first is None or second is None:
            return 0.0, 0.0
        self.spent += 4
        anchor = self.posterior.start(1)
        return gradient_noise(self.posterior, self.walk.w, first, second, anchor=anchor, nbeta=self.law.nbeta)
