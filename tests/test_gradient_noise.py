"""λ̂ under gradient noise that grows with ‖w − w*‖, or that few examples carry: within its error, or refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from targets import expected_llc, sample, shifted_problem
from torch import Tensor, nn

from hf_llc.clock import TimeIsUp
from hf_llc.config import SampleConfig
from hf_llc.judging.estimator import estimate
from hf_llc.judging.heat import heat_errors
from hf_llc.judging.stopping import is_in_vain, is_long_enough
from hf_llc.problem import Problem
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.findings import Estimate
from hf_llc.records.trace import Trace
from hf_llc.workflow import heat_share
from hf_llc.workflow.estimate_model import estimate_problem

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


def test_the_spread_of_the_heat_is_in_the_error() -> None:
    """White draws of sd 1 around 5, and a heat of 10 at one measurement in fifty: 0.07 of the error is the heat's."""
    rng = np.random.default_rng(0)
    excess = 5 + rng.standard_normal((4, 2000))
    measured, none = np.full_like(excess, np.nan), np.full_like(excess, np.nan)
    measured[:, ::20] = 10.0 * (rng.random((4, 100)) < 0.02)
    trace = Trace(1 + excess / NBETA, np.ones_like(excess), none, none, none, heat=measured)
    settings = {"nbeta": NBETA, "init_loss": 1.0, "localization": GAMMA, "step_size": 1e-3, "is_exact": False}
    found = estimate(trace, **settings, num_burnin_steps=0, num_steps_between_draws=1)
    heat = np.nanmean(measured)
    of_mean = 10 * np.sqrt(heat / 10 * (1 - heat / 10) / 400)
    assert found.llc_se == pytest.approx(math.hypot(of_mean, 1 / np.sqrt(8000), 0.1 * heat), rel=0.15)
    assert of_mean > 0.8 * found.llc_se


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


HOT = SampleConfig(
    sampler="baoab", step_size=7e-4, friction=1.0, gradient="plain", nbeta=100.0, localization=20.0, batch_size=4,
    num_chains=4, num_draws=100, max_steps=1600, chain_batch_size=4, check_localization=False, target_se=0.001,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "is_hopeless"), [(3.0, True), (0.3, False)])
def test_chains_end_early_where_noise_dominates(spread: float, is_hopeless: bool) -> None:
    """The heat of a law is the same however long chains run: as soon as it is surely too much they end, and say why."""
    result = estimate_problem(shifted_problem(torch.ones(40), num_examples=400, spread=spread), HOT)
    assert result.trace is not None
    if not is_hopeless:  # λ̂ to 0.1 % takes all of them
        assert result.verdict == "trustworthy" and result.trace.shape[1] == 1600
        return
    assert result.trace.shape[1] <= 800 and result.verdict == "gradient noise dominates"
    reasons = {reason.name: reason for reason in result.reasons}
    assert reasons[result.verdict].remedy.startswith("raise batch_size")
    said = f"the chains ended after {result.trace.shape[1]:,} of at most 1,600 steps"
    assert reasons["ended early"].text.startswith(said) and reasons["ended early"].is_note


def settings_of(**more: float) -> ChainSettings:
    return ChainSettings.of(replace(HOT, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "heat", "reaches", "localization", "ends"),
    [
        (1.0, 3.0, 2.5, 5.0, True),  # more than half of three times as much
        (1.0, 3.0, 0.2, 5.0, False),  # of which little reaches λ̂
        (1.0, 1.2, 1.2, 5.0, False),  # λ̂ is below zero now, and might grow
        (1.0, 1.2, 1.2, 5e4, True),  # not where flat directions have relaxed
        (-1.0, 0.0, 0.0, 5.0, True),
        (-0.01, 0.0, 0.0, 5.0, False),  # within its error
    ],
)
def test_what_more_steps_do_not_change(
    raw: float, heat: float, reaches: float, localization: float, ends: bool
) -> None:
    rng = np.random.default_rng(1)
    excess = raw + 2 * rng.standard_normal((4, 1000))
    measured = np.full_like(excess, np.nan)
    measured[:, ::20] = heat
    none = np.full_like(excess, np.nan)
    trace = Trace(1 + excess / HOT.nbeta, np.ones_like(excess), none, none, none, heat=measured)  # type: ignore[operator]
    settings = settings_of(localization=localization)
    found = is_long_enough(settings, trace, 500, 5, least_heat=lambda trace, num_burnin_steps: reaches)
    assert found is ends


@pytest.mark.parametrize(
    ("drop", "localization", "ends"),
    [
        (1.0, 5e4, True),  # 17 % of λ̂ = 6 from where the descent ends
        (1.0, 5.0, False),  # flat directions have not relaxed: λ̂ may grow to three times as much
        (2.0, 5.0, True),  # 12 % of that
        (0.4, 5e4, False),
    ],
)
def test_chains_end_where_w_star_is_surely_no_minimum(drop: float, localization: float, ends: bool) -> None:
    rng = np.random.default_rng(1)
    excess = 5 + 0.5 * rng.standard_normal((4, 1000))
    none = np.full_like(excess, np.nan)
    trace = Trace(1 + excess / HOT.nbeta, np.ones_like(excess), none, none, none, heat=none)  # type: ignore[operator]
    descent = {"loss_drop": drop, "loss_drop_se": 0.01}
    assert is_long_enough(settings_of(localization=localization), trace, 500, 5, descent=descent) is ends


@pytest.mark.parametrize(("climbed", "fell", "ends"), [(-3.0, 5.0, True), (4.0, 5.0, True), (5.0, 5.0, False)])
def test_first_steps_that_climb_less_than_a_descent_fell(climbed: float, fell: float, ends: bool) -> None:
    excess = climbed + 0.2 * np.random.default_rng(1).standard_normal((4, 100))
    none = np.full_like(excess, np.nan)
    trace = Trace(1 + excess / HOT.nbeta, np.ones_like(excess), none, none, none, heat=none)  # type: ignore[operator]
    assert is_in_vain(settings_of(), trace, 50, descent={"loss_drop": fell, "loss_drop_se": 0.01}) is ends
    assert not is_in_vain(settings_of(), trace, 50, descent=None)
    assert not is_in_vain(settings_of(), trace, 50, descent={"loss_drop": fell, "loss_drop_se": fell})


def test_chains_from_far_above_a_minimum_end_at_a_first_look() -> None:
    """After a quarter of the fewest steps, and those are the steps that chains without such a look take."""
    far = shifted_problem(torch.ones(40), num_examples=400, spread=0.3)
    with torch.no_grad():
        for parameter in far.model.parameters():
            parameter.add_(1.0)
    settings = replace(HOT, localization=5.0, target_se=0.05)
    found = estimate_problem(far, settings)
    assert found.verdict == "not a minimum" and found.trace is not None
    assert found.trace.shape[1] == 60 and [reason.name for reason in found.reasons][-1] == "ended early"
    other = estimate_problem(far, replace(settings, num_draws=60, num_burnin_steps=0))
    np.testing.assert_array_equal(other.trace.loss, found.trace.loss)  # type: ignore[union-attr]


@pytest.mark.slow
def test_heat_that_there_was_no_time_to_measure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it is taken off, with the error of a uniform law; that stands among the notes, with what to do."""

    def late(*args: object, **settings: object) -> None:
        raise TimeIsUp

    problem = shifted_problem(torch.ones(40), num_examples=400, spread=0.6)
    short = replace(HOT, max_steps=800, target_se=0.1)
    whole = estimate_problem(problem, short)
    monkeypatch.setattr(heat_share, "noise_spectrum", late)
    found = estimate_problem(problem, replace(short, max_seconds=1e5))
    heat = found.step_size_bias
    assert heat == pytest.approx(found.llc_uncorrected - found.llc)
    assert heat == pytest.approx(whole.step_size_bias / (100 / 120) / 2, rel=0.1)  # ω is 100/120
    assert found.llc_se > 2 * heat / np.sqrt(12) > whole.llc_se
    note = next(reason for reason in found.reasons if reason.name == "heat not measured")
    assert note.is_note and note.change == {"max_seconds": 4e5} and "half of it was taken off" in note.text
    assert not any(reason.name == note.name for reason in whole.reasons)
