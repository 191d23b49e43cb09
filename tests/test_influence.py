"""Influence functions and loss kernels: closed forms, true errors, verdicts, the command and its guide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hf_llc import LLCEvaluator, LLCResult
from hf_llc.errors import InputError
from hf_llc.judging.covariances import covariances
from hf_llc.judging.influence import influence

Array = np.ndarray

NBETA, GAMMA, NOISE = 40.0, 5.0, 0.5


def regression(n: int = 30, d: int = 3) -> tuple[Array, Array, Array, Array]:
    """x, residuals r at the minimum of L_n, and the posterior's mean (0) and covariance Σ; σ is NOISE."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((n, d)), rng.standard_normal(n)
    r = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    precision = NBETA * x.T @ x / n / NOISE**2 + GAMMA * np.eye(d)
    return x, r, np.zeros(d), np.linalg.inv(precision)


def kernel_of_regression() -> Array:
    """K_ij = (r_i r_j s_ij + ½ s_ij²)/σ⁴ with s_ij = x_iᵀΣx_j."""
    x, r, _, sigma = regression()
    s = x @ sigma @ x.T
    return (np.outer(r, r) * s + s**2 / 2) / NOISE**4


def mean_losses(extra: float, which: int) -> Array:
    """E[ℓ_j] exactly, with `extra` more weight on one example."""
    x, r, _, _ = regression()
    weights = np.ones(len(x))
    weights[which] += extra
    precision = NBETA / len(x) * (x.T * weights) @ x / NOISE**2 + GAMMA * np.eye(x.shape[1])
    sigma = np.linalg.inv(precision)
    mean = sigma @ (NBETA / len(x) * (x.T * weights) @ r / NOISE**2)
    return ((r - x @ mean) ** 2 + np.einsum("ia,ab,ib->i", x, sigma, x)) / (2 * NOISE**2)


def exact_losses(chains: int, draws: int) -> Array:
    x, r, mean, sigma = regression()
    u = np.random.default_rng(2).multivariate_normal(mean, sigma, size=(chains, draws))
    return (r - u @ x.T) ** 2 / (2 * NOISE**2)


def test_influence_is_the_change_with_an_example_s_weight() -> None:
    """Finite differences of the exact E[ℓ_j] against the closed form, then the estimate against that."""
    exact = -NBETA / 30 * kernel_of_regression()
    for which in (0, 7):
        change = (mean_losses(1e-4, which) - mean_losses(-1e-4, which)) / 2e-4
        np.testing.assert_allclose(change, exact[which], rtol=1e-5, atol=1e-8)
    losses = exact_losses(4, 5000)
    found = influence(losses, losses, nbeta=NBETA, n=30)
    z = (found.bif - exact) / found.bif_se
    assert np.abs(z).max() < 5 and 0.7 < z.std() < 1.3
    assert np.median(found.bif_se) < 0.05 * np.abs(exact).max()
    assert (np.diag(found.bif) < 0).all()  # more of an example lowers its own loss
    kernel = kernel_of_regression()
    scale = np.sqrt(np.diag(kernel))
    np.testing.assert_allclose(found.correlation, kernel / np.outer(scale, scale), atol=0.06)
    np.testing.assert_allclose(np.diag(found.correlation), 1, atol=1e-12)
    assert found.is_trustworthy and found.reliability > 0.95 and abs(found.agreement - found.agreement_expected) < 0.05


def test_quadratic_losses() -> None:
    """K_ij = (g_i + H_i m)ᵀΣ(g_j + H_j m) + ½ tr(H_i Σ H_j Σ), with m = −Σ nβ g away from a minimum."""
    rng = np.random.default_rng(3)
    g = rng.standard_normal((6, 4))
    roots = rng.standard_normal((6, 4, 4)) / 2
    h = roots @ roots.transpose(0, 2, 1)
    sigma = np.linalg.inv(NBETA * h.mean(0) + GAMMA * np.eye(4))
    mean = -sigma @ (NBETA * g.mean(0))
    slopes = g + h @ mean
    exact = slopes @ sigma @ slopes.T + 0.5 * np.einsum("iab,bc,jcd,da->ij", h, sigma, h, sigma)
    u = rng.multivariate_normal(mean, sigma, size=(4, 20_000))
    losses = u @ g.T + 0.5 * np.einsum("cta,iab,ctb->cti", u, h, u)
    found = covariances(losses, losses)
    assert np.abs((found.covariance - exact) / found.covariance_se).max() < 4.5
    assert np.allclose(found.covariance.mean(), np.cov(losses.mean(-1).ravel()), rtol=1e-3)  # mean_ij K_ij = Var(L)


@pytest.mark.slow
@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9])
def test_errors_are_true(phi: float) -> None:
    """400 repeats of 4 × 200 AR(1) draws. With phi .9 a chain has ten effective draws, and ρ is not quite normal."""
    rng, mix = np.random.default_rng(0), np.random.default_rng(5).standard_normal((6, 6)) / 2
    noise = rng.standard_normal((400, 4, 200, 6))
    x = noise.copy()
    for t in range(1, 200):
        x[:, :, t] = phi * x[:, :, t - 1] + np.sqrt(1 - phi**2) * noise[:, :, t]
    x = x @ mix
    truth = (mix.T @ mix)[:3, 3:]
    scale = np.sqrt(np.diag(mix.T @ mix))
    rho = truth / np.outer(scale[:3], scale[3:])
    found = [covariances(one[..., :3], one[..., 3:]) for one in x]
    z = np.array([(it.covariance - truth) / it.covariance_se for it in found])
    assert 0.9 < z.std(axis=0).mean() < 1.1 and np.abs(z.mean(axis=0)).max() < 0.35
    z = np.array([(it.correlation - rho) / it.correlation_se for it in found])
    assert 0.9 < z.std(axis=0).mean() < (1.1 if phi < 0.9 else 1.13) and np.abs(z.mean(axis=0)).max() < 0.25


def test_tiles_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = exact_losses(3, 60)
    whole = covariances(losses, losses[..., :5])
    monkeypatch.setattr("hf_llc.judging.covariances._TILE", 11)
    for name in ("covariance", "covariance_se", "correlation", "correlation_se"):
        np.testing.assert_allclose(getattr(covariances(losses, losses[..., :5]), name), getattr(whole, name), rtol=1e-9)


def test_noise_is_called_noise() -> None:
    rng = np.random.default_rng(4)
    found = influence(rng.standard_normal((4, 40, 12)), rng.standard_normal((4, 40, 9)), nbeta=10.0, n=30)
    assert found.verdict == "too few draws" and "times as many draws" in found.remedy and not found.is_trustworthy
    losses = exact_losses(4, 400)
    assert influence(losses, losses, nbeta=10.0, n=30, chains_verdict="drifting").verdict == "drifting"


def test_losses_that_do_not_vary_have_no_correlation() -> None:
    losses = exact_losses(2, 60)
    losses[..., 4] = 0.0
    found = influence(losses, losses, nbeta=10.0, n=30)
    assert np.isnan(found.correlation[4]).all() and (found.bif[4] == 0).all() and found.is_trustworthy


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda x: x[:, :11], "too few records for an error of influence, got '11 a chain after burn-in'"),
        (lambda x: np.where(np.arange(4)[:, None, None] == 2, np.nan, x), "not finite, got 'chain 2'"),
    ],
)
def test_refusals(spoil: Any, match: str) -> None:
    losses = spoil(exact_losses(4, 60))
    with pytest.raises(InputError, match=match):
        influence(losses, losses, nbeta=10.0, n=30)


def linear_result(**settings: Any) -> LLCResult:
    x, r, _, _ = regression()
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)
    data = (torch.tensor(x, dtype=torch.float32), torch.tensor(r, dtype=torch.float32)[:, None])
    law = {"nbeta": NBETA, "localization": GAMMA, "step_size": 2e-3, "batch_size": "full", "check_localization": False}
    runs = {"num_chains": 4, "chain_batch_size": 4, "num_draws": 800, "num_burnin_steps": 100, "sampler": "baoab"}
    evaluator = LLCEvaluator(**{**law, **runs, "observe": {"train": "@data"}, "observe_every": 8, **settings})
    return evaluator.compute(
        model, data, loss_fn=lambda out, y: ((out - y) ** 2).sum(-1) / (2 * NOISE**2), progress=False
    )


def test_chains_give_the_closed_form() -> None:
    found = linear_result().influence()
    exact = -NBETA / 30 * kernel_of_regression()
    assert np.abs((found.bif - exact) / found.bif_se).max() < 5
    assert np.corrcoef(found.bif.ravel(), exact.ravel())[0, 1] > 0.95
    assert np.median(found.bif_se) < 0.1 * np.abs(exact).max()


def test_of_what_is_not_there() -> None:
    few = {"num_draws": 40, "num_burnin_steps": 4, "observe_every": 1}
    result = linear_result(**few)
    with pytest.raises(InputError, match=r"no losses of that name, got 'code'; allowed: train"):
        result.influence(queries="code")
    with pytest.raises(InputError, match="no losses were observed"):
        linear_result(observe=None, **few).influence()
    assert result.influence(sources="train").bif.shape == (30, 30)
