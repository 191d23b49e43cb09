"""γ from above: a loss that is flat at w* and steep around it, whose λ̂ at any γ is an integral."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from targets import power_problem, sample

from hf_llc.calibration import calibrate as calibrate_module
from hf_llc.calibration.calibrate import calibrate
from hf_llc.calibration.ladder import strongest_localization
from hf_llc.config import SampleConfig
from hf_llc.judging.estimator import estimate
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.records.trace import Trace
from hf_llc.workflow.estimate_model import estimate_problem

D, NBETA, STEEP = 6, 100.0, 1e8
ASKED = SampleConfig(
    sampler="baoab", nbeta=NBETA, batch_size=4, num_chains=4, num_draws=100, max_steps=1000, chain_batch_size=4,
    check_localization=False,
)  # fmt: skip


def walled(*, trivial_loss: float | None = None) -> Problem:
    """½·10⁸ Σ w_i⁸: no curvature at w* = 0, and walls at a tenth of one."""
    problem = power_problem(torch.full((D,), STEEP), power=8)
    problem.trivial_loss = trivial_loss
    return problem


def exact(localization: float, steep: float = STEEP) -> float:
    """λ̂ by quadrature: the directions are independent."""
    w = np.linspace(-0.5, 0.5, 100_001)
    energy = NBETA * 0.5 * steep * w**8
    weight = np.exp(-energy - localization / 2 * w**2)
    return D * float((energy * weight).sum() / weight.sum())


@pytest.mark.slow
def test_a_flat_point_between_walls() -> None:
    """The pilot is thrown out at its weak γ; from above it comes to one that holds, and λ̂ there is right."""
    result = estimate_problem(walled(), ASKED)
    assert result.calibration is not None
    path = result.calibration["path"]
    assert not math.isfinite(path[0]["llc"]) and 1 < result.localization < 1000
    truth = exact(result.localization)
    assert abs(result.llc - truth) < 4 * result.llc_se and result.llc_se < 0.2 * truth


@pytest.mark.slow
def test_a_pilot_that_is_thrown_out_with_a_finite_loss_is_lost() -> None:
    """With this seed the last pilot ends at 7·10¹⁰ for λ̂, of 6 parameters: its curvature there is none to go by."""
    problem = walled()
    with preserved(problem.model):
        found = calibrate(Posterior(problem), replace(ASKED, seed=10))
    assert 1 < found["localization"] < 5000 and found["step_size"] > 1e-7
    assert max(row["llc"] for row in found["path"] if math.isfinite(row["llc"])) > 1e9  # it was


@pytest.mark.slow
def test_the_error_is_true_between_walls() -> None:
    """(λ̂ − truth)/se over 100 estimates of four chains: the sd itself has an error of 0.07."""
    nbeta, localization, step_size, friction, steps = NBETA, 10.0, 2.4e-5, 0.05, 1000
    trace = sample(
        walled(), sampler="baoab", step_size=step_size, friction=friction, nbeta=nbeta, localization=localization,
        num_chains=400, steps=steps,
    )  # fmt: skip
    z, found = [], []
    for first in range(0, 400, 4):
        part = Trace(**{f.name: getattr(trace, f.name)[first : first + 4] for f in fields(Trace)})
        each = estimate(
            part, nbeta=nbeta, init_loss=0.0, localization=localization, step_size=step_size, is_exact=False,
            num_burnin_steps=steps // 2, num_steps_between_draws=5, is_full=True,
        )  # fmt: skip
        found.append(each.llc)
        z.append((each.llc - exact(localization)) / each.llc_se)
    assert 0.85 < np.std(z) < 1.15 and abs(np.mean(z)) < 0.3
    assert np.mean(found) == pytest.approx(exact(localization), rel=0.02)


@pytest.mark.slow
def test_without_the_ladder_it_diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate_module, "is_lost", lambda pilot: False)
    assert estimate_problem(walled(), ASKED).verdict == "diverged"


@pytest.mark.slow
def test_a_rung_that_loses_the_model_is_not_taken() -> None:
    """A quarter of the way to the loss of a constant predictor is too far: γ stays stronger."""
    found = {}
    for trivial_loss in (None, 2e-3):
        problem = walled(trivial_loss=trivial_loss)
        with preserved(problem.model):
            found[trivial_loss] = calibrate(Posterior(problem), ASKED)["localization"]
            strongest = strongest_localization(Posterior(problem))
    assert found[2e-3] > 2 * found[None] and exact(found[2e-3]) < 0.2 * NBETA * 2e-3 < exact(found[2e-3] / 16)
    assert found[2e-3] < strongest == D / 0.01**2


def test_a_given_localization_is_kept_and_the_step_size_falls() -> None:
    """Walls at a fiftieth of one: the pilot is thrown out in all its blocks, and again begins with a smaller ε."""
    steep = 1e14
    problem = power_problem(torch.full((D,), steep), power=8)
    with preserved(problem.model):
        found = calibrate(Posterior(problem), replace(ASKED, localization=60.0))
    first, last = found["path"][:4], found["path"][4:]
    assert not any(math.isfinite(row["llc"]) for row in first) and last[-1]["step_size"] < first[-1]["step_size"] / 16
    assert found["localization"] == 60.0 and 0 < last[-1]["llc"] < 3 * exact(60.0, steep)


def test_a_sound_pilot_and_a_given_localization_have_no_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate_module, "come_from_above", lambda pilot: pytest.fail("a ladder"))
    problem = power_problem(torch.linspace(0.5, 2.0, D))
    with preserved(problem.model):
        calibrate(Posterior(problem), ASKED)
