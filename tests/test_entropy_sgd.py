"""Entropy-SGD: one step on a quadratic in closed form, its noise, its fixed point, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from entropy_sgd import EntropySGD

CURVATURE = 2.0
EXACT: dict[str, Any] = {"noise": 0.0, "momentum": 0.0, "gamma_1": 0.0}


def stepped(x: Tensor, *, steps: int = 1, curvature: float = CURVATURE, **settings: Any) -> tuple[Tensor, int]:
    """x after some steps on ½h‖x‖², and how often the closure was called."""
    p = torch.nn.Parameter(x.clone())
    optimizer = EntropySGD([p], **settings)
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = 0.5 * curvature * p.square().sum()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return p.detach(), calls


def by_hand(x: float, *, steps: int, lr: float, gamma_0: float, gamma_1: float, momentum: float) -> float:
    """Algorithm 1 with momentum, a number at a time; L = 5, η′ = 0.1, α = 0.75."""
    outer = 0.0
    for t in range(steps):
        gamma, moved, mu, v = gamma_0 * (1 + gamma_1) ** t, x, x, 0.0
        for _ in range(5):
            v = momentum * v + CURVATURE * moved + gamma * (moved - x)
            moved -= 0.1 * v
            mu = 0.25 * mu + 0.75 * moved
        outer = momentum * outer + (x - mu)
        x -= lr * outer
    return x


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("scope", [(1e-4, 1e-3), (3.0, 0.5)])
def test_steps_are_those_of_the_algorithm(momentum: float, scope: tuple[float, float]) -> None:
    settings = {"lr": 0.3, "gamma_0": scope[0], "gamma_1": scope[1], "momentum": momentum}
    x = torch.tensor([1.5, -0.5], dtype=torch.float64)
    found, calls = stepped(x, steps=3, noise=0.0, **settings)
    assert calls == 15
    expected = torch.tensor([by_hand(float(a), steps=3, **settings) for a in x], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_with_many_langevin_steps_the_step_is_the_gradient_of_the_local_entropy(gamma: float) -> None:
    # −log ∫ exp(−½h x′² − ½γ(x − x′)²) dx′ has gradient γ·h/(h + γ)·x: a step takes η·h/(h + γ) of x away.
    x = torch.tensor([1.0], dtype=torch.float64)
    found, _ = stepped(x, lr=0.5, num_langevin_steps=400, gamma_0=gamma, **EXACT)
    assert float(found) == pytest.approx(1 - 0.5 * CURVATURE / (CURVATURE + gamma), abs=1e-12)


def test_the_noise_has_the_algorithms_variance() -> None:
    # On a flat loss one Langevin step gives x′ = x + √η′ ε ξ, and x moves by η α √η′ ε ξ.
    generator = torch.Generator().manual_seed(0)
    settings = {**EXACT, "noise": 0.2, "lr": 0.5, "alpha": 0.75, "langevin_lr": 0.1, "gamma_0": 0.0}
    x = torch.zeros(200_000, dtype=torch.float64)
    found, _ = stepped(x, curvature=0.0, num_langevin_steps=1, generator=generator, **settings)
    expected = (0.5 * 0.75 * 0.2) ** 2 * 0.1
    assert float(found.var()) == pytest.approx(expected, rel=4 * (2 / len(x)) ** 0.5)
    assert abs(float(found.mean())) < 4 * (expected / len(x)) ** 0.5


def test_parameters_without_a_gradient_stay() -> None:
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = EntropySGD([used, unused], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = used.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert not torch.equal(used, torch.ones(2))
    assert torch.equal(unused, torch.ones(2))


@pytest.mark.parametrize(
    "settings", [{"num_langevin_steps": 0}, {"lr": 0.0}, {"langevin_lr": -1.0}, {"alpha": 2.0}, {"momentum": 1.0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings)).split("_")[0]):
        EntropySGD([torch.nn.Parameter(torch.zeros(1))], **{"lr": 0.1, **settings})


def test_a_step_without_a_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="closure"):
        EntropySGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1).step()
