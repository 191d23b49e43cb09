"""A limit that holds, a forecast, and what is shown on the way. The clock is one that only gradients move."""

from __future__ import annotations

import functools
import itertools
import math
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from targets import power_problem, shifted_problem

from hf_llc import LLCEvaluator, LLCResult
from hf_llc.budget import Budget
from hf_llc.cli import console
from hf_llc.config import SampleConfig
from hf_llc.errors import InputError, OutOfTime
from hf_llc.judging.running import describe, judged
from hf_llc.numerals import duration, span, with_error
from hf_llc.observables import Observable
from hf_llc.parallel.pacing import ringing
from hf_llc.parallel.processes import Processes, _sendable
from hf_llc.posterior.kept_losses import KeptLosses
from hf_llc.posterior.posterior import LOSS_COST, Posterior
from hf_llc.problem import Part, Problem
from hf_llc.progress import Watch, watch, watching
from hf_llc.ranges import Range
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.workflow.estimate_model import estimate_problem
from hf_llc.workflow.forecast import (
    cost_of_losses,
    seconds_of_gradient,
    work_before_chains,
    work_of_chains,
)
from hf_llc.workflow.foretold import Foretold
from hf_llc.workflow.memory_plan import Plan
from hf_llc.workflow.opened_run import in_time
from hf_llc.workflow.peak_memory import Passes, peaks
from hf_llc.workflow.reforecast import FirstLook, expect_chains, expect_little
from hf_llc.workflow.run import Run
from hf_llc.workflow.run_folder import RunFolder
from hf_llc.workflow.settings import decide_from_data

H = torch.linspace(0.2, 2.0, 6)
PASS = 0.2
"""Seconds of a forward pass by the clock below."""


class Clock:
    """A clock that stands still between passes of the model."""

    def __init__(self) -> None:
        self.now, self.begun = 1000.0, 1000.0

    def __call__(self) -> float:
        return self.now

    @property
    def seconds(self) -> float:
        return self.now - self.begun


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def timed(problem: Problem, clock: Clock) -> Problem:
    """The problem, each of whose passes takes `PASS` seconds by the clock."""

    def losses(forward: Callable, batch: dict) -> torch.Tensor:
        clock.now += PASS
        return problem.losses(forward, batch)

    return replace(problem, losses=losses)


def asked(**settings: object) -> SampleConfig:
    common = {"nbeta": 25.0, "batch_size": 4, "num_draws": 50, "max_steps": 2000, "target_se": 1e-6}
    return SampleConfig(**{**common, **settings})  # type: ignore[arg-type]


CASES = {
    "defaults": {},
    "acceptance": {"sampler": "sgld"},
    "minimize": {"minimize": True, "minimize_steps": 400},
    "fixed": {"step_size": 1e-3, "localization": 10.0, "num_burnin_steps": 100, "num_draws": 400},
    "one chain": {"num_chains": 1},
    "batched": {"chain_batch_size": 4},
    "extrapolated": {"extrapolate": True, "step_size": 1e-3, "localization": 10.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("limit", [45.0, 90.0])
@pytest.mark.parametrize("case", CASES)
def test_a_limit_bounds_the_whole_run(case: str, limit: float, clock: Clock) -> None:
    """It ends within a tenth of it, or one pass; its chains have equally many steps; the result says why it ended."""
    problem = timed(shifted_problem(H, num_examples=40, spread=0.5), clock)
    result = estimate_problem(problem, asked(**CASES[case], max_seconds=limit))
    assert clock.seconds <= 1.1 * limit + 2 * PASS
    assert clock.seconds > 0.7 * limit  # the time is used: no target was reached
    assert result.trace is not None
    assert np.isfinite(result.trace.loss).all() and result.trace.shape[1] >= 4
    assert any(reason.name == "time was up" for reason in result.reasons) or case == "extrapolated", result.reasons
    if result.verdict in ("too few draws", "drifting", "chains disagree"):
        assert result.reasons[0].remedy.startswith("give max_seconds "), result.reasons
    assert math.isfinite(result.llc)


MANY = {
    "descent": {},
    "control variate": {"gradient": "control-variate", "step_size": 1e-3, "localization": 10.0},
    "minimize": {"minimize": True, "minimize_steps": 50},
    "L_n at draws": {"draw_loss": "full", "num_steps_between_draws": 5, "step_size": 1e-3, "localization": 10.0},
    "full batches": {"batch_size": "full", "num_chains": 1, "step_size": 1e-3, "localization": 10.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MANY)
def test_a_pass_over_all_examples_is_no_longer_than_the_limit(case: str, clock: Clock) -> None:
    """Each takes 12 s, a seventh of the limit, and none is begun, or gone on with, that there is no time for."""
    problem = timed(shifted_problem(H, num_examples=240, spread=0.5), clock)
    limit = 300.0 if case in ("L_n at draws", "full batches") else 84.0
    result = estimate_problem(problem, asked(**MANY[case], max_seconds=limit, micro_batch_size=4))
    assert clock.seconds <= 1.1 * limit + 2 * PASS
    assert result.trace is not None and result.trace.shape[1] >= 4


def test_no_draws_is_said_with_the_stage_and_what_to_do(clock: Clock) -> None:
    """Passes become slow after the forecast: it is the end, in time, with exit code 3 and no traceback."""
    problem = becoming_slow(shifted_problem(H, num_examples=40, spread=0.5), clock, passes=8, times=60)
    with pytest.raises(OutOfTime, match=r"no draws: .* in calibrate, after .* larger max_seconds"):
        estimate_problem(problem, asked(max_seconds=60.0))
    assert clock.seconds < 1.1 * 60 + 60 * PASS


def test_a_refusal_for_want_of_time_is_the_same_on_every_process() -> None:
    error = Watch(max_seconds=3.0).out_of_time("calibrate", "after 2 gradients")
    copy = _sendable(error)
    assert type(copy) is OutOfTime and str(copy) == str(error)


@pytest.mark.slow
def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    problem = shifted_problem(H, num_examples=40, spread=0.5)
    config = asked(max_steps=100, target_se=0.5, num_draws=20, check_localization=False)
    free, bound = (estimate_problem(problem, replace(config, max_seconds=limit)) for limit in (None, 1e6))
    assert free.trace is not None and bound.trace is not None
    assert np.array_equal(free.trace.loss, bound.trace.loss)


@pytest.mark.parametrize("settings", [{}, {"step_size": 1e-3, "localization": 10.0}])
def test_a_limit_within_which_nothing_can_be_said_is_refused_at_once(settings: dict, clock: Clock) -> None:
    problem = timed(shifted_problem(H, num_examples=40, spread=0.5), clock)
    with pytest.raises(InputError, match="max_seconds is too short") as raised:
        estimate_problem(problem, asked(**settings, max_seconds=1.0))
    assert clock.seconds < 1.0
    assert "\n" not in str(raised.value)


class SlowRows(torch.utils.data.Dataset):
    """Rows of which the first takes seconds to be read."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds
        generator = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(40, 3, generator=generator), torch.randn(40, 2, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.clock.now, self.seconds = self.clock.now + self.seconds, 0.0
        return self.x[i], self.y[i]


def plain_run(data: torch.utils.data.Dataset, tick: Callable[[], None], limit: float, **given: object) -> object:
    """An estimate of a linear layer; `tick` is called at every pass."""

    def loss_fn(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        tick()
        return (out - y).square().sum(1)

    torch.manual_seed(0)
    settings = asked(step_size=1e-3, localization=10.0, num_chains=2, save_seconds=0.0, micro_batch_size=4)
    names = (
        "nbeta",
        "batch_size",
        "num_draws",
        "step_size",
        "localization",
        "num_chains",
        "save_seconds",
        "micro_batch_size",
    )
    evaluator = LLCEvaluator(**{name: getattr(settings, name) for name in names}, max_seconds=limit)
    return evaluator.compute(torch.nn.Linear(3, 2), data=data, loss_fn=loss_fn, **{"progress": False, **given})  # type: ignore[arg-type]


def test_what_loading_leaves_of_the_time_is_shared_by_the_stages(clock: Clock) -> None:
    """Loading takes two thirds of the limit, by which time L_n(w*) would have had to end."""

    def tick() -> None:
        clock.now += 0.05

    result = plain_run(SlowRows(clock, 20.0), tick, 30.0)
    assert result.trace.shape[1] >= 4  # type: ignore[attr-defined]
    assert 25.0 < clock.seconds < 31.0


def test_a_run_that_goes_on_is_not_refused_for_its_limit(clock: Clock, tmp_path: Path) -> None:
    calls = itertools.count()

    def tick() -> None:
        clock.now += 0.05
        if next(calls) == 220:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plain_run(SlowRows(clock, 0.0), tick, 1e3, output=tmp_path / "run")
    clock.begun = clock.now
    result = plain_run(SlowRows(clock, 0.0), tick, 7.0, output=tmp_path / "run")
    assert result.trace.shape[1] >= 4 and clock.seconds < 8.5  # type: ignore[attr-defined]


@pytest.fixture
def own_alarm() -> Iterator[None]:
    """The alarm of this process, without that of pytest-timeout."""
    before = signal.setitimer(signal.ITIMER_REAL, 0.0)
    yield
    signal.setitimer(signal.ITIMER_REAL, *before)


@pytest.mark.usefixtures("own_alarm")
def test_an_alarm_ends_work_that_does_not_look_at_the_clock() -> None:
    """Reading of data in another library, say; the signal is left as it was."""
    begun, old = time.monotonic(), signal.getsignal(signal.SIGALRM)

    def read() -> None:
        while time.monotonic() - begun < 20:
            time.sleep(0.01)

    with watching(Watch(max_seconds=0.5)), pytest.raises(OutOfTime, match=r"while data were read, .* max_examples"):
        in_time(read)
    assert 0.4 < time.monotonic() - begun < 5
    assert signal.getsignal(signal.SIGALRM) == old and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.usefixtures("own_alarm")
def test_an_alarm_of_somebody_else_is_left_alone() -> None:
    signal.setitimer(signal.ITIMER_REAL, 1000.0)
    with ringing(time.monotonic(), lambda: pytest.fail("it rang")):
        time.sleep(0.05)
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 900


class SlowLayer(torch.nn.Linear):
    """A layer whose passes take a second by the clock from pass `fast` on."""

    def __init__(self, clock: Clock, fast: int) -> None:
        super().__init__(3, 3)
        self.clock, self.fast = clock, fast

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.clock.now, self.fast = self.clock.now + (self.fast <= 0), self.fast - 1
        return super().forward(input)


@pytest.mark.parametrize("fast", [0, 1, 5, 9])
def test_a_limit_ends_a_trial_midway(fast: int, clock: Clock) -> None:
    """A pass of loading's trials takes forty seconds; the limit is thirty."""
    model = torch.nn.Sequential(*[SlowLayer(clock, fast) for _ in range(40)])
    data = {"inputs": torch.randn(40, 3), "labels": torch.randn(40, 3)}
    evaluator = LLCEvaluator(max_seconds=30.0, step_size=1e-3, localization=10.0)
    with pytest.raises(OutOfTime, match="no draws: max_seconds stopped the run in load model and data"):
        evaluator.compute(model, data=data, loss_fn=lambda out, y: (out - y).square().sum(1), progress=False)
    assert clock.seconds <= 28.0
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_a_limit_ends_a_pass_of_the_losses_midway(clock: Clock, tmp_path: Path) -> None:
    """The second of them takes forty seconds; what the first found is kept."""
    model = torch.nn.Sequential(*[SlowLayer(clock, 1) for _ in range(40)])

    def losses(forward: Callable, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return forward(batch["x"]).square().sum(1)

    posterior = Posterior(Problem(model, {"x": torch.randn(8, 3)}, losses, n=8, unit="nats"), micro_batch_size=4)
    posterior.kept_losses = KeptLosses(tmp_path / "losses.safetensors", "seal", 0.0)
    with watching(Watch(max_seconds=30.0)), pytest.raises(OutOfTime, match=r"L_n\(w\*\), 4 of 8 examples"):
        _ = posterior.init_losses
    assert clock.seconds <= 10.0 and (tmp_path / "losses.safetensors").exists()


def test_losses_at_w_star_have_the_time_that_the_other_stages_do_not_need(clock: Clock) -> None:
    """They take 48 s of 90, and leave room for a calibration that is cut short and a few steps of each chain."""
    problem = timed(shifted_problem(H, num_examples=960, spread=0.5), clock)
    result = estimate_problem(problem, asked(max_seconds=90.0, micro_batch_size=4))
    assert clock.seconds <= 1.1 * 90 + 2 * PASS
    assert result.trace is not None and result.trace.shape[1] >= 4 and math.isfinite(result.llc)


def becoming_slow(problem: Problem, clock: Clock, *, passes: int, times: int) -> Problem:
    """`timed`, with passes that take so many times longer after the first ones."""
    calls = itertools.count()

    def losses(forward: Callable, batch: dict) -> torch.Tensor:
        clock.now += PASS if next(calls) < passes else times * PASS
        return problem.losses(forward, batch)

    return replace(problem, losses=losses)


@pytest.mark.parametrize(("times", "seconds"), [(4, 180.0), (20, 15.0)])
def test_losses_at_w_star_that_take_too_long_end_with_what_fits(times: int, seconds: float, clock: Clock) -> None:
    """Forecast are 24 s of 200. Where they would take more than twice the time that there is they end at once."""
    problem = becoming_slow(shifted_problem(H, num_examples=1440, spread=0.5), clock, passes=8, times=times)
    config = asked(max_seconds=200.0, step_size=1e-3, localization=10.0, micro_batch_size=4)
    with pytest.raises(OutOfTime, match=r"no draws.*L_n\(w\*\), .* of 1,440 examples.* max_examples"):
        estimate_problem(problem, config)
    assert seconds / 2 < clock.seconds < seconds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learnt", "settings", "early"),
    [(False, {}, True), (True, {}, False), (False, {"num_burnin_steps": 200, "num_draws": 200}, False)],
)
def test_a_model_that_has_learnt_nothing_ends_early(learnt: bool, settings: dict, early: bool) -> None:
    """After the fewest steps, and without a descent, unless the steps were asked for; its verdict is the same."""
    problem = shifted_problem(H, num_examples=40, spread=0.5)
    loss = Posterior(problem).init_loss
    problem.trivial_loss = loss + 1.0 if learnt else loss
    fixed = {"step_size": 1e-3, "localization": 10.0, "max_steps": 400, "num_chains": 2, "check_localization": False}
    result = estimate_problem(problem, asked(**fixed, **settings))
    assert result.trace is not None
    assert result.trace.shape[1] == (100 if early else 400)
    if not learnt:
        assert result.verdict == "not a minimum" and "no better than" in result.reasons[0].text
    assert any(reason.name == "ended early" for reason in result.reasons) == early


def test_draws_that_were_asked_for_are_not_hopeless() -> None:
    problem = shifted_problem(H, num_examples=40, spread=0.5)
    problem.trivial_loss = Posterior(problem).init_loss

    def run(**settings: object) -> Run:
        decided = decide_from_data(asked(**settings), problem)
        return Run(problem, decided, RunFolder("nowhere"), Processes())

    assert run().is_hopeless and not run(num_burnin_steps=200).is_hopeless
    observed = run()
    observed.observables = {"norm": cast(Observable, None)}
    assert not observed.is_hopeless


def test_what_is_left_of_a_run_that_ends_early_is_calibration_and_the_least(capsys: pytest.CaptureFixture[str]) -> None:
    new = Watch(show=True)
    calibrate = Range(10.0, 20.0, 30.0)
    new.plan = {
        "calibrate": calibrate, "descend": Range(1.0, 2.0, 3.0), "sample": Range(5.0, 8.0, 9.0),
        "check γ": Range(0.0, 5.0, 9.0),
    }  # fmt: skip
    new.seconds_each = 1.0
    with watching(new):
        expect_little(2.31, 2.303)
    assert new.plan == {"calibrate": calibrate, "sample": Range(5.0, 5.0, 5.0)}
    line = "the loss at w* is 2.31, and 2.303 of a constant predictor; the chains end early, about 25 s (15–35 s)"
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "times"),
    [
        (FirstLook(2.0, 1.0), 1.6),  # 1.5 (1 / .1)² = 150 draws in four chains: no more than the fewest
        (FirstLook(2.0, 3.0), 1.5 * 900 / 4 / 200),
        (FirstLook(2.0, 6.0), 5.0),  # 1,350 draws of each chain, whose 2,000 steps have room for 1,000
        (FirstLook(-1.0, 6.0), 1.0),
        (FirstLook(math.nan, math.nan), 1.6),
        (FirstLook(2.0, 1e200), 1.6),
    ],
)
def test_after_calibration_the_forecast_knows_the_draws_that_the_error_takes(first: FirstLook, times: float) -> None:
    """Times the fewest steps, 400; a λ̂ below zero ends with these."""
    posterior = Posterior(shifted_problem(H, num_examples=40, spread=0.5))
    sample = asked(
        num_chains=4, num_draws=200, target_se=0.05, step_size=1e-3, localization=1.0, gradient="plain", friction=1.0,
        chain_batch_size=1, compile=False, sampler="baoab",
    )  # fmt: skip
    settings, new = ChainSettings.of(sample), Watch(max_seconds=1e6)
    new.plan = {"check γ": Range(0.0, 0.0, 0.0)}
    with watching(new):
        expect_chains(posterior, settings, Processes(), work_of_chains, first=first)
    chains, check = new.plan["sample"], new.plan["check γ"]
    assert chains.guess == pytest.approx(times * chains.least) and chains.least <= chains.guess <= chains.most
    usual = work_of_chains(posterior, settings, Processes(), checks=True)["check γ"]
    assert check.most == usual.most and check.least <= check.guess <= check.most
    assert check.guess == pytest.approx(0.0 if first.llc < 0 else usual.guess * times / 1.6)


@pytest.mark.slow
def test_the_work_left_falls_and_does_not_start_over(clock: Clock) -> None:
    seen: list[float] = []
    problem = timed(power_problem(H), clock)
    inner = problem.losses

    def losses(forward: Callable, batch: dict) -> torch.Tensor:
        if math.isfinite(watch().time_left().most):
            seen.append(watch().time_left().most)
        return inner(forward, batch)

    config = asked(target_se=0.5, max_steps=800, num_chains=2, check_localization=False, max_seconds=1e6)
    estimate_problem(replace(problem, losses=losses), config)
    rises = [later - earlier for earlier, later in itertools.pairwise(seen) if later > earlier]
    assert seen[0] > 100 * PASS and seen[-1] < seen[0]
    assert sum(rises) < 0.25 * seen[0]  # calibration may find that a step takes two gradients


def test_lines_where_there_is_no_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    new = Watch(show=True, spell=lambda text: text.replace("λ̂", "llc"))
    new.plan, new.seconds_each = {"sample": Range(100.0, 150.0, 400.0)}, 1.0
    with new.stage("sample"):
        new.tick()
        assert capsys.readouterr().err == ""
        clock.now += 31
        new.spend(100)
        new.say(lambda: "λ̂ 3 ± 1")
        new.tick()
        new.tick()
    line = "hf_llc: sample 67%, llc 3 ± 1, about 16 s (0 s–1.6 min) left\n"
    assert capsys.readouterr().err == line + "hf_llc: sample: 31 s, llc 3 ± 1\n"


def test_a_share_is_of_the_guess_and_never_all(clock: Clock) -> None:
    new = Watch()
    new.plan = {"calibrate": Range(10.0, 20.0, 400.0), "check γ": Range(0.0, 0.0, 50.0)}
    with new.stage("calibrate") as stage:
        new.spend(10)
        assert stage.share == 0.5
        new.spend(100)
        assert stage.share == 0.99
    with new.stage("check γ") as stage:
        new.spend(10)
        assert stage.share == 0.2
    new.plan, new.seconds_each = {"check γ": Range(0.0, 0.0, 50.0)}, 1.0
    with new.stage("check γ", 40.0):
        assert new.time_left() == Range(40.0, 40.0, 40.0)  # what was not sure has begun
        new.spend(30)
        new.take_more(20.0)
        assert new.time_left() == Range(30.0, 30.0, 30.0)


def test_chains_that_double_their_draws_are_not_nearly_done(clock: Clock) -> None:
    new = Watch()
    new.plan, new.seconds_each = {"sample": Range(100.0, 125.0, 400.0)}, 1.0
    with new.stage("sample") as whole:
        with new.stage("sample", 100.0):
            new.spend(100)
        assert whole.share == 0.8
        with new.stage("sample", 200.0):
            assert whole.share == 0.5 and new.time_left() == Range(0.0, 100.0, 300.0)
        with new.stage("L_n(w*)", 1000.0):
            assert whole.share == 0.5


def test_time_left_is_told_from_all_stages(clock: Clock) -> None:
    """A stage that meets a busy machine is one of several."""
    new = Watch(show=True)
    new.plan = dict.fromkeys(("calibrate", "sample"), Range(100.0, 100.0, 100.0))
    with new.stage("calibrate"):
        clock.now += 100
        new.spend(100)
    assert new.time_left().guess == 100
    with new.stage("sample"):
        clock.now += 40
        new.spend(10)
        new.tick()
        assert new.time_left().guess == pytest.approx(90 * 140 / 110)


def test_what_is_said_of_chains_is_what_the_result_says(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """While they run no significant heat is taken off, of which nobody knows yet how much reaches λ̂."""
    draws = np.random.default_rng(0).normal(100.0, 1.0, (4, 50))
    assert describe(draws, 30.0).startswith("λ̂ 100.") and "less up to 30 of heat, r̂ " in describe(draws, 30.0)
    assert describe(draws, 1.0).startswith("λ̂ 99.") and "heat" not in describe(draws, 1.0)


def test_the_last_line_is_the_result(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def tick() -> None:
        clock.now += 0.05

    result = plain_run(SlowRows(clock, 0.0), tick, 1e3, progress=True)
    assert isinstance(result, LLCResult)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"hf_llc: {judged(result)}" and with_error(result.llc, result.llc_se) in line
    assert line.endswith(f": {result.verdict}")


@pytest.mark.parametrize(
    ("quiet", "imported", "said"), [(False, False, True), (False, True, False), (True, False, False)]
)
def test_a_slow_import_is_said(
    quiet: bool, imported: bool, said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, though a command with two steps hushes other packages before each."""
    monkeypatch.setattr(console, "_SILENCE", 0.0)
    monkeypatch.setattr(console, "_start_timer", functools.cache(console._start_timer.__wrapped__))
    if not imported:
        monkeypatch.delitem(sys.modules, "hf_llc.workflow.opened_run")
    for _ in range(2):
        console.hush(quiet)
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
    assert capsys.readouterr().err.count("importing torch") == said


def test_nothing_is_shown_or_computed_for_nobody() -> None:
    with watching(Watch()) as silent, silent.stage("sample"):
        silent.say(lambda: pytest.fail("a text was made that nobody sees"))
        silent.note("x")
        silent.tick()


def test_a_stage_within_another_counts_to_it() -> None:
    new = Watch()
    with new.stage("calibrate") as outer:
        new.spend(2)
        with new.stage("measure heat") as inner:
            new.spend(3)
        assert inner is outer and outer.done == 5


def test_calibration_does_not_tell_how_long_a_gradient_of_the_chains_takes(clock: Clock) -> None:
    """It does more besides. While it is under way its own pace counts, and that of the chains once they run."""
    new = Watch()
    new.seconds_each, new.plan = 1.0, dict.fromkeys(("calibrate", "sample"), Range(10.0, 10.0, 10.0))
    with new.stage("calibrate") as stage:
        clock.now += 20.0
        stage.done += 10.0
        new._learn(stage)
        assert new.seconds_each == 2.0
    assert new.seconds_each == 1.0 and new.time_left() == (10.0, 10.0, 10.0)
    with new.stage("sample") as stage:
        clock.now += 5.0
        stage.done += 10.0
    assert new.seconds_each == 0.5


@pytest.mark.parametrize(
    ("least", "most", "text"),
    [
        (0.2, 0.3, "about 0 s"),
        (40, 44, "about 44 s"),
        (20, 50, "20–50 s"),
        (50, 150, "50 s–2.5 min"),
        (200, 800, "3–13 min"),
        (3000, 40000, "50 min–11 h"),
        (math.nan, math.nan, ""),
    ],
)
def test_stretches_of_time(least: float, most: float, text: str) -> None:
    assert span(least, most) == text


def test_durations() -> None:
    assert [duration(x) for x in (0.4, 89, 90, 600, 5400, 86400)] == [
        "0 s",
        "89 s",
        "1.5 min",
        "10 min",
        "1.5 h",
        "24 h",
    ]


def test_the_estimates_of_a_command_share_its_time(clock: Clock) -> None:
    budget = Budget(100.0, begun=clock.now)
    assert budget.share(4) == 25.0
    clock.now += 20
    assert budget.share(2) == 40.0 and budget.share(1) == 80.0
    clock.now += 77
    assert budget.share(3) == 1.0 and Budget(None).share(3) is None
    clock.now += 60
    assert budget.share(3) == 0.0


def test_time_is_kept_for_the_end_of_a_command(clock: Clock) -> None:
    """Each part is late by two seconds: what is written after its limit. The last may be so, and the table too."""
    budget = Budget(100.0, begun=clock.now)
    for left in (4, 3, 2, 1):
        share = budget.share(left)
        assert share is not None
        clock.now += share + 2
    assert clock.seconds == pytest.approx(98.0)
    clock.now = clock.begun
    budget = Budget(100.0, begun=clock.now)
    assert budget.share(4) == 25.0
    clock.now += 60  # a long gradient: that much need not be kept
    assert budget.share(2) == 15.0


def test_a_forecast_has_a_guess_between_the_least_and_the_most(clock: Clock) -> None:
    problem = timed(shifted_problem(H, num_examples=40, spread=0.5), clock)
    new = Watch(max_seconds=1e6)
    with watching(new):
        run = Run(problem, decide_from_data(asked(minimize=True), problem), RunFolder("nowhere"), Processes())
    assert run.foretold is not None
    work = run.foretold.work
    assert list(work) == [
        "L_n(w*)",
        "minimize",
        "calibrate",
        "descend",
        "sample",
        "measure heat",
        "check γ",
    ]
    assert all(0 <= each.least <= each.guess <= each.most for each in work.values())
    assert new.seconds_each == pytest.approx(PASS / 4)  # of a batch of four
    text = Foretold(work, new.seconds_each, {"calibrate": 3 * 2**30}).lines()
    assert text[3].split()[0] == "calibrate" and text[3].endswith(", 3.0 GiB") and text[-1].endswith(", 3.0 GiB")
    assert run.asked.minimize


def test_peaks_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 weights of four bytes; 100 bytes an example, of which logits take 30; 8 a batch, 200 a pass, 64 in all."""
    monkeypatch.setattr("hf_llc.workflow.peak_memory._GAPS", 1.0)
    plan = Plan(1000, "cpu", 4000, 4000, 400, 800, "eight examples", 10**9)
    passes = Passes(100, 30, batch=8, most=200, examples=64, rows=10**6)
    found = peaks(plan, passes, SampleConfig(minimize=True, sampler="sgld"), descends=True)
    assert found == {
        "L_n(w*)": 4000 + 64 * (90 + 25),
        "minimize": 9 * 4000 + 64 * (90 + 25),
        "calibrate": 10 * 4000 + 800,
        "descend": 64 * 100 + (16 + 2 * 10) * 4000,
        "sample": plan.whole("sgld") - 4000,
    }
    noisy = peaks(plan, passes, SampleConfig(sampler="baoab"), descends=False)
    assert noisy["L_n(w*)"] == found["L_n(w*)"]
    assert noisy["calibrate"] - 10**6 == 15 * 4000 + 128 * 100
    assert noisy["sample"] - 10**6 == plan.whole("baoab") - 4000
    assert noisy["measure heat"] - 10**6 == 11 * 4000 + 128 * 100, "sixteen batches, drawn from 64 examples"
    asked_for = SampleConfig(sampler="sgld", step_size=1e-6, localization=1.0, gradient="control-variate")
    assert peaks(plan, passes, asked_for, descends=False)["sample"] - 10**6 == found["sample"]
    batched = peaks(plan, passes, replace(asked_for, chain_batch_size=3), descends=False)
    assert batched["sample"] - 10**6 == 3 * found["sample"]
    monkeypatch.setattr("hf_llc.workflow.peak_memory._GAPS", 1.5)
    assert passes.gradient(8) == 1200 and passes.gradient(200) == 1.5 * 200 * 100
    assert passes.gradient(201) == 1.65 * 200 * 100, "a second pass"
    monkeypatch.setattr("hf_llc.workflow.peak_memory._HEAP", 100)
    assert passes.gradient(8) == 3 * 8 * 30 + 1.5 * (800 - 3 * 8 * 30), "no gaps around large tensors"


@pytest.mark.parametrize(
    ("settings", "samples"),
    [({"num_draws": 30}, 1), ({"num_draws": 750}, 3), ({"num_draws": 4000}, 4), ({"sampler": "sgld"}, 0)],
)
def test_a_spectrum_costs_what_its_chains_pay_for(settings: dict, samples: int) -> None:
    """Sixteen gradients and a hundred a sample, a quarter of what the chains take; without heat there is none."""
    posterior = Posterior(shifted_problem(H, num_examples=40, spread=0.5))
    asked = {"sampler": "baoab", "batch_size": 4, "num_chains": 2, "num_burnin_steps": 0, "max_steps": 10_000}
    sample = SampleConfig(**{**asked, "num_steps_between_draws": 1, **settings})  # type: ignore[arg-type]
    heat = work_of_chains(posterior, sample, Processes(), checks=False).get("measure heat")
    expected = (16 + 100 * samples) * 4
    assert heat == (None if samples == 0 else (0, 0.75 * expected, expected))
    full = work_of_chains(posterior, replace(sample, batch_size=40), Processes(), checks=False)
    assert "measure heat" not in full, "all examples have no noise"


def test_a_watch_keeps_nothing_of_each_stage(clock: Clock) -> None:
    """The one of a process without a command lives as long as the process, and every L_n(w) is a stage of it."""
    new, sizes = Watch(), []
    for _ in range(50):
        with new.stage("forward pass") as stage:
            clock.now += 2.0
            stage.done += 4.0
        sizes.append(len(pickle.dumps(vars(new))))
    assert new.seconds_each == pytest.approx(0.5) and new.ended == {"forward pass": 200.0}
    assert max(sizes) - min(sizes) < 100


def test_a_large_model_is_timed_on_one_example(clock: Clock) -> None:
    problem = shifted_problem(H, num_examples=40, spread=0.5)
    seen: list[int] = []

    def losses(forward: Callable, batch: dict) -> torch.Tensor:
        found = problem.losses(forward, batch)
        seen.append(len(found))
        clock.now += 5.0 * len(found)
        return found

    posterior = Posterior(replace(problem, losses=losses))
    assert seconds_of_gradient(posterior, 8) == 40.0 and seen == [1]


def test_the_forward_pass_of_a_part_is_timed(clock: Clock) -> None:
    """The backward pass to a part of the weights is short: losses cost most of a gradient, not a third of it."""
    problem = shifted_problem(H, num_examples=40, spread=0.5)

    def losses(forward: Callable, batch: dict) -> torch.Tensor:
        found = problem.losses(forward, batch)
        clock.now += len(found)
        return found

    posterior = Posterior(replace(problem, losses=losses))
    assert cost_of_losses(posterior, 8, 10.0) == LOSS_COST
    posterior.problem = replace(posterior.problem, part=Part("w", {}))
    assert cost_of_losses(posterior, 8, 10.0) == 0.8
    posterior.loss_cost = 0.8
    assert work_before_chains(posterior, SampleConfig(batch_size=8, sampler="sgld"))["L_n(w*)"].guess == pytest.approx(
        32
    )
