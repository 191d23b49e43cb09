"""Which share of the gradient noise reaches λ̂: against what it is on quadratics, and in a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from targets import expected_llc, shifted_problem

from hf_llc.calibration.noise_spectrum import gradients_of, heat_error, heating_share, noise_spectrum
from hf_llc.config import SampleConfig
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.progress import Watch, watching
from hf_llc.workflow import heat_share
from hf_llc.workflow.estimate_model import estimate_problem

NBETA = 100.0


def test_share_of_a_quadratic() -> None:
    """Noise that is equally strong everywhere: the mean of nβh/(nβh + γ), at every γ."""
    h = torch.cat([torch.full((300,), 0.01), torch.full((300,), 1.0), torch.full((20,), 50.0)])
    problem = shifted_problem(h, num_examples=1000, spread=1.0)
    with preserved(problem.model):
        posterior = Posterior(problem)
        law = Law(nbeta=NBETA, localization=1.0)
        spectrum = noise_spectrum(posterior, law, posterior.start(1), seed=0, batch_size=4, gradient="plain")
    for localization in (0.0, 0.1, 1.0, 30.0, 1e4):
        exact = float((NBETA * h / (NBETA * h + localization)).mean())
        assert heating_share(spectrum, localization) == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize(("localization", "samples"), [(1.0, 1), (100.0, 4)])
def test_several_samples_where_much_of_the_noise_does_not_count(localization: float, samples: int) -> None:
    """One sample where nearly all of it heats λ̂, four where γ holds a half of it; each costs its products alone."""
    problem = shifted_problem(torch.ones(100), num_examples=400, spread=1.0)
    with preserved(problem.model):
        posterior = Posterior(problem)
        law = Law(nbeta=NBETA, localization=localization)
        with watching(Watch()) as watch, watch.stage("measure heat") as stage:
            spectrum = noise_spectrum(posterior, law, posterior.start(1), seed=0, batch_size=4, gradient="plain")
    assert {number for *_, number in spectrum} == set(range(samples))
    # One gradient of 16 minibatches for all samples; of each, six products with their Hessian, and the noise.
    assert gradients_of(spectrum) == 16 + samples * (6 * 16 + 4)
    assert stage.done / 4 == 16 + samples * (6 * 16 + 2)  # a plain gradient's noise costs two, a control variate's four
    assert sum(weight for _, weight, _ in spectrum) == pytest.approx(1.0)
    assert heating_share(spectrum, localization) == pytest.approx(NBETA / (NBETA + localization), abs=0.02)


def test_error_of_the_share_is_its_spread_over_the_samples() -> None:
    """Two samples of equal power, all and none of which heats λ̂: ω is ½ ± ½, of a heat of 2."""
    spectrum = [[1e300, 0.5, 0], [0.0, 0.5, 1]]
    trace: Any = SimpleNamespace(heat=np.array([[9.0, 1.0, np.nan, 3.0]]))
    assert heating_share(spectrum, 3.0) == 0.5
    assert heat_error(trace, spectrum, 3.0, num_burnin_steps=1) == pytest.approx(1.0)
    assert heat_error(trace, spectrum[:1], 3.0, num_burnin_steps=1) == 0.0


def test_without_noise_all_of_it_counts() -> None:
    """What cannot be told is taken as it was: all of the heat at every γ."""
    problem = shifted_problem(torch.ones(50), num_examples=100, spread=0.0)
    with preserved(problem.model):
        posterior = Posterior(problem)
        law = Law(nbeta=NBETA, localization=1.0)
        spectrum = noise_spectrum(posterior, law, posterior.start(1), seed=0, batch_size=4, gradient="plain")
    assert heating_share(spectrum, 7.0) == pytest.approx(1.0)


@pytest.mark.slow
def test_heat_of_directions_that_localization_holds_is_not_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most noise lies where γ holds the chain: λ̂ is right with the share, and far too low without it."""
    h = torch.cat([torch.full((40,), 2.0), torch.full((760,), 0.002)])
    problem = shifted_problem(h, num_examples=1000, spread=0.055)
    asked = SampleConfig(
        sampler="baoab", step_size=0.002, friction=0.3, gradient="plain", nbeta=NBETA, localization=20.0, batch_size=4,
        num_chains=4, num_burnin_steps=600, num_draws=1500, chain_batch_size=4, check_localization=False,
    )  # fmt: skip
    exact = expected_llc(h.numpy(), sampler="exact", step_size=0.0, nbeta=NBETA, localization=20.0)
    result = estimate_problem(problem, asked)
    assert abs(result.llc - exact) < 4 * result.llc_se and result.llc_se < 0.03 * exact
    monkeypatch.setattr(heat_share, "heating_share", lambda spectrum, localization: 1.0)
    other = estimate_problem(problem, asked)
    assert other.llc < 0.75 * exact
