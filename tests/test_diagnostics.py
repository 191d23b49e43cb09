"""Diagnostics on series whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import signal as filters
from scipy import stats

from hf_llc.config import SampleConfig
from hf_llc.judging import statistics
from hf_llc.judging.estimator import estimate
from hf_llc.judging.remedies import Asked
from hf_llc.records.findings import Estimate
from hf_llc.records.trace import Trace


def ar1(rho: float, *, chains: int, draws: int, seed: int = 0) -> np.ndarray:
    """Stationary AR(1) chains of unit variance."""
    noise = np.random.default_rng(seed).standard_normal((chains, draws + 500)) * math.sqrt(1 - rho**2)
    return filters.lfilter([1.0], [1.0, -rho], noise, axis=1)[:, 500:]


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_standard_error_of_an_ar1_series(rho: float) -> None:
    """Var of the mean of N draws tends to (1 + ρ)/(1 − ρ)/N."""
    chains, draws = 4, 4000
    truth = math.sqrt((1 + rho) / (1 - rho) / (chains * draws))
    errors = [statistics.standard_error(ar1(rho, chains=chains, draws=draws, seed=s)) for s in range(10)]
    assert np.mean(errors) == pytest.approx(truth, rel=0.08)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_effective_sample_size_of_an_ar1_series(rho: float) -> None:
    """N (1 − ρ)/(1 + ρ)."""
    sizes = [statistics.ess(ar1(rho, chains=4, draws=4000, seed=s)) for s in range(10)]
    assert np.mean(sizes) == pytest.approx(16_000 * (1 - rho) / (1 + rho), rel=0.08)


def r_hat_by_hand(draws: np.ndarray) -> float:
    """Vehtari et al. 2021, eq. 1–4 and 14: of split chains, of normal scores, the larger of bulk and folded."""
    half = draws.shape[1] // 2
    halves = np.concatenate([draws[:, :half], draws[:, -half:]])

    def of_scores(x: np.ndarray) -> float:
        scores = stats.norm.ppf((stats.rankdata(x) - 3 / 8) / (x.size + 1 / 4)).reshape(x.shape)
        within = scores.var(axis=1, ddof=1).mean()
        between = scores.mean(axis=1).var(ddof=1)
        return math.sqrt((half - 1) / half + between / within)

    return max(of_scores(halves), of_scores(np.abs(halves - np.median(halves))))


@pytest.mark.slow
def test_errors_of_oscillating_draws_are_true() -> None:
    """Energies of eight oscillators with little friction, whose correlation falls to zero and rises again and again."""
    turn, rng = np.exp(-0.025 + 0.5j), np.random.default_rng(3)
    noise = rng.standard_normal((100, 4, 8, 500)) + 1j * rng.standard_normal((100, 4, 8, 500))
    paths = filters.lfilter([math.sqrt(1 - abs(turn) ** 2)], [1, -turn], noise, axis=-1)[..., 300:]
    energies = np.square(paths.real).sum(axis=2) / 2
    z = [(draws.mean() - 4) / statistics.standard_error(draws) for draws in energies]
    assert 0.85 < math.sqrt(np.mean(np.square(z))) < 1.2


@pytest.mark.parametrize("apart", [0.0, 0.3, 2.0])
def test_r_hat_by_hand(apart: float) -> None:
    x = ar1(0.3, chains=4, draws=200) + apart * np.arange(4)[:, None]
    assert statistics.r_hat(x) == pytest.approx(r_hat_by_hand(x), rel=1e-6)
    wide = ar1(0.3, chains=4, draws=200) * np.array([1, 1, 1, 1 + 2 * apart])[:, None]  # the same mean, another spread
    assert statistics.r_hat(wide) == pytest.approx(r_hat_by_hand(wide), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("chains", [1, 2, 3, 4, 8])
def test_standard_error_is_true_for_few_chains(chains: int) -> None:
    """z = mean/se has sd near 1 over 300 repeats with 60 effective draws a chain."""
    z = [
        x.mean() / statistics.standard_error(x)
        for x in (ar1(0.7, chains=chains, draws=340, seed=s) for s in range(300))
    ]
    assert 0.9 < np.std(z, ddof=1) < 1.12


def test_chains_that_disagree_widen_the_error() -> None:
    x = ar1(0.0, chains=4, draws=500) * 0.1 + np.array([0.0, 1.0, 2.0, 3.0])[:, None]
    assert statistics.standard_error(x) == pytest.approx(np.std([0, 1, 2, 3], ddof=1) / 2, rel=0.01)
    assert statistics.r_hat(x) == pytest.approx(r_hat_by_hand(x)) and statistics.r_hat(x) > 2


def test_constant_draws_carry_no_information() -> None:
    assert statistics.ess(np.ones((4, 100))) == 0
    assert math.isnan(statistics.standard_error(np.ones((4, 100))))
    assert statistics.stuck_chains(np.vstack([np.ones(50), np.arange(50.0)])) == [0]


def test_block_means_keep_the_mean() -> None:
    x = np.arange(24.0).reshape(2, 12)
    np.testing.assert_allclose(statistics.block_means(x, 4), [[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]])
    np.testing.assert_allclose(statistics.block_means(x, 5), [[4.0, 9.0], [16.0, 21.0]])


def trace_of(
    excess: np.ndarray, *, nbeta: float = 100.0, init: float = 1.0, accept: float = 0.93, grad_dot: float = 0.0
) -> Trace:
    """A trace with nβ(L_B(w_t) − L_B(w*)) = `excess`."""
    full = np.full_like(excess, init)
    rng = np.random.default_rng(1)
    return Trace(
        loss=init + excess / nbeta,
        init_loss=full,
        accept_prob=np.full_like(excess, accept),
        sq_distance=rng.random(excess.shape),
        grad_dot=np.full_like(excess, grad_dot),
    )


def verdict(excess: np.ndarray, *, trivial_loss: float | None = None, step_size: float = 1e-3, **kw) -> tuple[str, str]:
    found = estimate(
        trace_of(excess, **kw),
        nbeta=100.0,
        init_loss=1.0,
        localization=1.0,
        step_size=step_size,
        is_exact=False,
        num_burnin_steps=excess.shape[1] // 2,
        num_steps_between_draws=1,
        trivial_loss=trivial_loss,
    )
    return found.verdict, " ".join(r.text + r.remedy for r in found.reasons if r.name != "heat capacity")


def relaxing(*, level: float, time: float, steps: int = 800, noise: float = 2.0, seed: int = 0) -> np.ndarray:
    """Four chains that climb to `level` with the given relaxation time."""
    return level * (1 - np.exp(-np.arange(steps) / time)) + noise * ar1(0.5, chains=4, draws=steps, seed=seed)


def test_good_chains_are_trusted() -> None:
    assert verdict(relaxing(level=50, time=20)) == ("trustworthy", "")


@pytest.mark.slow
def test_each_ill_has_its_name() -> None:
    good = relaxing(level=50, time=20)
    broken = good.copy()
    broken[2, 500:] = np.nan
    name, text = verdict(broken)
    assert name == "diverged" and "chain 2" in text and "step 500" in text
    assert verdict(relaxing(level=50, time=600))[0] == "drifting"
    assert verdict(good - 60)[0] == "not a minimum"  # before "negative", which it is too
    name, text = verdict(relaxing(level=-1, time=20, noise=8.0))
    assert name == "negative" and "is below zero" in text and "set minimize" in text
    dips = good - 70 * np.exp(-((np.arange(800) - 60) ** 2) / 800)
    assert verdict(dips)[0] == "not a minimum"
    assert verdict(good, trivial_loss=1.7)[0] == "left the basin"  # mean loss 1.5 of 1.0 … 1.7
    assert verdict(good, trivial_loss=3.0)[0] == "trustworthy"
    assert verdict(good, trivial_loss=0.9)[0] == "not a minimum"
    stuck = good.copy()
    stuck[1] = 7.0
    assert verdict(stuck)[0] == "stuck"
    assert verdict(good + np.array([0, 0, 30, 60])[:, None] * (np.arange(800) > 100))[0] == "chains disagree"
    assert verdict(good, accept=0.3)[0] == "step size too large"
    assert verdict(good, grad_dot=100 * 8 / 1e-3)[0] == "step size too large"
    assert verdict(good, grad_dot=1 * 8 / 1e-3)[0] == "trustworthy"
    assert verdict(relaxing(level=1, time=20, noise=8.0))[0] == "too few draws"


def climbing(*, rate: float, burnin: int, draws: int, noise: float, seed: int, level: float = 400.0) -> np.ndarray:
    """nβL of two chains that start at a minimum and relax at `rate` a step, under the noise of minibatches."""
    time = np.arange(burnin + draws)
    slow = ar1(math.exp(-rate), chains=2, draws=burnin + draws, seed=seed)
    rng = np.random.default_rng(seed + 10_000)
    return level * (1 - np.exp(-rate * time)) + slow + noise * rng.standard_normal(slow.shape)


def judged(excess: np.ndarray, burnin: int, *, rate: float, asked: Asked | None = None) -> Estimate:
    return estimate(
        trace_of(excess), nbeta=100.0, init_loss=1.0, localization=1.0, step_size=rate, is_exact=True,
        num_burnin_steps=burnin, num_steps_between_draws=1, asked=asked,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("drop", "error", "is_noted"),
    [(0.0, 0.1, False), (0.0, 2.0, True), (-8.5, 12.2, True), (4.0, 1.0, False), (30.0, 3.0, False)],
)
def test_a_descent_that_cannot_tell_is_noted(drop: float, error: float, is_noted: bool) -> None:
    """λ̂ is about 50, so that a fall of 5 and more would be named; the last one is, by the verdict."""
    excess = climbing(rate=0.1, burnin=200, draws=400, noise=0.5, seed=0, level=50)
    found = estimate(
        trace_of(excess), nbeta=100.0, init_loss=1.0, localization=1.0, step_size=0.1, is_exact=True,
        num_burnin_steps=200, num_steps_between_draws=1, descent={"loss_drop": drop, "loss_drop_se": error},
    )  # fmt: skip
    assert found.llc == pytest.approx(50, rel=0.02)
    assert ("minimum not known" in [reason.name for reason in found.reasons if reason.is_note]) is is_noted
    assert (found.verdict == "not a minimum") is (drop == 30.0)


def test_what_a_short_burnin_leaves_out_is_known_exactly_where_all_directions_relax_alike() -> None:
    burnin, draws, rate = 40, 40, 0.08
    alike = climbing(rate=rate, burnin=burnin, draws=draws, noise=0.1, seed=0, level=4000)
    found = statistics.unrelaxed(alike, burnin, rate)
    missing = 4000 * np.exp(-rate * np.arange(burnin, burnin + draws)).mean()
    assert found == pytest.approx(missing, rel=0.02)
    faster = climbing(rate=2 * rate, burnin=burnin, draws=draws, noise=0.1, seed=0, level=4000)
    assert statistics.unrelaxed(faster, burnin, rate) > 4000 * np.exp(-2 * rate * np.arange(burnin, 80)).mean()
    assert statistics.unrelaxed(faster, burnin, 1e-4) == 0  # there the distance tells, or nothing does
    assert statistics.unrelaxed(faster, burnin, math.nan) == 0


@pytest.mark.slow
def test_the_error_holds_what_a_short_burnin_leaves_out() -> None:
    """λ̂ of 80 draws, burn-in of 1.6 and .8 relaxation times: the errors without it fail more often than not."""
    for burnin, noise in ((40, 5.0), (20, 60.0)):
        z: list[tuple[float, float]] = []
        for seed in range(20):
            excess = climbing(rate=0.08, burnin=burnin, draws=40, noise=noise, seed=seed)
            found, alone = judged(excess, burnin, rate=0.08), statistics.standard_error(excess[:, burnin:])
            z.append(((found.llc - 400) / found.llc_se, (found.llc - 400) / alone))
        new, old = np.abs(np.array(z)).T
        assert np.mean(old > 2) > 0.5 > 0.1 > np.mean(new > 2)


@pytest.mark.slow
def test_a_burnin_of_many_relaxation_times_adds_nothing() -> None:
    for seed in range(10):
        excess = climbing(rate=0.08, burnin=200, draws=200, noise=20.0, seed=seed)
        found = judged(excess, 200, rate=0.08)
        assert found.llc_se == pytest.approx(statistics.standard_error(excess[:, 200:]), rel=1e-3)
        assert "short burn-in" not in [reason.name for reason in found.reasons]


@pytest.mark.parametrize(("setting", "remedy"), [
    (50, "raise num_burnin_steps from 50 to 100"), ("auto", "raise max_steps from 4,000 to 8,000"),
])  # fmt: skip
def test_a_short_burnin_is_noted_with_how_long_it_must_be(setting: Any, remedy: str) -> None:
    asked = Asked(SampleConfig(num_burnin_steps=setting, localization=1.0, max_steps=4000))
    excess = climbing(rate=0.08, burnin=50, draws=50, noise=5.0, seed=0)
    note = next(r for r in judged(excess, 50, rate=0.08, asked=asked).reasons if r.name == "short burn-in")
    assert note.is_note and "flat directions relax in 25 steps" in note.text
    assert note.remedy == remedy
    still = judged(climbing(rate=0.08, burnin=100, draws=100, noise=5.0, seed=0), 100, rate=0.08, asked=asked)
    assert "short burn-in" not in [reason.name for reason in still.reasons]


@pytest.mark.slow
@pytest.mark.parametrize("is_measured", [True, False], ids=["every step", "every 20th"])
def test_chains_that_still_spread_carry_what_may_be_missing(is_measured: bool) -> None:
    """λ̂ climbs by 4 each time that the steps double, too slowly for its own draws to show; the distance tells."""
    steps = np.arange(1, 1601)
    excess = 50 + 4 * np.log2(steps / 1600) + 2 * ar1(0.5, chains=4, draws=1600, seed=3)
    found: dict[str, Any] = {}
    for kind in ("still", "done", "stiffer"):
        trace = trace_of(excess)
        if kind == "stiffer":
            trace.step_size = np.full(excess.shape, 0.25e-6)
        trace.sq_distance = (16.0 if kind == "done" else steps / 100) + ar1(0.5, chains=4, draws=1600, seed=4) / 10
        if not is_measured:
            trace.sq_distance[:, np.arange(1600) % 20 != 0] = np.nan
        found[kind] = estimate(
            trace, nbeta=100.0, init_loss=1.0, localization=1.0, step_size=1e-6, is_exact=False,
            num_burnin_steps=800, num_steps_between_draws=1,
        )  # fmt: skip
    still, done, stiffer = found["still"], found["done"], found["stiffer"]
    grown = 4 * (np.log2(steps[800:]).mean() - np.log2(steps[400:800]).mean())
    assert still.llc == done.llc and done.llc_se < grown / 4
    assert still.llc_se == pytest.approx(math.hypot(done.llc_se, grown), rel=0.05)
    assert [r.name for r in still.reasons if "spread" in r.name] == ["still spreading"]
    assert not [r for r in done.reasons if "spread" in r.name]
    doublings = math.log2(4 / (0.25e-6 * 1600))  # until 4/(εγ) steps: λ̂ would then be 4 times as many higher
    assert stiffer.llc_se == pytest.approx(math.hypot(done.llc_se, grown * doublings), rel=0.05)
    assert f"{doublings:.1f} times" in next(r.text for r in stiffer.reasons if r.name == "still spreading")


@pytest.mark.parametrize(
    ("share", "localization", "is_named"), [(0.2, 1.0, True), (0.9, 1.0, False), (0.2, 99.0, False)]
)
def test_steps_that_fell_far_are_named_where_soft_directions_need_longer(
    share: float, localization: float, is_named: bool
) -> None:
    """1,000 draws at ε = 0.2·1e-3 relax curvatures from 8/(0.2·1e-3·1000) = 40 on."""
    trace = trace_of(10 + ar1(0.5, chains=4, draws=1000))
    trace.step_size = np.full((4, 1000), share * 1e-3)
    settings = {
        "nbeta": 100.0,
        "init_loss": 1.0,
        "is_exact": False,
        "num_burnin_steps": 0,
        "num_steps_between_draws": 1,
    }
    found = estimate(trace, localization=localization, step_size=1e-3, **settings)
    named = [reason for reason in found.reasons if reason.name == "stiffer than at w*"]
    assert len(named) == is_named and (not is_named or ("20%" in named[0].text and "below 40" in named[0].text))


def test_localization_that_decides_is_named() -> None:
    """Energy and distance that move together as they do when γ, not the loss, bounds the chain."""
    rng = np.random.default_rng(0)
    distance = rng.gamma(5.0, size=(4, 4000))
    excess = 2.0 * distance  # λ̂ = 10; with weights exp(−γ/2 r²) r² is Gamma(5) at scale 1/(1 + γ/2): λ̂ = 10/(1 + γ/2)
    trace = trace_of(excess)
    trace.sq_distance = distance
    found = estimate(
        trace,
        nbeta=100.0,
        init_loss=1.0,
        localization=2.0,
        step_size=1e-3,
        is_exact=False,
        num_burnin_steps=0,
        num_steps_between_draws=1,
    )
    assert found.localization_sensitivity["doubled"] == pytest.approx(-5.0, rel=0.1)
    assert found.verdict == "localization dominates"


@pytest.mark.parametrize(("curvature", "verdict"), [(0.02, "localization dominates"), (1e4, "trustworthy")])
def test_a_steady_loss_shows_that_localization_holds_the_chains(curvature: float, verdict: str) -> None:
    """200 directions x = nβh/(nβh + γ) add x/2 each to λ̂ and x²/2 each to the variance of nβL.

    The change at 2γ is said to be −32 % (error 6 %): too near to −40 % and to −50 % to tell.
    """
    x = curvature / (curvature + 1.0)
    excess = 100 * x + math.sqrt(100) * x * ar1(0.9, chains=4, draws=4000)
    change = -0.32 * 100 * x
    found = estimate(
        trace_of(excess),
        nbeta=100.0,
        init_loss=1.0,
        localization=1.0,
        step_size=1e-3,
        is_exact=False,
        num_burnin_steps=0,
        num_steps_between_draws=1,
        localization_check={"halved": -change, "halved_se": 6 * x, "doubled": change, "doubled_se": 6 * x},
    )
    assert found.verdict == verdict
    assert any("variance of nβL" in reason.text for reason in found.reasons) == (verdict != "trustworthy")


def test_plain_and_paired_estimators_agree_where_batches_are_full() -> None:
    trace = trace_of(relaxing(level=50, time=20))
    found = estimate(
        trace,
        nbeta=100.0,
        init_loss=1.0,
        localization=1.0,
        step_size=1e-3,
        is_exact=False,
        num_burnin_steps=400,
        num_steps_between_draws=2,
    )
    draws = (100 * (trace.loss - trace.init_loss))[:, 400:].reshape(4, 200, 2).mean(axis=2)
    assert found.r_hat == pytest.approx(r_hat_by_hand(draws), rel=1e-6)
    assert found.ess == pytest.approx(800 * (draws.std() / found.llc_se) ** 2 / 800, rel=0.02)  # se² = var/ESS
    assert found.accept_prob == pytest.approx(0.93)
    assert found.plateau["drift"] == pytest.approx(draws[:, 100:].mean() - draws[:, :100].mean())
    assert found.llc == pytest.approx(found.llc_plain)
    assert found.llc == pytest.approx(np.mean(found.llc_per_chain))
    assert found.llc == pytest.approx(100 * (found.mean_loss - 1))


def test_four_noisy_chains_at_a_minimum_hardly_ever_seem_to_fall_below_it() -> None:
    """Of 50 windows the lowest is one whose four chains happen to agree; a true fall is seen all the same."""
    rng = np.random.default_rng(0)
    noise = 10 * rng.standard_normal((400, 4, 500))
    falls = 20 * np.exp(-np.arange(500) / 20) + 8 * (np.arange(500) < 60)

    def alarms(excess: np.ndarray, llc: float) -> float:
        return np.mean([statistics.is_dipping(statistics.deepest_dip(x), llc, 1.0) for x in excess])

    assert alarms(noise + 1, 1.0) <= 0.005  # 0.1 by the spread of the lowest window alone
    assert alarms(noise + 8 - falls, 8.0) >= 0.97
