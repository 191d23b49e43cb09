"""Step size, friction, kind of gradient and localization of samplers with momentum, found by a pilot chain.

    step size      ε = 1/(4κ), κ the largest curvature of the energy that the pilot meets
    friction       the least that keeps the heat of gradient noise, (ε_eff/8)·ω·Q, below its share of λ̂
    gradient       a control variate if it more than halves Q
    localization   the least γ at which flat directions relax in a twentieth of a chain's steps

with Q = E‖nβ(∇L_B − ∇L_n)‖² the power of the gradient noise, ω the share of it that reaches λ̂ (`noise_spectrum`), and
ε_eff = ε·coth(friction/2) the effective step. Derived in docs/mathematics.md.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_llc.calibration.friction import FRICTION, largest_effective_step, limit_effective_step
from hf_llc.calibration.gradient_noise import gradient_noise
from hf_llc.calibration.noise_spectrum import Spectrum, gradients_of, noise_spectrum
from hf_llc.clock import TimeIsUp
from hf_llc.config import SampleConfig
from hf_llc.posterior.curvature import STABLE, Curvature
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.stage_files import Journal
from hf_llc.progress import watch
from hf_llc.samplers import BAOAB
from hf_llc.samplers.effective_step import effective_step_size, relaxing_localization
from hf_llc.samplers.walk import Walk

PILOT = -2
"""Chain number of the pilot. No chain of an estimate has it, so none shares the pilot's noise or minibatches."""

_BLOCK = 50
"""Steps of a block. Curvature and gradient noise are measured, and the settings chosen, after each."""

_BLOCKS = (4, 20)
"""Fewest and most blocks."""

_FEWEST = 10
"""Steps that a block has when the time is up, at least."""

_PILOT_SHARE = 10
"""Within `_BLOCKS`, the pilot takes a tenth of a chain's steps."""

_HEAT_ERROR, _HEAT_SHARE = 0.25, 3
"""A quarter of the heat, more than its uncertainty as a rule, may be a third of the standard error asked for."""

_NOISY = 0.25
"""Friction from which on the noise spectrum is worth its cost."""


def num_blocks(sample: SampleConfig) -> int:
    """Blocks that a pilot runs."""
    return min(max(sample.max_steps // _PILOT_SHARE // _BLOCK, _BLOCKS[0]), _BLOCKS[1])


def work_of_block(per_gradient: int) -> int:
    """Gradients of a block: its steps, the curvature and the noise."""
    return _BLOCK * per_gradient + 8


def initial_law(sample: SampleConfig) -> Law:
    """nβ and γ of a pilot's first steps; γ = 1, which is weak, if it is "auto"."""
    assert sample.nbeta is not None
    return Law(nbeta=sample.nbeta, localization=1.0 if sample.localization == "auto" else sample.localization)


class Pilot:
    """One BAOAB chain from w* that chooses its settings anew after each block of steps, from what it has measured.

    Args:
        posterior: losses and gradients around w*.
        sample: the settings asked for. The pilot chooses those that are "auto", and always the step size.
        journal: of its steps; None: nothing is kept.

    Attributes:
        step_size, friction, gradient, law: the chosen settings, after `run`.
        path: measurements and choices, a row for each block.
        begun: number of the row at which the last `run` began.
    """

    def __init__(self, posterior: Posterior, sample: SampleConfig, journal: Journal | None = None) -> None:
        assert isinstance(sample.batch_size, int)
        self.posterior, self.sample, self.batch_size = posterior, sample, sample.batch_size
        self.journal = journal or Journal(posterior.buffer)
        self.gradient = "plain" if sample.gradient == "auto" else sample.gradient
        self.law = initial_law(sample)
        self.begin_walk()
        self.curvature = Curvature(posterior, nbeta=self.law.nbeta, journal=self.journal)
        self.step_size, self.friction = 1.0, 1.0
        self.path: list[dict[str, Any]] = []
        self.begun = 0
        self.spectrum: Spectrum | None = None
        self.spent = 0
        self.least_friction, self.least_llc = FRICTION[0], 1.0

    def begin_walk(self, w: Tensor | None = None) -> None:
        """Go on from `w`, or from w*, by the present law and kind of gradient."""
        sampled = {"seed": self.sample.seed, "batch_size": self.batch_size, "gradient": self.gradient}
        self.walk = Walk(self.posterior, self.law, [PILOT], w=w, **sampled)
        self.journal.hold("walk", {"w": self.walk.w})

    def _kernel(self) -> BAOAB:
        """A kernel at the present settings, without momentum."""
        kernel = BAOAB(self.step_size, friction=self.friction)
        self.journal.hold("kernel", kernel.state)
        return kernel

    @property
    def energy_curvature(self) -> float:
        """κ, the largest curvature of nβL + (γ/2)‖w − w*‖² that the chain has met."""
        return self.curvature.loss + self.law.localization

    @property
    def num_gradients(self) -> int:
        """Gradient evaluations so far, in minibatches of the batch size."""
        return self.spent + self.curvature.num_gradients

    def run(self) -> None:
        """Run all blocks from w*, choosing the settings anew after each."""
        self.begun = len(self.path)
        self.curvature.refresh(self.walk.w, self.walk.batches.indices(0), iterations=20)
        self._choose_settings([self._measure_noise(0)], math.nan)
        kernel = self._kernel()
        blocks = num_blocks(self.sample)
        noise_powers: list[tuple[float, float]] = []
        for block in range(blocks):
            if block and self.is_time_up():
                break
            kernel.step_size, kernel.friction = self.step_size, self.friction
            excess, spread = self._run_block(kernel, block * _BLOCK)
            if not math.isfinite(excess):  # diverged: begin again at w* with a quarter of ε
                self.walk.w.copy_(self.posterior.start(1))
                kernel.state.clear()
                self.curvature.loss = 4 * self.energy_curvature
            self.curvature.refresh(self.walk.w, self.walk.batches.indices((block + 1) * _BLOCK), iterations=3)
            noise_powers.append(self._measure_noise((block + 1) * _BLOCK))
            if self._is_spectrum_due(is_last=block + 1 == blocks):
                self.spectrum = self._measure_spectrum()
            self._note((block + 1) * _BLOCK, excess, spread, noise_powers[-1])
            self._choose_settings(noise_powers[len(noise_powers) // 2 :], self.llc)

    def begin_again(self) -> None:
        """Go back to w*, and forget the curvature met elsewhere."""
        self.begin_walk()
        self.spent += self.curvature.num_gradients
        self.curvature = Curvature(self.posterior, nbeta=self.law.nbeta, journal=self.journal)

    def step_at(self, start: int) -> None:
        """Run two blocks at the present γ, the first to settle, add them to the path, and choose the settings."""
        noise = [self._measure_noise(start)]
        for block in range(2):
            self._choose_settings(noise, self.path[-1]["llc"] if block else math.nan)
            at = start + block * _BLOCK
            excess, spread = self._run_block(self._kernel(), at)
            if math.isfinite(excess):
                self.curvature.refresh(self.walk.w, self.walk.batches.indices(at + _BLOCK), iterations=3)
                noise.append(self._measure_noise(at + _BLOCK))
            self._note(at + _BLOCK, excess, spread, noise[-1])
            if not math.isfinite(excess):
                return
        self._choose_settings(noise[1:], excess)

    def _note(self, steps: int, excess: float, spread: float, noise: tuple[float, float]) -> None:
        """Add a row to the path."""
        self.path.append({
            "steps": steps, "step_size": self.step_size, "friction": self.friction, "gradient": self.gradient,
            "localization": self.law.localization, "curvature": self.energy_curvature, "llc": excess,
            "llc_spread": spread, "noise": noise[0], "controlled_noise": noise[1],
        })  # fmt: skip

    @property
    def llc(self) -> float:
        """Mean paired loss nβ(L_B(w_t) − L_B(w*)) over the later half of the blocks: of the order of λ̂."""
        rows = self.path[self.begun :]
        later = [row["llc"] for row in rows[len(rows) // 2 :] if math.isfinite(row["llc"])]
        return sum(later) / len(later) if later else math.nan

    def _choose_settings(self, noise_powers: list[tuple[float, float]], llc: float) -> None:
        """Choose gradient, friction, step size and γ.

        Args:
            noise_powers: Q of plain gradients and with the control variate, a pair for each block.
            llc: a first λ̂; NaN if there is none.
        """
        llc = max(llc, self.least_llc) if math.isfinite(llc) else self.least_llc
        share = self.sample.target_se / _HEAT_ERROR / _HEAT_SHARE * llc
        plain, controlled = (sum(column) / len(noise_powers) for column in zip(*noise_powers, strict=True))
        step_size = STABLE / self.energy_curvature
        is_at_w_star = len(self.path) == self.begun  # the control variate has no noise there
        if self.sample.gradient == "auto" and not is_at_w_star:
            is_harmless = effective_step_size(step_size, FRICTION[0]) * plain <= 8 * share  # at the least friction
            # a control variate doubles the cost of a step
            kind = "plain" if is_harmless or 2 * controlled >= plain else "control-variate"
            if kind == "control-variate" and not self._can_control():
                kind = "plain"
            self.gradient = kind
        noise = plain if self.gradient == "plain" else controlled
        friction = None if self.sample.friction == "auto" else self.sample.friction
        ceiling, steps = math.inf, self.sample.steps_allowed
        if noise > 0:
            ceiling = largest_effective_step(8 * share / noise, step_size, self.spectrum, steps_allowed=steps)
        self.step_size, self.friction = limit_effective_step(step_size, ceiling, friction)
        self.friction = max(self.friction, self.least_friction) if friction is None else friction
        if self.sample.localization == "auto":
            slow = effective_step_size(self.step_size, self.friction)
            self.law = replace(self.law, localization=relaxing_localization(slow, self.sample.steps_allowed))
        self.begin_walk(self.walk.w)

    def _can_control(self) -> bool:
        """Compute ∇L_n(w*) for the control variate, unless it is known; False if there is no time for that."""
        anchor = self.posterior.anchor_gradients

        def step() -> Tensor:
            is_known = anchor.is_mean_known
            _ = anchor.mean
            cost = 0 if is_known else -(-self.posterior.num_examples // self.batch_size)
            return torch.tensor(float(cost), dtype=torch.float64)

        try:
            self.spent += int(self.journal.once(step))
        except TimeIsUp:
            self.journal.close()
            return False
        return True

    def _is_spectrum_due(self, *, is_last: bool) -> bool:
        """True if the noise spectrum should be measured now.

        It can only lower friction that gradient noise asked for, and only if γ is "auto".
        """
        is_first = len(self.path) == self.begun  # the friction of the first block is a guess
        if is_first or self.posterior.step_in_backward:  # whole gradients do not fit the memory
            return False
        if self.is_time_up():
            return False
        is_noisy = self.sample.localization == "auto" and self.friction >= _NOISY
        return is_noisy and (self.spectrum is None or is_last)

    def _measure_spectrum(self) -> Spectrum | None:
        """The noise spectrum of the pilot's gradients at its position; the last one if the time is up before."""
        try:
            with watch().until("calibrate"):
                spectrum = noise_spectrum(
                    self.posterior,
                    self.law,
                    self.walk.w,
                    seed=self.sample.seed,
                    batch_size=self.batch_size,
                    gradient=self.gradient,
                    num_samples=1,
                    journal=self.journal,
                )
        except TimeIsUp:
            self.journal.close()
            return self.spectrum
        self.spent += gradients_of(spectrum)
        return spectrum

    def _run_block(self, kernel: BAOAB, start: int) -> tuple[float, float]:
        """Run a block; returns mean and spread of nβ(L_B(w_t) − L_B(w*)), not finite if the chain diverged."""
        excess = []

        def take(step: int) -> Tensor:
            indices = self.walk.batches.indices(step)
            loss = kernel.step(self.walk, indices, step=step, measure=False).loss
            return loss - self.posterior.paired_loss(indices, 1)

        for step in range(start, start + _BLOCK):
            excess.append(self.journal.once(functools.partial(take, step)))
            if len(excess) >= _FEWEST and self.is_time_up():
                break
        values = torch.cat(excess).cpu().double()  # one wait for the device
        self.spent += len(values) * self.posterior.anchor_gradients.per_gradient(self.gradient)
        spread = float(values.std(correction=0))  # not finite where squares overflow
        return self.law.nbeta * sum(values.tolist()) / len(values), self.law.nbeta * spread

    def is_time_up(self) -> bool:
        """Whether `max_seconds` leaves no more time for calibration."""
        return self.journal.is_over("calibrate")

    def _measure_noise(self, step: int) -> tuple[float, float]:
        """Q at the pilot's position, plain and with the control variate; zeros with full batches."""
        first, second = self.walk.batches.indices(step), self.walk.batches.indices(step + 1)
        if first is None or second is None:
            return 0.0, 0.0
        self.spent += 4

        def measured() -> Tensor:
            anchor = self.posterior.start(1)
            powers = gradient_noise(self.posterior, self.walk.w, first, second, anchor=anchor, nbeta=self.law.nbeta)
            return torch.tensor(powers, dtype=torch.float64)

        plain, controlled = self.journal.once(measured).tolist()
        return plain, controlled
