"""The samplers beyond SGLD and MALA: a step by hand, identities between samplers, and their cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from faults import no_root_a
from targets import power_problem, sample
from torch import Tensor, nn

from hf_llc.backend.random_streams import NoiseStream
from hf_llc.errors import InputError
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.samplers import BAOAB, HMC, SGNHT, AdaptiveSGLD, Kernel, PreconditionedSGLD, RMSPropSGLD, make_kernel
from hf_llc.samplers.walk import Walk

H = torch.linspace(0.2, 2.0, 6)
NBETA, GAMMA, EPS = 25.0, 3.0, 0.03
LAW = {"nbeta": NBETA, "localization": GAMMA}
A = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.7, 0.3])
START = torch.linspace(-1, 1, 6, dtype=torch.float64).repeat(2, 1)


def _noise(step: int) -> Tensor:
    return NoiseStream(0, [0, 5], torch.device("cpu")).fill(torch.empty(2, 6, dtype=torch.float64), step=step, chunk=0)


def _steps(kernel: Kernel, steps: range) -> list[Tensor]:
    """Where chains 0 and 5 are after each step from START, on a quadratic in float64."""
    problem, found = power_problem(H.double()), []
    with preserved(problem.model):
        walk = Walk(Posterior(problem), Law(**LAW), [0, 5], seed=0, batch_size=problem.num_examples)
        walk.w.copy_(START)
        for step in steps:
            kernel.step(walk, None, step=step, measure=False)
            found.append(walk.w.clone())
    return found


def _gradient(w: Tensor) -> Tensor:
    """∇U of the quadratic."""
    return (NBETA * H.double() + GAMMA) * w


def test_leimkuhler_matthews_by_hand() -> None:
    one, two = _steps(make_kernel("leimkuhler-matthews", EPS), range(7, 9))
    by_hand = START - EPS / 2 * _gradient(START) + math.sqrt(EPS) / 2 * (_noise(7) + _noise(8))
    torch.testing.assert_close(one, by_hand, rtol=1e-12, atol=1e-12)
    by_hand = one - EPS / 2 * _gradient(one) + math.sqrt(EPS) / 2 * (_noise(8) + _noise(9))
    torch.testing.assert_close(two, by_hand, rtol=1e-12, atol=1e-12)


def test_preconditioned_by_hand() -> None:
    (one,) = _steps(PreconditionedSGLD(EPS, A), range(3, 4))
    a = A.double()
    by_hand = START - EPS / 2 * a * _gradient(START) + (EPS * a).sqrt() * _noise(3)
    torch.testing.assert_close(one, by_hand, rtol=1e-12, atol=1e-12)


def test_rmsprop_by_hand() -> None:
    one, two = _steps(RMSPropSGLD(EPS, rmsprop_eps=0.1), range(2))
    v, w = torch.zeros_like(START), START
    for step, found in enumerate((one, two)):
        g = H.double() * w
        v = 0.99 * v + 0.01 * g**2
        a = 1 / (v.sqrt() + 0.1)
        w = w - EPS / 2 * a * _gradient(w) + (EPS * a).sqrt() * _noise(step)
        torch.testing.assert_close(found, w, rtol=1e-12, atol=1e-12)


def test_adaptive_by_hand() -> None:
    """V starts at the first squared gradient, does not see the present one, and stands still from step 2 on."""
    found = _steps(AdaptiveSGLD(EPS, freeze_after=2), range(4))
    w = START
    v = (H.double() * w) ** 2
    for step in range(4):
        a = 1.1 / ((v / v.amax(1, keepdim=True)).sqrt() + 0.1)
        g = H.double() * w
        w = w - EPS / 2 * a * _gradient(w) + (EPS * a).sqrt() * _noise(step)
        v = 0.99 * v + 0.01 * g**2 if step < 2 else v
        torch.testing.assert_close(found[step], w, rtol=1e-12, atol=1e-12)


def test_baoab_by_hand() -> None:
    """B, A, O, A, and the same again from the momentum left over."""
    h, keep = math.sqrt(EPS), math.exp(-0.3)
    w, p = START, _noise(-1)
    for step, found in enumerate(_steps(BAOAB(EPS, friction=0.3), range(3))):
        p = p - h * _gradient(w)
        w = w + h / 2 * p
        p = keep * p + math.sqrt(1 - keep**2) * _noise(step)
        w = w + h / 2 * p
        torch.testing.assert_close(found, w, rtol=1e-12, atol=1e-12)


def test_sgnht_by_hand() -> None:
    h, friction, d = math.sqrt(EPS), 0.3, 6
    w, p, zeta = START, _noise(-1), torch.full((2, 1), friction, dtype=torch.float64)
    for step, found in enumerate(_steps(SGNHT(EPS, friction=friction), range(3))):
        p = p - h * _gradient(w)
        w = w + h / 2 * p
        zeta = zeta + friction**2 / 4 * ((p**2).sum(1, keepdim=True) / d - 1)
        p = torch.exp(-zeta) * p + (friction * (1 - torch.exp(-2 * zeta)) / zeta).sqrt() * _noise(step)
        w = w + h / 2 * p
        zeta = zeta + friction**2 / 4 * ((p**2).sum(1, keepdim=True) / d - 1)
        torch.testing.assert_close(found, w, rtol=1e-12, atol=1e-12)


def test_the_thermostat_passes_through_zero() -> None:
    """What p keeps and gains are smooth in ζ there: e^{−ζ} and √(A(1 − e^{−2ζ})/ζ) → √(2A)."""
    zeta = torch.tensor([[-0.2], [-1e-6], [-1e-7], [0.0], [1e-7], [1e-6], [0.2]], dtype=torch.float64)
    keep, spread = SGNHT(EPS, friction=0.3)._friction(zeta)
    torch.testing.assert_close(keep, torch.exp(-zeta))
    safe = torch.where(zeta == 0, 1e-9, zeta)
    torch.testing.assert_close(spread, (-0.3 * torch.expm1(-2 * safe) / safe).sqrt(), rtol=1e-8, atol=0)


def test_infinite_friction_is_leimkuhler_matthews() -> None:
    """BAOAB that forgets all momentum at once is LM, draw for draw (whose step t uses the noise of t and t + 1)."""
    under = _steps(BAOAB(EPS, friction=60.0), range(20))
    over = _steps(make_kernel("leimkuhler-matthews", EPS), range(-1, 19))
    torch.testing.assert_close(torch.stack(under), torch.stack(over), rtol=1e-10, atol=1e-12)


def test_one_leapfrog_step_is_mala(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same proposals, accepted with the same probability, on a target that is no quadratic."""
    monkeypatch.setattr(HMC, "_time_steps", lambda self, walk, step: torch.full((3, 1), 0.06**0.5, dtype=START.dtype))
    common = {"num_chains": 3, "steps": 60, "nbeta": NBETA, "localization": GAMMA}
    problem = power_problem(H.double(), power=4)
    hmc = sample(problem, sampler=HMC(0.06, num_leapfrog_steps=1), **common)
    mala = sample(problem, sampler="mala", step_size=0.06, **common)
    np.testing.assert_allclose(hmc.accept_prob, mala.accept_prob, rtol=1e-8)
    np.testing.assert_allclose(hmc.loss, mala.loss, rtol=1e-8)
    assert (mala.accept_prob < 0.9).any()


def test_large_eps_makes_rmsprop_sgld_sgld() -> None:
    """A = 1/(√V + c) → 1/c: with step ε·c it is SGLD, draw for draw."""
    rms = _steps(RMSPropSGLD(EPS * 1e9, rmsprop_eps=1e9), range(20))
    sgld = _steps(make_kernel("sgld", EPS), range(20))
    torch.testing.assert_close(torch.stack(rms), torch.stack(sgld), rtol=1e-6, atol=1e-8)


def _relu_problem(alpha: float) -> tuple[Problem, Tensor]:
    """A ReLU network with W1, b1 scaled by α and W2 by 1/α: the same function; and its A = α², α², α^{−2}, 1."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    scales = [alpha, alpha, 1 / alpha, 1.0]
    with torch.no_grad():
        for parameter, scale in zip(model.parameters(), scales, strict=True):
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    a = [torch.full((p.numel(),), s**2, dtype=torch.float64) for p, s in zip(model.parameters(), scales, strict=True)]
    problem = Problem(
        model,
        {"x": x, "y": y},
        lambda forward, batch: ((forward(batch["x"]) - batch["y"]) ** 2).sum(-1),
        n=40,
        unit="nats per example",
    )
    return problem, torch.cat(a)


def _rescaled_losses(alpha: float) -> np.ndarray:
    problem, a = _relu_problem(alpha)
    kernel = PreconditionedSGLD(1e-3, a)
    trace = sample(problem, sampler=kernel, nbeta=10.0, localization=0.0, num_chains=1, steps=80, batch_size=8)
    return trace.loss


@pytest.mark.parametrize("alpha", [0.01, 7.0])
def test_rescaled_chains_are_images_of_each_other(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With A = c² the chain of the rescaled network is the image of the other, draw for draw; without √A it is not.

    w′ = c∘w has ∇′ = ∇/c, so that (ε/2)c²∇′ = c∘(ε/2)∇ and √(εc²)ξ = c∘√ε ξ.
    """
    plain = _rescaled_losses(1.0)
    np.testing.assert_allclose(_rescaled_losses(alpha), plain, rtol=1e-8)
    no_root_a(monkeypatch)
    assert not np.allclose(_rescaled_losses(alpha), plain, rtol=1e-2)


def test_hmc_refuses_minibatches() -> None:
    problem = power_problem(H)
    with pytest.raises(InputError, match=r"hmc needs all examples .* 'full'"):
        sample(problem, sampler="hmc", step_size=0.01, num_chains=1, steps=1, batch_size=2, **LAW)


@pytest.mark.slow
def test_cost_in_gradients() -> None:
    """Gradient evaluations counted at the posterior are those that the kernel states."""
    for sampler, batch_size in [(s, b) for s in ("sgld", "mala", "baoab", "sgnht", "psgld", "hmc") for b in (2, 4)]:
        if sampler == "hmc" and batch_size == 2:
            continue
        problem, calls = power_problem(H), []
        inner = problem.losses
        problem.losses = lambda forward, batch, inner=inner, calls=calls: calls.append(1) or inner(forward, batch)
        trace = sample(
            problem,
            sampler=sampler,
            step_size=0.01,
            num_chains=1,
            steps=40,
            batch_size=batch_size,
            **LAW,
        )
        measured = int((np.isfinite(trace.accept_prob) | np.isfinite(trace.heat)).sum())
        stated = make_kernel(sampler, 0.01).num_gradients(steps=40, measured=measured, is_full=batch_size == 4)
        at_start = 2 if batch_size == 4 and sampler in ("mala", "hmc") else 1  # ℓ(w*); and the first gradient
        assert len(calls) == stated + at_start, (sampler, batch_size)
