"""Targets whose λ̂ is known exactly, and the check that every sampler's law must pass."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_llc.chains.chain_store import ChainStore
from hf_llc.chains.run_chains import run_chains
from hf_llc.judging import statistics
from hf_llc.judging.estimator import llc_draws
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.records.trace import Trace
from hf_llc.samplers import Kernel, make_kernel
from hf_llc.samplers.walk import Walk


class Power(nn.Module):
    """L(w) = ½ Σ h_i |w_i|^p, the same for every example."""

    def __init__(self, d: int, power: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d, dtype=dtype))
        self.power = power

    def forward(self, h: Tensor) -> Tensor:
        return 0.5 * (h * self.w**self.power).sum(-1)


def power_problem(h: Tensor, *, power: int = 2, num_examples: int = 4) -> Problem:
    """`num_examples` identical examples of the loss ½ Σ h_i w_i^power."""
    examples = {"h": h.repeat(num_examples, 1)}
    return Problem(
        Power(len(h), power, h.dtype),
        examples,
        lambda forward, batch: forward(batch["h"]),
        n=num_examples,
        unit="nats per example",
    )


class Shifted(nn.Module):
    """L_i(w) = ½ Σ_j h_j (w_j − c_ij)²: examples that agree on the curvature and not on the gradient."""

    def __init__(self, h: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros_like(h))
        self.h = h

    def forward(self, centres: Tensor) -> Tensor:
        return 0.5 * (self.h * (self.w - centres) ** 2).sum(-1)


def shifted_problem(h: Tensor, *, num_examples: int, spread: float) -> Problem:
    """L_n = ½ Σ h_i w_i² + const, with gradient noise of sd `spread` in every coordinate of one example's gradient."""
    noise = torch.randn(num_examples, len(h), generator=torch.Generator().manual_seed(3), dtype=h.dtype)
    noise = (noise - noise.mean(0)) / noise.std(0, correction=0)
    examples = {"centres": spread * noise / h}
    return Problem(
        Shifted(h), examples, lambda forward, batch: forward(batch["centres"]), n=num_examples, unit="nats per example"
    )


def sample(
    problem: Problem,
    *,
    sampler: str | Kernel,
    step_size: float = 0.0,
    nbeta: float,
    localization: float,
    num_chains: int,
    steps: int,
    seed: int = 0,
    first_chain: int = 0,
    batch_size: int | None = None,
    gradient: str = "plain",
    batch_order: str = "random",
    full_loss_every: int = 0,
    **options: Any,
) -> Trace:
    """Trace of all steps of chains stepped together, by a sampler of that name and those options, or by a kernel."""
    chains = list(range(first_chain, first_chain + num_chains))
    size = batch_size or problem.num_examples
    stream = {"gradient": gradient, "batch_order": batch_order, "full_loss_every": full_loss_every}
    with preserved(problem.model), tempfile.TemporaryDirectory() as folder:
        posterior, law = Posterior(problem), Law(nbeta=nbeta, localization=localization)
        return run_chains(
            lambda: Walk(posterior, law, chains, seed=seed, batch_size=size, **stream),
            make_kernel(sampler, step_size, **options) if isinstance(sampler, str) else sampler,
            chains,
            until=steps,
            store=ChainStore(folder),
        )


def expected_llc(
    h: np.ndarray,
    *,
    sampler: str,
    step_size: float,
    nbeta: float,
    localization: float,
    preconditioner: np.ndarray | float = 1.0,
) -> float:
    """½ Σ nβh_i/a_i, a_i = nβh_i + γ, for an exact sampler; for SGLD each term is divided by 1 − εA_i a_i/4."""
    a = nbeta * h + localization
    shrink = 1 - step_size * preconditioner * a / 4 if "sgld" in sampler else 1.0
    return float((0.5 * nbeta * h / (a * shrink)).sum())


def assert_mean(draws: np.ndarray, truth: float, *, min_ess: float = 400, sigmas: float = 4) -> None:
    """The mean of draws `[chain, draw]` is `truth` within `sigmas` MCSE, at an ESS that makes that a sharp claim.

    At 4 sigmas a right sampler fails one check in 16,000; the seeds are fixed, so it passes always or never.
    """
    size = statistics.ess(draws)
    assert size >= min_ess, f"only {size:.0f} effective draws"
    error = statistics.standard_error(draws)
    assert error < 0.1 * abs(truth), f"standard error {error:.3g} too wide to test {truth:.4g}"
    z = (draws.mean() - truth) / error
    assert abs(z) < sigmas, f"mean {draws.mean():.5g}, expected {truth:.5g}: {z:+.1f} standard errors"


def draws_of(trace: Trace, *, nbeta: float, burnin: int) -> np.ndarray:
    """nβ(L − L*) after burn-in, `[chain, draw]`."""
    return llc_draws(trace.loss, trace.init_loss, nbeta=nbeta, num_burnin_steps=burnin)
