"""λ̂ under gradient noise that grows with ‖w − w*‖, or that few examples carry: within its error, or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from targets import expected_llc, sample, shifted_problem
from torch import Tensor, nn

from hf_llc.judging.estimator import estimate
from hf_llc.judging.heat import heat_errors
from hf_llc.problem import Problem
from hf_llc.records.findings import Estimate
from hf_llc.records.trace import Trace

NBETA, GAMMA, FRICTION = 50.0, 5.0, 0.5


class Stiffnesses(nn.Module):
    """L_i(w) = ½ Σ_j h_ij w_j²: examples that agree on the gradient at w* = 0, which is 0, and not on the curvature."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d))

    def forward(self, h: Tensor) -> Tensor:
        return 0.5 * (h * self.w**2).sum(-1)


def multiplicative(*, num_examples: int = 400, d: int = 8) -> Problem:
    """Curvatures that are exponential over the examples, with mean 1 in every direction: noise ∝ ‖w − w*‖."""
    h = torch.distributions.Exponential(1.0).icdf((torch.arange(num_examples) + 0.5) / num_examples)
    order = [torch.randperm(num_examples, generator=torch.Generator().manual_seed(j)) for j in range(d)]
    examples = {"h": torch.stack([h[each] / h.mean() for each in order], dim=1)}
    return Problem(
        Stiffnesses(d), examples, lambda forward, batch: forward(batch["h"]), n=num_examples, unit="nats per example"
    )


def heavy_tailed(*, num_examples: int = 400, d: int = 8) -> Problem:
    """Four examples in 400 carry all of the gradient noise: most pairs of minibatches of four show none."""
    problem = shifted_problem(torch.ones(d), num_examples=num_examples, spread=0.0)
    generator, rare = torch.Generator().manual_seed(0), 4
    far = torch.randn(rare, d, generator=generator)
    problem.examples["centres"][:rare] = 6.0 * (far - far.mean(0))
    return problem


def repeats(problem: Problem, *, step_size: float, batch_size: int, count: int, steps: int = 1200) -> list[Estimate]:
    """λ̂ of `count` estimates of four chains each, all stepped together."""
    trace = sample(
        problem, sampler="baoab", step_size=step_size, friction=FRICTION, nbeta=NBETA, localization=GAMMA,
        num_chains=4 * count, steps=steps, batch_size=batch_size,
    )  # fmt: skip
    found = []
    for first in range(0, 4 * count, 4):
        part = Trace(**{f.name: getattr(trace, f.name)[first : first + 4] for f in fields(Trace)})
        found.append(estimated(part, step_size=step_size, burnin=steps // 6))
    return found


def estimated(trace: Trace, *, step_size: float, burnin: int) -> Estimate:
    share = NBETA / (NBETA + GAMMA)  # ω
    trace.heat *= share
    return estimate(
        trace, nbeta=NBETA, init_loss=0.0, localization=GAMMA, step_size=step_size,
        slow_step_size=step_size / np.tanh(FRICTION / 2), is_exact=False, num_burnin_steps=burnin,
        num_steps_between_draws=5,
    )  # fmt: skip


TRUTH = expected_llc(np.ones(8), sampler="exact", step_size=0.0, nbeta=NBETA, localization=GAMMA)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "step_size", "heat"), [(multiplicative, 3e-3, 0.13), (heavy_tailed, 1e-3, 0.59)], ids=lambda x: str(x)[:20]
)
def test_the_error_is_true_over_100_repeats(make: Callable[[], Problem], step_size: float, heat: float) -> None:
    """(λ̂ − truth)/se over 100 estimates: sd 0.9 … 1.1; the sd itself has an error of 0.07."""
    found = repeats(make(), step_size=step_size, batch_size=4, count=100)
    z = np.array([(each.llc - TRUTH) / each.llc_se for each in found])
    assert 0.9 < z.std() < 1.1 and abs(z.mean()) < 0.4
    assert np.mean([each.llc_uncorrected - each.llc for each in found]) == pytest.approx(heat, rel=0.15)


def test_heat_is_as_uncertain_as_its_spread_says() -> None:
    """Of 400 measurements, 0 but for one in fifty, independent of the draws; and of heat that moves with them."""
    rng = np.random.default_rng(0)
    excess = 5 + rng.standard_normal((4, 2000))
    heat = np.full_like(excess, np.nan)
    heat[:, ::20] = 10.0 * (rng.random((4, 100)) < 0.02)
    of_mean, formula = heat_errors(excess, heat)
    assert of_mean == pytest.approx(100 * 0.02 * 0.98 / 400, rel=0.5)
    assert formula == pytest.approx(0.1 * np.nanmean(heat))
    heat[:, ::20] = 0.1 * excess[:, ::20].mean() + excess.reshape(4, 100, 20).mean(axis=2) - 5
    assert heat_errors(excess, heat)[0] < 0  # λ̂ less such heat hardly varies
    assert heat_errors(excess, np.full_like(heat, np.nan)) == (0.0, 0.0)
    heat[:, ::20] = 6.0
    assert heat_errors(excess, heat)[1] == pytest.approx(6.0)  # more than all of λ̂: nothing is known of it


@pytest.mark.parametrize("heat", [3.0, 8.0])
def test_a_correction_larger_than_what_it_corrects(heat: float) -> None:
    """λ̂ = 5 with a heat of 3 or 8: the reason is the noise, the remedy is the batch, and never to minimize."""
    rng = np.random.default_rng(0)
    excess = 5 + rng.standard_normal((4, 2000))
    measured = np.full_like(excess, np.nan)
    measured[:, ::20] = heat
    none = np.full_like(excess, np.nan)
    trace = Trace(1 + excess / NBETA, np.ones_like(excess), none, none, none, heat=measured)
    found = estimate(
        trace, nbeta=NBETA, init_loss=1.0, localization=GAMMA, step_size=1e-3, is_exact=False, num_burnin_steps=400,
        num_steps_between_draws=1, descent={"loss_drop": 0.3, "loss_drop_se": 0.0},
    )  # fmt: skip
    assert found.verdict == "gradient noise dominates"
    remedies = [reason.remedy for reason in found.reasons if not reason.is_note]
    assert remedies[0].startswith("raise batch_size") and not any("minimize" in remedy for remedy in remedies)
    assert abs(found.llc - 5) < 1.1 * max(heat, found.llc_se) and found.llc_se > 0.6 * heat
