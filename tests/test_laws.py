"""Every sampler against the law it must have, exactly, at finite step size; and each check against planted faults."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from faults import doubled_noise, lost_localization, wrong_n
from targets import assert_mean, draws_of, expected_llc, power_problem, sample

from hf_llc.backend.random_streams import NoiseStream
from hf_llc.judging import statistics
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.samplers import langevin, make_kernel
from hf_llc.samplers.walk import Walk

H = torch.linspace(0.2, 2.0, 6)
NBETA, GAMMA = 25.0, 3.0


def _quadratic(sampler: str, step_size: float, *, localization: float = GAMMA, chains: int = 50, seed: int = 0) -> None:
    trace = sample(
        power_problem(H),
        sampler=sampler,
        step_size=step_size,
        nbeta=NBETA,
        localization=localization,
        num_chains=chains,
        steps=600,
        seed=seed,
    )
    truth = expected_llc(H.numpy(), sampler=sampler, step_size=step_size, nbeta=NBETA, localization=localization)
    assert_mean(draws_of(trace, nbeta=NBETA, burnin=200), truth)


@pytest.mark.slow
@pytest.mark.parametrize("localization", [0.0, 3.0, 30.0])
@pytest.mark.parametrize(("sampler", "step_size"), [("sgld", 0.01), ("sgld", 0.04), ("mala", 0.01), ("mala", 0.04)])
def test_quadratic_law(sampler: str, step_size: float, localization: float) -> None:
    """λ̂ of a quadratic, for SGLD with its finite-step excess; d/2 for MALA at γ = 0."""
    _quadratic(sampler, step_size, localization=localization)


@pytest.mark.slow
def test_sgld_and_mala_laws_differ_at_this_step() -> None:
    """The check can tell SGLD's law from the exact one: MALA's truth is refused for SGLD's draws."""
    trace = sample(
        power_problem(H), sampler="sgld", step_size=0.04, nbeta=NBETA, localization=GAMMA, num_chains=50, steps=600
    )
    exact = expected_llc(H.numpy(), sampler="mala", step_size=0.04, nbeta=NBETA, localization=GAMMA)
    with pytest.raises(AssertionError, match="standard errors"):
        assert_mean(draws_of(trace, nbeta=NBETA, burnin=200), exact)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "step_size", "steps"), [(1, 0.5, 600), (2, 0.6, 2000)])
def test_monomial_law(k: int, step_size: float, steps: int) -> None:
    """L = w^{2k} at γ = 0: E[nβL] = 1/(2k) exactly, at every nβ."""
    h = torch.tensor([2.0])  # ½·h·w^{2k}
    trace = sample(
        power_problem(h, power=2 * k),
        sampler="mala",
        step_size=step_size,
        nbeta=2.0,
        localization=0.0,
        num_chains=100,
        steps=steps,
    )
    assert_mean(draws_of(trace, nbeta=2.0, burnin=steps // 4), 1 / (2 * k))


@pytest.mark.slow
def test_flat_monomial_law() -> None:
    """L = w^6: E[nβL] = 1/6, with heavy correlation."""
    trace = sample(
        power_problem(torch.tensor([2.0]), power=6),
        sampler="mala",
        step_size=0.4,
        nbeta=2.0,
        localization=0.0,
        num_chains=200,
        steps=6000,
    )
    assert_mean(draws_of(trace, nbeta=2.0, burnin=1500), 1 / 6)


@pytest.mark.slow
def test_variance_of_the_energy() -> None:
    """MALA on a quadratic: Var of nβ(L − L*) is ½ Σ (nβh_i/a_i)²."""
    trace = sample(
        power_problem(H), sampler="mala", step_size=0.04, nbeta=NBETA, localization=GAMMA, num_chains=100, steps=800
    )
    draws = draws_of(trace, nbeta=NBETA, burnin=200)
    a = NBETA * H.numpy() + GAMMA
    mean = (0.5 * NBETA * H.numpy() / a).sum()
    assert_mean((draws - mean) ** 2, float((0.5 * (NBETA * H.numpy() / a) ** 2).sum()))


@pytest.mark.slow
def test_step_size_bias_is_the_exact_excess_on_a_quadratic() -> None:
    """(ε/8)·E⟨nβ∇L, ∇U⟩ equals SGLD's λ̂ minus the exact one."""
    law = {"nbeta": NBETA, "localization": GAMMA}
    trace = sample(power_problem(H), sampler="sgld", step_size=0.04, num_chains=200, steps=1400, **law)
    measured = trace.grad_dot[:, 200:]
    measured = measured[:, np.isfinite(measured[0])]
    excess = expected_llc(H.numpy(), sampler="sgld", step_size=0.04, **law) - expected_llc(
        H.numpy(), sampler="mala", step_size=0.04, **law
    )
    assert_mean(0.04 / 8 * measured, excess)
    assert statistics.step_size_bias(trace.grad_dot[:, 200:], 0.04) == pytest.approx((0.04 / 8 * measured).mean())


@pytest.mark.slow
def test_localization_reweighted() -> None:
    """λ̂ at γ/2 and 2γ from the draws at γ, against ½ Σ nβh_i/(nβh_i + γ′)."""
    trace = sample(
        power_problem(H), sampler="mala", step_size=0.04, nbeta=NBETA, localization=10.0, num_chains=200, steps=2000
    )
    excess = NBETA * (trace.loss - trace.init_loss)
    found = statistics.reweighted(excess[:, 200:], trace.sq_distance[:, 200:], 10.0)
    energy = NBETA * H.numpy()

    def llc(gamma: float) -> float:
        return float((0.5 * energy / (energy + gamma)).sum())

    for name, gamma in (("halved", 5.0), ("doubled", 20.0)):
        truth = llc(gamma) - llc(10.0)
        assert found[f"{name}_se"] < 0.1 * abs(truth)
        assert abs(found[name] - truth) < 4 * found[f"{name}_se"]


def _walk(problem, *, chains: list[int], w: torch.Tensor | None = None) -> Walk:
    law = Law(nbeta=NBETA, localization=GAMMA)
    walk = Walk(Posterior(problem), law, chains, seed=0, batch_size=problem.num_examples)
    if w is not None:
        walk.w.copy_(w)
    return walk


def test_one_step_by_hand() -> None:
    """w′ = w − (ε/2)(nβ h w + γ w) + √ε ξ, with the ξ of the noise stream."""
    problem, eps = power_problem(H.double()), 0.03
    w = torch.linspace(-1, 1, 6, dtype=torch.float64).repeat(2, 1)
    with preserved(problem.model):
        walk = _walk(problem, chains=[0, 5], w=w)
        make_kernel("sgld", eps).step(walk, None, step=7, measure=False)
    noise = NoiseStream(0, [0, 5], torch.device("cpu")).fill(torch.empty(2, 6, dtype=torch.float64), step=7, chunk=0)
    by_hand = w - eps / 2 * (NBETA * H.double() * w + GAMMA * w) + math.sqrt(eps) * noise
    torch.testing.assert_close(walk.w, by_hand, rtol=1e-12, atol=1e-12)


def test_noise_alone_has_variance_epsilon() -> None:
    """With no loss and no γ a step is N(0, ε), not N(0, 2ε) nor N(0, ε/2)."""
    d, eps = 200_000, 0.03
    problem = power_problem(torch.zeros(d), num_examples=2)
    with preserved(problem.model):
        walk = Walk(Posterior(problem), Law(nbeta=1.0, localization=0.0), [0], seed=0, batch_size=2)
        make_kernel("sgld", eps).step(walk, None, step=0, measure=False)
    moved = walk.w[0].double().numpy()
    assert abs(moved.mean()) < 4 * math.sqrt(eps / d)
    assert abs(moved.var() / eps - 1) < 4 * math.sqrt(2 / d)
    halves = moved.reshape(2, -1)
    assert abs(np.corrcoef(halves)[0, 1]) < 4 / math.sqrt(d / 2)


@pytest.mark.parametrize("power", [2, 4])
def test_acceptance_ratio_against_densities(power: int) -> None:
    """log α from the textbook formula: four log densities written out."""
    problem, eps = power_problem(H.double(), power=power), 0.05
    h = H.double()

    def log_pi(w: torch.Tensor) -> torch.Tensor:
        return -NBETA * 0.5 * (h * w**power).sum(-1) - GAMMA / 2 * (w**2).sum(-1)

    def log_q(to: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        force = -NBETA * 0.5 * power * h * at ** (power - 1) - GAMMA * at
        return -((to - at - eps / 2 * force) ** 2).sum(-1) / (2 * eps)

    generator = torch.Generator().manual_seed(1)
    old = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    new = old + 0.3 * torch.randn(5, 6, generator=generator, dtype=torch.float64)
    with preserved(problem.model):
        walk = _walk(problem, chains=list(range(5)), w=old)
        loss, grad = walk.gradient(None)
        walk.w.copy_(new)
        new_loss, new_grad = walk.gradient(None)
        ratio = langevin.log_accept(
            walk, old=old, old_loss=loss, old_grad=grad, new_loss=new_loss, new_grad=new_grad, step_size=eps
        )
    by_hand = log_pi(new) - log_pi(old) + log_q(old, new) - log_q(new, old)
    torch.testing.assert_close(ratio, by_hand, rtol=1e-9, atol=1e-9)


def _double_step(monkeypatch: pytest.MonkeyPatch) -> None:
    diffuse = langevin.diffuse
    for module in ("sgld", "langevin"):  # the latter for mala
        monkeypatch.setattr(
            f"hf_llc.samplers.{module}.diffuse",
            lambda walk, s, grad, step_size, step: diffuse(walk, s, grad, 2 * step_size, step=step),
        )


@functools.cache
def _sound(sampler: str) -> None:
    """The law holds without a fault; looked at once for all faults."""
    _quadratic(sampler, 0.02, localization=20.0)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [doubled_noise, lost_localization, wrong_n, _double_step])
@pytest.mark.parametrize("sampler", ["sgld", "mala"])
def test_planted_faults_are_caught(
    fault: Callable[[pytest.MonkeyPatch], None], sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quadratic law turns red under each fault."""
    _sound(sampler)
    fault(monkeypatch)
    if sampler == "mala" and fault is _double_step:  # a wrong proposal that is judged as if it were right
        with pytest.raises(AssertionError):
            _quadratic(sampler, 0.02, localization=20.0)
        return
    with pytest.raises(AssertionError, match="standard errors"):
        _quadratic(sampler, 0.02, localization=20.0)


@pytest.mark.slow
@pytest.mark.parametrize(("num_chains", "steps", "step_size"), [(4, 2000, 0.04), (2, 6000, 0.02), (1, 6000, 0.04)])
def test_the_standard_error_is_true(num_chains: int, steps: int, step_size: float) -> None:
    """Over 200 repeats from w*, burn-in dropped, (λ̂ − truth)/se has sd in [0.9, 1.1] and mean near 0.

    The sd of 200 standard normal numbers is itself uncertain by 0.05.
    """
    repeats = 200
    trace = sample(
        power_problem(H),
        sampler="sgld",
        step_size=step_size,
        nbeta=NBETA,
        localization=GAMMA,
        num_chains=repeats * num_chains,
        steps=steps,
        seed=11,
    )
    draws = draws_of(trace, nbeta=NBETA, burnin=200).reshape(repeats, num_chains, -1)
    truth = expected_llc(H.numpy(), sampler="sgld", step_size=step_size, nbeta=NBETA, localization=GAMMA)
    z = np.array([(d.mean() - truth) / statistics.standard_error(d) for d in draws])
    assert 0.9 < z.std(ddof=1) < 1.1, f"sd {z.std(ddof=1):.3f}, mean {z.mean():+.3f}"
    assert abs(z.mean()) < 4 / math.sqrt(repeats), f"mean {z.mean():+.3f}"
