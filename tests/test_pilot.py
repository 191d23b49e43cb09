"""Calibration of underdamped sampling: curvature, friction, kind of gradient, localization, and starting again."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from targets import expected_llc, power_problem, shifted_problem
from targets import sample as trace_of

from hf_llc.calibration.calibrate import calibrate, with_calibration
from hf_llc.calibration.friction import limit_effective_step
from hf_llc.calibration.gradient_noise import gradient_noise
from hf_llc.calibration.pilot import Pilot
from hf_llc.calibration.repair import retry_settings
from hf_llc.chains.ensemble import Sampling
from hf_llc.config import SampleConfig
from hf_llc.judging.checks import is_change_known
from hf_llc.judging.running import describe
from hf_llc.judging.stopping import is_long_enough
from hf_llc.parallel.processes import Processes
from hf_llc.posterior.curvature import Curvature, inner_product
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.samplers import BAOAB
from hf_llc.samplers.effective_step import effective_step_size, slow_step_size
from hf_llc.workflow.continuations import few_chains
from hf_llc.workflow.estimate_model import estimate_problem
from hf_llc.workflow.settings import decide_from_data

H = torch.linspace(0.2, 2.0, 6)
NBETA, GAMMA, SPREAD = 25.0, 3.0, 2.0


def sampling_of(problem: Problem, state: Path) -> Sampling:
    return Sampling(
        Posterior(problem),
        processes=Processes(),
        state=state,
        is_long_enough=is_long_enough,
        describe=describe,
        observables={},
    )


def sample(**settings: Any) -> SampleConfig:
    common = {"sampler": "baoab", "nbeta": NBETA, "localization": GAMMA, "batch_size": 4}
    return SampleConfig(**{**common, **settings})


def test_a_block_of_the_pilot_gives_mean_and_spread_of_its_steps() -> None:
    posterior, rises = Posterior(shifted_problem(H, num_examples=20, spread=SPREAD)), iter(range(50))
    pilot = Pilot(posterior, sample())

    class Rising(BAOAB):
        def step(self, walk: Any, indices: Any, *, step: int, measure: bool) -> Any:
            loss = posterior.paired_loss(indices, 1) + 0.01 * next(rises)
            return SimpleNamespace(loss=loss)

    mean, spread = pilot._run_block(Rising(1e-3), 0)
    assert mean == pytest.approx(NBETA * 0.01 * 24.5)
    assert spread == pytest.approx(NBETA * 0.01 * np.std(np.arange(50)))


def test_a_block_of_losses_whose_squares_overflow_has_no_spread() -> None:
    posterior = Posterior(shifted_problem(H, num_examples=20, spread=SPREAD))
    pilot, losses = Pilot(posterior, sample()), iter([1e200, 2e200] * 25)

    class Thrown(BAOAB):
        def step(self, walk: Any, indices: Any, *, step: int, measure: bool) -> Any:
            return SimpleNamespace(loss=torch.tensor([next(losses)], dtype=torch.float64))

    mean, spread = pilot._run_block(Thrown(1e-3), 0)
    assert mean == pytest.approx(NBETA * 1.5e200) and not math.isfinite(spread)


def test_curvature_of_a_quadratic_is_its_largest_eigenvalue() -> None:
    posterior = Posterior(power_problem(H))
    curvature = Curvature(posterior, nbeta=NBETA)
    assert curvature.refresh(posterior.start(1), None, iterations=40) == pytest.approx(NBETA * 2, rel=1e-3)
    assert curvature.num_gradients == 41


def test_curvature_never_falls() -> None:
    """w⁴ is flat at 0 and curved away from it."""
    posterior = Posterior(power_problem(H, power=4))
    curvature = Curvature(posterior, nbeta=NBETA)
    away = curvature.refresh(torch.full((1, 6), 0.5), None, iterations=20)
    assert curvature.refresh(posterior.start(1), None, iterations=20) == away
    assert away == pytest.approx(6 * 2.0 * 0.5**2 * NBETA, rel=0.05)


@pytest.mark.parametrize("friction", [None, 0.3])
@pytest.mark.parametrize("ceiling", [math.inf, 0.5, 0.03, 0.003])
def test_friction_keeps_the_effective_step_below_its_ceiling(ceiling: float, friction: float | None) -> None:
    step_size, found = limit_effective_step(0.01, ceiling, friction)
    assert effective_step_size(step_size, found) <= ceiling * (1 + 1e-9) and step_size <= 0.01
    assert friction is None or found == friction
    if ceiling in (0.03, 0.5) and friction is None:  # no more friction than that takes
        assert step_size == 0.01
        assert found == 0.05 or effective_step_size(0.01, found) == pytest.approx(ceiling)


@pytest.mark.slow
def test_gradient_noise_is_that_of_the_examples() -> None:
    """Gradients that differ by a constant: sd SPREAD in each of six coordinates, none with the control variate."""
    posterior = Posterior(shifted_problem(H, num_examples=4000, spread=SPREAD))
    w, anchor = torch.full((1, 6), 0.1), torch.zeros(1, 6)
    pairs = [(torch.tensor([[i]]), torch.tensor([[i + 1]])) for i in range(0, 4000, 10)]
    plain, controlled = np.mean(
        [gradient_noise(posterior, w, *pair, anchor=anchor, nbeta=NBETA) for pair in pairs], axis=0
    )
    assert plain == pytest.approx(6 * (NBETA * SPREAD) ** 2, rel=0.15)
    assert controlled < 1e-6 * plain


def test_full_batches_take_the_largest_stable_step_and_the_least_friction() -> None:
    found = calibrate(Posterior(power_problem(H)), sample())
    assert found["step_size"] == pytest.approx(0.25 / (NBETA * 2 + GAMMA), rel=0.02)
    assert (found["friction"], found["gradient"]) == (0.05, "plain")


def test_label_noise_asks_for_the_control_variate() -> None:
    posterior = Posterior(shifted_problem(H, num_examples=1000, spread=SPREAD))
    assert calibrate(posterior, sample(batch_size=1))["gradient"] == "control-variate"
    assert calibrate(posterior, sample(batch_size=1, gradient="plain"))["friction"] > 1


def test_noise_that_localization_holds_asks_for_no_friction() -> None:
    """Noise equally strong everywhere: of it the mean of nβh/(nβh + γ) heats λ̂, and is what friction keeps low."""
    h, spread, batch_size = torch.cat([torch.full((200,), 2.0), torch.full((600,), 0.002)]), 0.5, 4
    posterior = Posterior(shifted_problem(h, num_examples=1000, spread=spread))
    asked = sample(localization="auto", gradient="plain", batch_size=batch_size)
    pilot = Pilot(posterior, asked)
    pilot.run()
    share = float((NBETA * h / (NBETA * h + pilot.law.localization)).mean())
    power = len(h) * (NBETA * spread) ** 2 / batch_size
    heat = effective_step_size(pilot.step_size, pilot.friction) / 8 * power * share
    assert 0.1 < share < 0.5 and pilot.friction > 0.05
    assert heat == pytest.approx(asked.target_se / 0.25 / 3 * pilot.llc, rel=0.2)


def test_localization_lets_flat_directions_relax_in_a_twentieth_of_the_steps() -> None:
    asked = sample(localization="auto", max_steps=4000)
    found = ChainSettings.of(with_calibration(asked, calibrate(Posterior(power_problem(H)), asked)))
    assert 2 / (slow_step_size(found) * found.localization) == pytest.approx(200, rel=0.05)


def test_a_pilot_thrown_out_begins_again_with_a_smaller_step() -> None:
    posterior = Posterior(power_problem(H))
    pilot = Pilot(posterior, sample(localization=1e-7))
    pilot.curvature.refresh = lambda *_, **__: pilot.curvature.loss  # type: ignore[method-assign]
    pilot.curvature.loss = 1e-7  # believes the loss to be flat
    pilot.run()
    assert any(not math.isfinite(row["llc"]) for row in pilot.path)
    assert torch.isfinite(pilot.walk.w).all()


@pytest.mark.slow
def test_calibration_counts_its_gradients() -> None:
    """Every forward and backward pass of the pilot is in `num_gradients`."""
    problem, calls = shifted_problem(H, num_examples=100, spread=0.1), []
    inner = problem.losses
    posterior = Posterior(problem)
    assert posterior.init_losses.shape == (100,)  # computed now, before passes are counted
    problem.losses = lambda forward, batch: calls.append(len(batch["centres"])) or inner(forward, batch)  # type: ignore
    for gradient in ("plain", "control-variate"):
        calls.clear()
        pilot = Pilot(posterior, sample(batch_size=5, gradient=gradient))
        pilot.run()
        assert pilot.num_gradients == calls.count(5), gradient
        assert len(calls) - calls.count(5) == (gradient != "plain")  # ∇L_n(w*), which the run counts


class TestRetrySettings:
    """What chains start again with, by what they showed."""

    @pytest.fixture
    def found(self) -> Any:
        with preserved(power_problem(H).model) as _:
            problem = power_problem(H)
        return estimate_problem(problem, sample(step_size=0.004, num_burnin_steps=50, num_draws=50))

    def _after(
        self, found: Any, *, asked: SampleConfig | None = None, localization: float = 10.0, **changes: Any
    ) -> ChainSettings | None:
        now = sample(step_size=0.004, friction=0.2, gradient="plain", localization=localization)
        auto = sample(step_size="auto", localization="auto") if asked is None else asked
        return retry_settings(ChainSettings.of(now), auto, replace(found.estimate, **changes))

    def test_diverged(self, found: Any) -> None:
        after = self._after(found, verdict="diverged")
        assert after is not None and (after.step_size, after.friction) == (0.001, 0.2)

    def test_too_hot(self, found: Any) -> None:
        after = self._after(found, verdict="step size too large", llc=2.0, llc_se=0.01, step_size_bias=0.5)
        assert after is not None and slow_step_size(after) == pytest.approx(0.2 * effective_step_size(0.004, 0.2), 0.02)
        assert after.localization == 10.0

    def test_flat_directions_still_relax_at_the_smaller_step(self, found: Any) -> None:
        hot = {"verdict": "step size too large", "llc": 2.0, "llc_se": 0.01, "step_size_bias": 0.5}
        after = self._after(found, localization=0.5, **hot)
        assert after is not None and after.localization == pytest.approx(2.5, rel=0.02)
        given = sample(step_size="auto", localization=0.5)
        kept = self._after(found, asked=given, localization=0.5, **hot)
        assert kept is not None and kept.localization == 0.5

    @pytest.mark.slow
    @pytest.mark.parametrize("verdict", ["left the basin", "drifting", "chains disagree"])
    def test_stronger_localization(self, found: Any, verdict: str) -> None:
        after = self._after(found, verdict=verdict)
        assert after is not None and (after.localization, after.step_size) == (40.0, 0.004)

    @pytest.mark.slow
    @pytest.mark.parametrize(("before", "expected"), [(10.0, 5.0), (0.5, 0.25), (0.4, None), (0.25, None)])
    def test_weaker_localization(self, found: Any, before: float, expected: float | None) -> None:
        """By halves, down to where flat directions relax in a tenth of the steps; from there nothing sends it back."""
        after = self._after(found, localization=before, verdict="localization dominates")
        assert (None if after is None else after.localization) == expected
        settled_again = self._after(found, localization=before, verdict="chains disagree")
        assert (settled_again is None) == (before < 0.5)

    @pytest.mark.parametrize(("before", "expected"), [(0.5, 0.25), (0.3, 0.15), (0.24, None)])
    def test_localization_from_above_is_weakened_further(
        self, found: Any, before: float, expected: float | None
    ) -> None:
        """Down to where flat directions relax in a fifth of the steps; and a smaller ε raises it only to there."""
        now = sample(step_size=0.004, friction=0.2, gradient="plain", localization=before)
        auto = sample(step_size="auto", localization="auto")
        dominated = replace(found.estimate, verdict="localization dominates")
        after = retry_settings(ChainSettings.of(now), auto, dominated, from_above=True)
        assert (None if after is None else after.localization) == expected
        hot = replace(found.estimate, verdict="step size too large", llc=2.0, llc_se=0.01, step_size_bias=0.5)
        lower = retry_settings(ChainSettings.of(now), auto, hot, from_above=True)
        assert lower is not None and lower.localization == pytest.approx(2.5 / 4, rel=0.02)

    @pytest.mark.parametrize("verdict", ["trustworthy", "not a minimum", "negative", "stuck"])
    def test_nothing_helps(self, found: Any, verdict: str) -> None:
        assert self._after(found, verdict=verdict) is None

    def test_what_the_user_gave_stays(self, found: Any) -> None:
        given = sample(step_size=0.004, friction=0.2, localization=10.0)
        assert self._after(found, asked=given, verdict="diverged") is None
        assert self._after(found, asked=given, verdict="drifting") is None


@pytest.mark.slow
def test_localization_that_makes_up_llc_is_weakened_before_the_verdict_says_so() -> None:
    """λ̂ of directions at nβh far below γ is as 1/γ: tried at half of it, and said."""
    problem = shifted_problem(
        torch.cat([torch.full((2,), 2.0), torch.full((400,), 4e-4)]), num_examples=1000, spread=0.01
    )
    asked = sample(batch_size=4, localization="auto", max_steps=1000, num_chains=4, chain_batch_size=4)
    result = estimate_problem(problem, asked)
    assert result.calibration is not None
    (first,) = result.calibration["attempts"]
    assert (first["verdict"], result.verdict) == ("localization dominates",) * 2
    assert result.localization == pytest.approx(first["localization"] / 2, rel=0.03)


def test_a_given_step_size_needs_no_pilot() -> None:
    problem = power_problem(H)
    found = decide_from_data(SampleConfig(step_size=0.001, nbeta=NBETA, max_steps=1000), problem)
    assert (found.sampler, found.gradient, found.localization) == ("sgld", "plain", 40.0)
    found = decide_from_data(SampleConfig(step_size=0.001, friction=0.1, nbeta=NBETA, max_steps=1000), problem)
    assert (found.sampler, found.friction) == ("baoab", 0.1)  # friction asks for momentum


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["plain", "control-variate"])
def test_corrected_estimate_under_label_noise(gradient: str) -> None:
    """Whatever friction calibration chose, λ̂ is the exact one within its error, which is small."""
    problem = shifted_problem(H, num_examples=1000, spread=0.4)
    asked = sample(batch_size=2, gradient=gradient, num_draws=200, max_steps=6400, target_se=0.03, num_chains=8,
                   chain_batch_size=8)  # fmt: skip
    result = estimate_problem(problem, asked)
    truth = expected_llc(H.numpy(), sampler="exact", step_size=0.0, nbeta=NBETA, localization=GAMMA)
    assert result.llc_se < 0.05 * truth
    assert abs(result.llc - truth) < 4 * result.llc_se
    assert result.gradient == gradient
    # What is taken off is the heat: ε_eff/8 of the noise's power in all six coordinates (nearly none is held by γ).
    assert result.friction is not None
    heat = effective_step_size(result.step_size, result.friction) / 8 * len(H) * (NBETA * 0.4) ** 2 / 2
    taken_off = result.llc_uncorrected - result.llc
    assert taken_off == (pytest.approx(heat, rel=0.15) if gradient == "plain" else pytest.approx(0, abs=1e-9))


@pytest.mark.slow
def test_extrapolated_and_localization_checked() -> None:
    """SGLD's excess, linear in ε, goes; λ̂ at γ/2 and 2γ are the exact ones there."""
    problem = power_problem(H)
    asked = sample(sampler="sgld", step_size=0.02, num_burnin_steps=200, num_draws=2000, extrapolate=True, num_chains=8,
                   chain_batch_size=8)  # fmt: skip
    result = estimate_problem(problem, asked)
    exact = {
        g: expected_llc(H.numpy(), sampler="exact", step_size=0.0, nbeta=NBETA, localization=g) for g in (1.5, 3, 6)
    }
    assert result.llc_extrapolated is not None and result.llc_extrapolated_se is not None
    assert result.llc - exact[3] > 4 * result.llc_se
    assert abs(result.llc_extrapolated - exact[3]) < 4 * result.llc_extrapolated_se < 0.5
    change = result.localization_sensitivity
    assert change["halved"] == pytest.approx(exact[1.5] - exact[3], abs=4 * change["halved_se"] + 0.1)
    assert change["doubled"] == pytest.approx(exact[6] - exact[3], abs=4 * change["doubled_se"] + 0.1)


@pytest.mark.slow
def test_localization_is_looked_at_by_runs_where_weights_do_not_allow() -> None:
    """300 flat directions: reweighting has no answer, chains that go on at γ/2 and 2γ have."""
    problem = power_problem(torch.full((300,), 0.2))
    asked = sample(step_size=0.004, friction=0.5, localization=5.0, num_burnin_steps=300, num_draws=600,
                   chain_batch_size=4)  # fmt: skip
    result = estimate_problem(problem, asked)
    assert result.verdict == "trustworthy"
    change = result.localization_sensitivity
    for name, gamma in (("halved", 2.5), ("doubled", 10.0)):
        truth = 150 * (5 / (5 + gamma) - 5 / 10)
        assert change[f"{name}_se"] < 0.2 * abs(truth) and abs(change[name] - truth) < 4 * change[f"{name}_se"]


@pytest.mark.slow
@pytest.mark.parametrize(("target_se", "doubled"), [(0.05, 1), (1e-4, 2)])
def test_two_chains_look_at_another_localization_and_all_where_these_do_not_tell(
    target_se: float, doubled: int
) -> None:
    """The other chains follow where the error of the change is above the one asked for; no chain runs twice."""
    asked = sample(step_size=0.008, friction=0.3, localization=5.0, num_burnin_steps=100, num_draws=200, num_chains=4,
                   chain_batch_size=1, target_se=target_se, batch_size="full")  # fmt: skip
    result = estimate_problem(power_problem(torch.full((300,), 0.2)), asked)
    change, steps = result.localization_sensitivity, 100
    for name, gamma in (("halved", 2.5), ("doubled", 10.0)):
        truth = 150 * (5 / (5 + gamma) - 5 / 10)
        assert abs(change[name] - truth) < 4 * change[f"{name}_se"]
        assert change[f"{name}_se"] < 0.05 * result.llc
    assert result.descent is not None
    of_descent = int(result.descent["num_gradients"])
    assert result.num_gradients == 4 * 300 + of_descent + doubled * 2 * 2 * steps


def test_a_change_near_the_line_of_the_verdict_is_not_known() -> None:
    """−0.4 λ̂ is that line: two errors from it, and within a twentieth of λ̂, the change says enough."""
    known = functools.partial(is_change_known, llc=100.0, within=0.05)
    assert known(-30.0, 4.0) and known(-50.0, 4.0) and known(90.0, 5.0)
    assert not known(-33.0, 4.0) and not known(-47.0, 4.0)
    assert not known(90.0, 6.0) and not known(90.0, math.nan) and not known(math.nan, 1.0)


@pytest.mark.parametrize(
    ("num_chains", "size", "few"), [(4, 1, 2), (4, 3, 3), (8, 8, 8), (1, 1, 1), (5, 2, 2), (3, 4, 3)]
)
def test_whole_batches_look_at_another_localization(num_chains: int, size: int, few: int) -> None:
    assert few_chains(num_chains, size) == few


@pytest.mark.slow
def test_heat_is_taken_off_where_localization_is_looked_at_and_off_the_extrapolation() -> None:
    """Under label noise: λ̂ at γ/2, 2γ and ε → 0 without the heat that λ̂ itself is without.

    The heat is as large as the change at 2γ, which would read as none at all if it were left in.
    """
    h = torch.full((1000,), 2.0)
    problem = shifted_problem(h, num_examples=1000, spread=0.335)
    asked = sample(step_size=0.004, friction=0.5, localization=5.0, num_burnin_steps=300, num_draws=600, batch_size=4,
                   gradient="plain", chain_batch_size=4, extrapolate=True)  # fmt: skip
    result = estimate_problem(problem, asked)
    exact = {
        g: expected_llc(h.numpy(), sampler="exact", step_size=0.0, nbeta=NBETA, localization=g) for g in (2.5, 5, 10)
    }
    change, truth = result.localization_sensitivity, {"halved": exact[2.5] - exact[5], "doubled": exact[10] - exact[5]}
    assert result.verdict == "trustworthy" and result.step_size_bias > 0.8 * abs(truth["doubled"])
    for name, expected in truth.items():
        assert abs(change[name] - expected) < 0.25 * abs(expected)
    assert result.llc_extrapolated is not None
    assert abs(result.llc_extrapolated - exact[5]) < 0.4 * result.step_size_bias


@pytest.mark.slow
def test_heat_capacity_of_a_quadratic() -> None:
    """½ Σ (nβh/a)², with minibatches too, whose own variance is far larger."""
    problem = shifted_problem(H, num_examples=1000, spread=1.0)
    asked = sample(batch_size=5, gradient="control-variate", step_size=0.004, friction=0.3, num_chains=8,
                   chain_batch_size=8, num_burnin_steps=500, num_draws=4000)  # fmt: skip
    result = estimate_problem(problem, asked)
    energy = NBETA * H.double().numpy()
    truth = float((0.5 * (energy / (energy + GAMMA)) ** 2).sum())
    assert result.heat_capacity_se < 0.2 * truth
    assert abs(result.heat_capacity - truth) < 4 * result.heat_capacity_se
    assert result.wbic == pytest.approx(result.n * (result.init_loss + result.llc / NBETA))


@pytest.mark.slow
def test_chains_lower_their_step_where_the_curvature_grows() -> None:
    """w⁴ is flat at w* and stiff away from it: ε falls, whenever that is seen, and never rises again."""
    problem = power_problem(H, power=4)
    kernel = BAOAB(0.03, friction=0.2, adapt_step_size=True)
    trace = trace_of(problem, sampler=kernel, nbeta=NBETA, localization=GAMMA, num_chains=4, steps=1600)
    measured = trace.step_size[:, ::20]
    assert (np.diff(measured, axis=1) <= 0).all() and (measured[:, 0] == 0.03).all()
    assert (measured[:, -1] < measured[:, 40]).any() and measured[0, -1] != measured[1, -1]
    assert measured[:, -1].min() < 0.02 and measured[:, -1].max() <= 0.03
    calls: list[int] = []
    inner = problem.losses
    problem.losses = lambda forward, batch: calls.append(1) or inner(forward, batch)  # type: ignore[assignment]
    kernel = BAOAB(0.03, friction=0.2, adapt_step_size=True)
    trace_of(problem, sampler=kernel, nbeta=NBETA, localization=GAMMA, num_chains=1, steps=800)
    assert len(calls) - 1 == kernel.num_gradients(steps=800, measured=40, is_full=True)


@pytest.mark.slow
def test_chains_that_go_on_at_half_the_step_keep_their_share_of_it(tmp_path: Path) -> None:
    """`extrapolate` and `hf-llc calibrate` need it: at ε/2 chains take half of what they had come down to, or less."""
    problem = power_problem(H, power=4)
    settings = ChainSettings.of(
        sample(step_size=0.03, friction=0.2, gradient="plain", adapt_step_size=True, num_burnin_steps=400, num_draws=50)
    )
    sampling = sampling_of(problem, tmp_path)
    first, *_ = sampling.until_flat(settings, "here")
    then = sampling.go_on(replace(settings, step_size=0.015), "here", number=1, steps=240)
    assert first.step_size[:, 440].min() < 0.02
    np.testing.assert_allclose(then.step_size[:, :101:20], np.tile(first.step_size[:, 440:441] / 2, (1, 6)))
    assert (np.diff(then.step_size[:, ::20], axis=1) <= 0).all()


@pytest.mark.slow
def test_burn_in_is_as_long_as_the_steps_that_chains_came_down_to_ask_for(tmp_path: Path) -> None:
    """400 steps of it would do at the ε that chains began with; by then their own have fallen."""
    gamma, epsilon = 0.0554, 0.018
    asked = sample(
        step_size=epsilon, friction=0.2, gradient="plain", adapt_step_size=True, localization=gamma, num_draws=400,
        target_se=1.0,
    )  # fmt: skip
    sampling = sampling_of(power_problem(H, power=4), tmp_path)
    trace, burnin, _ = sampling.until_flat(ChainSettings.of(asked), "here")
    relaxed = gamma / math.tanh(0.1) * np.nanmean(trace.step_size[:, :400]) * 400
    assert gamma / math.tanh(0.1) * epsilon * 400 > 3.96 > relaxed
    assert np.isfinite(trace.loss).all() and burnin == 800


@pytest.mark.slow
def test_a_given_step_size_is_kept() -> None:
    problem = power_problem(H, power=4)
    result = estimate_problem(problem, sample(step_size=0.004, num_burnin_steps=200, num_draws=50))
    assert result.trace is not None and (result.trace.step_size[:, ::20] == 0.004).all()


def test_an_inner_product_is_summed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, whatever the pieces: each sum of thirty products is exact in it."""
    u, v = (torch.randint(-99, 99, (1, 30), generator=torch.Generator().manual_seed(i)).float() for i in range(2))
    whole = inner_product(u, v)
    assert whole.dtype == torch.float64 and float(whole) == sum(
        a * b for a, b in zip(u[0].tolist(), v[0].tolist(), strict=True)
    )
    monkeypatch.setattr("hf_llc.posterior.curvature._PIECE", 7)
    assert inner_product(u, v) == whole
