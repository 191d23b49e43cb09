"""Exact laws of the samplers beyond SGLD and MALA, under gradient noise too, and each check against planted faults."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from faults import doubled_noise, lost_localization, no_root_a, wrong_friction
from targets import assert_mean, draws_of, expected_llc, power_problem, sample, shifted_problem
from torch import Tensor, nn

from hf_llc.backend.random_streams import BatchStream
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.samplers import BAOAB, AdaptiveSGLD, Kernel, PreconditionedSGLD, make_kernel
from hf_llc.samplers.effective_step import effective_step_size
from hf_llc.samplers.langevin import force
from hf_llc.samplers.walk import Walk

H = torch.linspace(0.2, 2.0, 6)
NBETA, GAMMA = 25.0, 3.0
LAW = {"nbeta": NBETA, "localization": GAMMA}
A = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.7, 0.3])


def _quadratic(sampler: str | Kernel, step_size: float, truth: float, *, localization: float = GAMMA) -> None:
    """λ̂ on the quadratic H is `truth`."""
    trace = sample(
        power_problem(H),
        sampler=sampler,
        step_size=step_size,
        nbeta=NBETA,
        localization=localization,
        num_chains=50,
        steps=350,
        num_leapfrog_steps=3,
    )
    assert_mean(draws_of(trace, nbeta=NBETA, burnin=100), truth)


def _exact(localization: float = GAMMA) -> float:
    return expected_llc(H.numpy(), sampler="exact", step_size=0.0, nbeta=NBETA, localization=localization)


@pytest.mark.slow
@pytest.mark.parametrize("localization", [0.0, 30.0])
@pytest.mark.parametrize(("sampler", "step_size"), [("leimkuhler-matthews", 0.04), ("baoab", 0.04), ("hmc", 0.03)])
def test_exact_laws(sampler: str, step_size: float, localization: float) -> None:
    """½ Σ nβh_i/a_i at steps where SGLD's value is far off (ε·max a up to 3.2 of 4).

    HMC: by Metropolis. BAOAB: let q ~ N(0, 1/a) and p ~ N(0, 1 − h²a/4) be independent at the end of a step. Half a
    kick, p₁ = p − (h/2)a q, has variance 1 − h²a/4 + h²a/4 = 1; half a drift, q₁ = q + (h/2)p₁, has covariance
    −h/2 + h/2 = 0 with p₁. So p₁ ~ N(0, 1) is independent of q₁, which the friction step leaves so; the second half is
    the first one reversed in time and restores the law of (q, p). Hence Var q = 1/a exactly for h²a < 4.
    Leimkuhler–Matthews is the case of infinite friction at ε = h² (tested above), and has the same law.
    """
    _quadratic(sampler, step_size, _exact(localization), localization=localization)


@pytest.mark.slow
def test_preconditioned_laws() -> None:
    """½ Σ nβh_i/(a_i(1 − εA_i a_i/4)), for a fixed A and for the A that each chain has learnt."""
    law = {"sampler": "psgld", "step_size": 0.03, **LAW}
    _quadratic(PreconditionedSGLD(0.03, A), 0.0, expected_llc(H.numpy(), preconditioner=A.numpy(), **law))
    kernel = AdaptiveSGLD(0.03, freeze_after=200)
    trace = sample(power_problem(H), sampler=kernel, num_chains=50, steps=600, **LAW)
    v = kernel.state_dict()["square_avg"].double().numpy()
    learnt = 1.1 / (np.sqrt(v / v.max(axis=1, keepdims=True)) + 0.1)
    assert learnt.max() > 3, "nothing was learnt"
    truth = np.mean([expected_llc(H.numpy(), preconditioner=a, **law) for a in learnt])
    assert_mean(draws_of(trace, nbeta=NBETA, burnin=220), float(truth))


@pytest.mark.slow
def test_step_size_bias_of_a_preconditioned_chain() -> None:
    """(ε/8)·E⟨nβ∇L, A∇U⟩ is its exact excess."""
    trace = sample(power_problem(H), sampler=PreconditionedSGLD(0.04, A), num_chains=100, steps=500, **LAW)
    measured = trace.grad_dot[:, 100:]
    biased = expected_llc(H.numpy(), sampler="psgld", step_size=0.04, preconditioner=A.numpy(), **LAW)
    assert_mean(0.04 / 8 * measured[:, np.isfinite(measured[0])], biased - _exact())


@pytest.mark.slow
def test_thermostat_law() -> None:
    """SGNHT at a fine step on the quadratic: the exact value (its own step-size error is far below the MCSE)."""
    _quadratic("sgnht", 0.01, _exact())


SPREAD, SMALL = 0.2, 0.004


def _noisy(
    sampler: str, *, gradient: str = "plain", num_examples: int = 1000, spread: float = SPREAD
) -> tuple[np.ndarray, np.ndarray]:
    """λ̂ draws and kinetic temperature with gradient noise of sd nβ·SPREAD in the force, a fresh example each step."""
    trace = sample(
        shifted_problem(H, num_examples=num_examples, spread=spread),
        sampler=sampler,
        step_size=SMALL,
        num_chains=60,
        steps=500,
        batch_size=1,
        gradient=gradient,
        friction=0.3,
        **LAW,
    )
    kept = trace.kinetic_temperature[:, 140:]
    return draws_of(trace, nbeta=NBETA, burnin=140), kept[:, np.isfinite(kept[0])]


@pytest.mark.slow
def test_sgld_under_gradient_noise() -> None:
    """Noise of variance V in the force: ½ Σ nβh_i (1 + εV/4)/(a_i(1 − εa_i/4)); none with the control variate."""
    clean = expected_llc(H.numpy(), sampler="sgld", step_size=SMALL, **LAW)
    heated = clean * (1 + SMALL * (NBETA * SPREAD) ** 2 / 4)
    assert_mean(_noisy("sgld")[0], heated)
    assert_mean(_noisy("sgld", gradient="control-variate")[0], clean)


def _in_turn(problem: Problem, *, chains: int, batch_size: int) -> tuple[float, float]:
    """λ̂ of batches walked in turn beyond that of no gradient noise: with draws L_n, and with draws L_B; exactly.

    A coordinate is ρw + (ε/2)nβh c_t + noise, c_t the mean centre of the step's batch. Its mean u follows c_t, which
    comes back after n/m steps. So L_n gains ½h u² and L_B(w) − L_B(w*) gains ½h u² − h u c_t, averaged over the turn.
    """
    centres, n = problem.examples["centres"], problem.num_examples
    stream = BatchStream(0, range(chains), num_examples=n, batch_size=batch_size, device=torch.device("cpu"))
    assert stream.orders is not None
    c = centres[stream.orders[:, :n]].unflatten(1, (-1, batch_size)).mean(2)  # [chain, step, coordinate]
    rho, u, turn = 1 - SMALL / 2 * (NBETA * H + GAMMA), torch.zeros(chains, len(H)), []
    for step in range(40 * c.shape[1]):
        turn.append(u)
        u = rho * u + SMALL / 2 * NBETA * H * c[:, step % c.shape[1]]
    u = torch.stack(turn[-c.shape[1] :], dim=1)
    heat, lean = (NBETA * (x * H).sum(-1).mean() for x in (u**2 / 2, -u * c))
    return float(heat), float(heat + lean)


@pytest.mark.slow
@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 1), pytest.param(24, 3, marks=pytest.mark.slow)])
def test_which_order_of_batches_biases_and_by_how_much(num_examples: int, batch_size: int) -> None:
    """With label noise, by the exact values of all four: random or in turn, eq. 12 (paired) or eq. 13.

    Random batches heat the chain; L_B and L_n have one mean. In turn they hardly heat it, and L_B leans.
    """
    problem = shifted_problem(H, num_examples=num_examples, spread=4 * SPREAD)
    clean = expected_llc(H.numpy(), sampler="sgld", step_size=SMALL, **LAW)

    def check(truth: float, **how: Any) -> float:
        trace = sample(
            problem, sampler="sgld", step_size=SMALL, num_chains=60, steps=500, batch_size=batch_size, **LAW, **how
        )
        draws = draws_of(trace, nbeta=NBETA, burnin=140)
        assert_mean(draws, truth)
        return float(draws.mean())

    if batch_size == 1:
        heated = clean * (1 + SMALL * (NBETA * 4 * SPREAD) ** 2 / 4)
        paired, full = check(heated), check(heated, full_loss_every=6)
        assert paired != full
    heat, lean = _in_turn(problem, chains=60, batch_size=batch_size)
    check(clean + lean, batch_order="in-turn")
    check(clean + heat, batch_order="in-turn", full_loss_every=6)


def test_draws_of_all_examples() -> None:
    """They are L_n of the chain that minibatch gradients move, once in as many steps as a draw has."""
    problem = shifted_problem(H, num_examples=40, spread=SPREAD)
    how: dict[str, Any] = {"sampler": "sgld", "step_size": SMALL, "num_chains": 2, "steps": 12, "batch_size": 4, **LAW}
    every, third, paired = (sample(problem, full_loss_every=k, **how) for k in (1, 3, 0))
    np.testing.assert_array_equal(third.loss, np.repeat(every.loss[:, ::3], 3, axis=1))
    np.testing.assert_allclose(every.init_loss, float(Posterior(problem).init_loss), rtol=1e-6)
    np.testing.assert_array_equal(every.loss[:, 0], every.init_loss[:, 0])  # of w_t before the step, as L_B is
    np.testing.assert_array_equal(every.sq_distance, paired.sq_distance)  # one chain, seen in two ways
    assert (every.loss != paired.loss).any()
    full = [sample(problem, full_loss_every=k, **{**how, "batch_size": 40}) for k in (0, 3)]
    np.testing.assert_array_equal(full[0].loss, full[1].loss)


@pytest.mark.slow
def test_losses_of_chains_do_not_go_together() -> None:
    """Their mean spreads as that of independent ones does.

    What w has fitted lately is at the places where its batches began. Chains whose batches begin at the same places
    would all see it at the same steps.
    """
    problem = shifted_problem(H, num_examples=40, spread=4 * SPREAD)
    trace = sample(problem, sampler="sgld", step_size=SMALL, num_chains=40, steps=2200, batch_size=4, **LAW)
    excess = (trace.loss - trace.init_loss)[:, 200:]
    alone = excess.var(axis=1).mean() / len(excess)
    assert excess.mean(axis=0).var() == pytest.approx(alone, rel=0.25)


@pytest.mark.slow
def test_baoab_under_gradient_noise() -> None:
    """Plain it runs hot, as its temperature says; the control variate restores law and temperature."""
    draws, heat = _noisy("baoab")
    heated, temperature = _heated(0.3, (NBETA * SPREAD) ** 2)
    assert heated > 1.1 * _exact() and temperature > 1.2
    assert_mean(draws, heated)
    assert_mean(heat, temperature)
    draws, heat = _noisy("baoab", gradient="control-variate")
    assert_mean(draws, _exact())
    assert_mean(heat, 1.0)


def _heated(friction: float, noise: float) -> tuple[float, float]:
    """λ̂ and kinetic temperature of BAOAB with noise of variance V in the force, exactly, from the covariance of (q, p).

    A step is linear, z ← M z + noise of covariance N, so that C = M C Mᵀ + N. The temperature is Var p after the kick.
    """
    h, keep, total, momenta = np.sqrt(SMALL), np.exp(-friction), 0.0, []
    for energy in NBETA * H.double().numpy():
        kick, half = np.array([[1, 0], [-h * (energy + GAMMA), 1]]), np.array([[1, h / 2], [0, 1]])
        rub = np.diag([1.0, keep])
        m = half @ rub @ half @ kick
        pushed, rubbed = half @ rub @ half @ [0, h], half @ [0, np.sqrt(1 - keep**2)]
        n = noise * np.outer(pushed, pushed) + np.outer(rubbed, rubbed)
        c = np.linalg.solve(np.eye(4) - np.kron(m, m), n.ravel()).reshape(2, 2)
        total += 0.5 * energy * c[0, 0]
        momenta.append((kick @ c @ kick.T)[1, 1] + SMALL * noise)
    return total, float(np.mean(momenta))


@pytest.mark.slow
@pytest.mark.parametrize("friction", [0.1, 1.0])
def test_heat_of_gradient_noise(friction: float) -> None:
    """The measured power of the gradient noise, times ε_eff/8, is what it adds to λ̂ (up to the stiffness ε a/4)."""
    noise = (NBETA * SPREAD) ** 2
    assert _heated(friction, 0.0) == (pytest.approx(_exact()), pytest.approx(1.0))
    predicted = effective_step_size(SMALL, friction) / 8 * noise * float((NBETA * H / (NBETA * H + GAMMA)).sum())
    assert _heated(friction, noise)[0] - _exact() == pytest.approx(predicted, rel=0.06)
    trace = sample(
        shifted_problem(H, num_examples=1000, spread=SPREAD),
        sampler="baoab",
        step_size=SMALL,
        num_chains=50,
        steps=1200,
        batch_size=1,
        friction=friction,
        **LAW,
    )
    assert_mean(draws_of(trace, nbeta=NBETA, burnin=200), _heated(friction, noise)[0])
    heat = effective_step_size(SMALL, friction) / 8 * noise * len(H)
    assert np.nanmean(trace.heat) == pytest.approx(heat, rel=0.05)


@pytest.mark.slow
def test_thermostat_under_gradient_noise() -> None:
    """Isotropic gradient noise, a fifth of the heat: law and temperature stay right."""
    draws, heat = _noisy("sgnht")
    assert_mean(draws, _exact())
    assert_mean(heat, 1.0)


@pytest.mark.slow
def test_kinetic_temperature() -> None:
    """After the kick p has exactly variance 1 on a quadratic, at a large step too (see `test_exact_laws`)."""
    trace = sample(power_problem(H), sampler="baoab", step_size=0.04, num_chains=100, steps=400, **LAW)
    kept = trace.kinetic_temperature[:, 60:]
    assert_mean(kept[:, np.isfinite(kept[0])], 1.0)
    assert np.isfinite(trace.kinetic_temperature[:, ::20]).all()
    assert np.isnan(
        sample(power_problem(H), sampler="sgld", step_size=0.01, num_chains=1, steps=2, **LAW).accept_prob[0, 1]
    )


def _tanh_problem() -> Problem:
    """A tanh network with 9 parameters on 12 examples with noisy labels: no quadratic, w* no minimum."""
    generator = torch.Generator().manual_seed(4)
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Tanh(), nn.Linear(3, 2, bias=False)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(12, 1, generator=generator, dtype=torch.float64)
    y = torch.randn(12, 2, generator=generator, dtype=torch.float64)
    return Problem(
        model,
        {"x": x, "y": y},
        lambda forward, batch: ((forward(batch["x"]) - batch["y"]) ** 2).sum(-1),
        n=12,
        unit="nats per example",
    )


def _virial(kernel: Kernel, *, chains: int = 100, steps: int = 350, burnin: int = 100) -> np.ndarray:
    """½⟨w − w*, ∇U(w)⟩ at every second step, `[chain, draw]`."""
    problem, found = _tanh_problem(), []
    with preserved(problem.model):
        walk = Walk(Posterior(problem), Law(nbeta=4.0, localization=1.0), list(range(chains)), seed=0, batch_size=12)
        for step in range(steps):
            if step >= burnin and step % 2 == 0:
                _, grad = walk.gradient(None)
                parts = [((s.w - s.w_star) * force(walk, s, s.of(grad))).sum(1) for s in walk.segments()]
                found.append(sum(parts) / 2)
            kernel.step(walk, None, step=step, measure=False)
    return torch.stack(found, dim=1).numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "step_size"), [("hmc", 0.02), ("baoab", 0.006), ("leimkuhler-matthews", 0.012)])
def test_virial_identity(sampler: str, step_size: float) -> None:
    """E[½⟨w − w*, ∇U⟩] = d/2 on a small nonlinear network, for exact samplers and for fine steps of the others."""
    assert_mean(_virial(make_kernel(sampler, step_size, num_leapfrog_steps=4)), 9 / 2)


@pytest.mark.slow
def test_virial_identity_sees_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    doubled_noise(monkeypatch)
    with pytest.raises(AssertionError, match="standard errors"):
        assert_mean(_virial(make_kernel("baoab", 0.006)), 9 / 2)


def test_control_variate_gradient() -> None:
    """At w* it is ∇L_n(w*) for every batch; its mean over all batches is ∇L_n(w) and its loss's L_n(w).

    The gradient is that of the loss: central differences.
    """
    problem = _tanh_problem()
    with preserved(problem.model):
        posterior, law = Posterior(problem), Law(nbeta=4.0, localization=1.0)

        def walk(w: Tensor | None = None, *, chains: int = 2) -> Walk:
            start = None if w is None else w.clone()
            return Walk(posterior, law, list(range(chains)), seed=0, batch_size=4, w=start, gradient="control-variate")

        batches = [torch.arange(12).reshape(3, 4)[i].expand(2, 4) for i in range(3)]
        at_star = posterior.gradient(posterior.start(2), None)[1][0]
        away = posterior.start(2) + torch.linspace(-0.5, 0.5, 18, dtype=torch.float64).view(2, 9)
        full_loss, full = posterior.gradient(away, None)
        seen = [walk(away).gradient(batch) for batch in batches]
        for batch in batches:
            torch.testing.assert_close(walk().gradient(batch)[1][0], at_star)
        torch.testing.assert_close(sum(grad[0] for _, grad in seen) / 3, full[0])
        torch.testing.assert_close(sum(loss for loss, _ in seen) / 3, full_loss)
        assert not torch.allclose(seen[0][1][0], full[0])
        for i in range(9):
            step = torch.zeros(1, 9, dtype=torch.float64)
            step[0, i] = 1e-5
            up, down = (walk(away + sign * step).gradient(batches[0])[0] for sign in (1, -1))
            torch.testing.assert_close((up - down) / 2e-5, seen[0][1][0][:, i], rtol=1e-6, atol=1e-8)


def _law(sampler: str) -> None:
    kernel = PreconditionedSGLD(0.01, A) if sampler == "psgld" else sampler
    law = {"sampler": sampler, "step_size": 0.01, "nbeta": NBETA, "localization": 20.0}
    a = A.numpy() if sampler == "psgld" else 1.0
    _quadratic(kernel, 0.01, expected_llc(H.numpy(), preconditioner=a, **law), localization=20.0)


@functools.cache
def _sound(sampler: str) -> None:
    """The law holds without a fault; looked at once for all faults."""
    _law(sampler)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "fault"),
    [
        *((s, doubled_noise) for s in ("leimkuhler-matthews", "psgld", "baoab", "hmc")),
        *((s, lost_localization) for s in ("leimkuhler-matthews", "psgld", "baoab", "sgnht")),
        ("psgld", no_root_a),
        ("baoab", wrong_friction),
    ],
)
def test_planted_faults_are_caught(
    sampler: str, fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quadratic law at γ = 20 turns red under each fault. (SGNHT's is right with doubled noise: it adapts.)"""
    _sound(sampler)
    fault(monkeypatch)
    with pytest.raises(AssertionError, match="standard errors"):
        _law(sampler)


@pytest.mark.slow
def test_a_step_size_that_falls_in_the_kept_draws_leaves_their_law() -> None:
    """Against quadrature, on a loss without a largest curvature: ε falls in kept draws, by half and more."""
    h, kernel = H.double().numpy(), BAOAB(0.015, friction=0.2, adapt_step_size=True)
    trace = sample(power_problem(H, power=4), sampler=kernel, num_chains=60, steps=2000, **LAW)
    measured = trace.step_size[:, ::20]
    assert measured[:, -1].min() < measured[:, 20].min() < 0.015
    w = np.linspace(-4, 4, 20001)[:, None]
    energy = NBETA * 0.5 * h * w**4
    weight = np.exp(-energy - 0.5 * GAMMA * w**2)
    assert_mean(draws_of(trace, nbeta=NBETA, burnin=400), float((energy * weight).sum(0) @ (1 / weight.sum(0))))
