"""The share ω of the gradient noise that heats λ̂: the noise along directions that the loss, not γ, confines.

Noise with variance V_i along direction i of curvature nβh_i raises E[nβL] by (ε_eff/8)·ω·Σ V_i, with

    ω = Σ V_i nβh_i/(nβh_i + γ) / Σ V_i = ⟨η, f(nβ∇²L) η⟩/⟨η, η⟩,    f(x) = x/(x + γ),

η a sample of the noise. Derived in docs/mathematics.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hf_llc.judging import statistics
from hf_llc.judging.heat import SIGNIFICANT_HEAT
from hf_llc.posterior.curvature import hessian_product, inner_product
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.stage_files import Journal
from hf_llc.records.trace import Trace
from hf_llc.samplers.walk import Walk

HEAT = -3
"""Chain number of the minibatches drawn here. No chain of an estimate has it."""

_PRODUCTS = 6
"""Products with the Hessian. Few are enough because f is smooth on the scale of γ."""

NUM_BATCHES = 16
"""Minibatches of the Hessian. The Hessian of fewer has sampling noise of the size of γ or above."""

_SAMPLES = 4
"""Samples of the noise where the first one says that much of it does not heat λ̂. Where a few examples carry the noise,
one sample is as good as none: 0, 0.25 and 0.81 of it were seen at one place of a text classifier."""

_SURE = 0.8
"""ω of the first sample from which on it is the only one: what more would change is within the formula's error."""

_COST = 4 + NUM_BATCHES * _PRODUCTS
"""Of a sample, in gradients of a minibatch, at most."""

NUM_GRADIENTS = NUM_BATCHES + _SAMPLES * _COST
"""Cost of a spectrum, in gradients of a minibatch, at most: all samples are seen from one place."""


def samples_within(num_gradients: int) -> int:
    """How many samples chains of `num_gradients` pay for: those that cost a quarter of the chains, but one at least."""
    return min(max(num_gradients // (4 * (NUM_BATCHES + _COST)), 1), _SAMPLES)


def cost_within(num_gradients: int) -> int:
    """Cost of the spectrum that chains of `num_gradients` pay for, in gradients of a minibatch, at most."""
    return NUM_BATCHES + samples_within(num_gradients) * _COST


Spectrum = list[list[float]]
"""Nodes and weights of the quadrature, and the sample of each: curvatures nβh, and the share of the power at each."""


def gradients_of(spectrum: Spectrum) -> int:
    """What a spectrum has cost, in gradients of a minibatch."""
    return NUM_BATCHES + _COST * len({sample for *_, sample in spectrum})


def is_heat_significant(trace: Trace, *, nbeta: float, num_burnin_steps: int) -> bool:
    """True if the heat that the chains measured is above 2 % of λ̂, so that its share ω is worth computing."""
    excess = nbeta * (trace.loss - trace.init_loss)[:, num_burnin_steps:].mean()
    return statistics.mean_of(trace.heat[:, num_burnin_steps:]) > SIGNIFICANT_HEAT * abs(excess)


def heating_share(spectrum: Spectrum, localization: float) -> float:
    """ω at this γ, between 0 and 1."""
    if localization == 0:
        return 1.0
    # f is continued as an odd function below 0. Sampling noise of the Hessian makes some of its eigenvalues negative,
    # and others as much too large; an odd f lets the two errors cancel.
    share = sum(weight * value / (abs(value) + localization) for value, weight, _ in spectrum)
    return min(max(share, 0.0), 1.0)


def heat_error(trace: Trace, spectrum: Spectrum, localization: float, *, num_burnin_steps: int) -> float:
    """Standard error of the heat from that of ω, its spread over the samples (a ratio of means); 0 if there is one.

    Args:
        trace: with all of the heat, whatever it reaches.
        spectrum: of the noise.
        localization: γ.
        num_burnin_steps: steps dropped at the start.
    """
    numbers = {number for *_, number in spectrum}
    if localization == 0 or len(numbers) < 2:
        return 0.0
    terms = [(number, weight, value / (abs(value) + localization)) for value, weight, number in spectrum]
    mean = sum(weight * f for _, weight, f in terms)
    off = [sum(weight * (f - mean) for number, weight, f in terms if number == one) for one in numbers]
    error = float(np.sqrt(len(off) / (len(off) - 1) * np.square(off).sum()))
    return error * statistics.mean_of(trace.heat[:, num_burnin_steps:])


@torch.no_grad()
def noise_spectrum(
    posterior: Posterior,
    law: Law,
    w: Tensor,
    *,
    seed: int,
    batch_size: int,
    gradient: str,
    num_samples: int = _SAMPLES,
    journal: Journal | None = None,
) -> Spectrum:
    """The distribution of the gradient noise's power over the eigenvalues of nβ∇²L.

    Lanczos' method started at a sample of the noise gives it as a Gauss quadrature (Golub and Meurant 1994). Several
    samples count by their power. The nodes do not depend on γ, so one spectrum serves every γ.

    Args:
        posterior: losses and gradients.
        law: nβ and γ of the chain.
        w: position of a chain, `[1, parameter]`.
        seed: seed of the minibatches.
        batch_size: examples of the chain's gradients.
        gradient: kind of gradient whose noise is meant, "plain" or "control-variate".
        num_samples: of the noise, at most.
        journal: of the stage that needs it, in which each product is a step; None: nothing is kept.

    Returns:
        The spectrum. If there is no noise or the loss is not finite, all of it lies at infinity, so that ω = 1.
    """
    walk = Walk(posterior, law, [HEAT], seed=seed, batch_size=batch_size, w=w, gradient=gradient)
    batches = [walk.batches.indices(2 + step) for step in range(NUM_BATCHES)]
    indices = torch.cat([batch for batch in batches if batch is not None], dim=1)
    base = functools.cache(lambda: posterior.gradient(w, indices)[1])  # of which every product takes a difference
    journal = journal or Journal(posterior.buffer)
    spectra: list[list[list[float]]] = []
    powers: list[float] = []
    for sample in range(num_samples):
        at = 2 + NUM_BATCHES + 2 * sample if sample else 0

        def noise(at: int = at) -> Tensor:
            one, other = (walk.gradient(walk.batches.indices(at + step))[1] for step in range(2))
            return torch.cat([a - b for a, b in zip(one, other, strict=True)], dim=1)

        size, spectrum = _lanczos(
            posterior, law, noise, lambda v: hessian_product(posterior, w, indices, base(), v), journal
        )
        spectra.append(spectrum)
        powers.append(size**2)
        if sample == 0 and heating_share([[*node, 0] for node in spectra[0]], law.localization) >= _SURE:
            break
    total = sum(powers)
    if not (0 < total < np.inf):
        return [[*_AT_INFINITY[0], 0]]
    return [
        [value, weight * power / total, number]
        for number, (spectrum, power) in enumerate(zip(spectra, powers, strict=True))
        for value, weight in spectrum
    ]


_AT_INFINITY = [[1e300, 1.0]]


def _lanczos(
    posterior: Posterior, law: Law, noise: Callable[[], Tensor], product: Callable[[Tensor], Tensor], journal: Journal
) -> tuple[float, list[list[float]]]:
    """‖η‖, and nodes and weights of the Gauss quadrature, by Lanczos' method started at η, a sample of the noise.

    Args:
        posterior: whose vectors these are.
        law: nβ and γ.
        noise: gives η, `[1, parameter]`.
        product: v → ∇²L(w) v.
        journal: each product is a step of it.
    """
    held: dict[str, Tensor] = journal.hold("lanczos", {})
    buffer = posterior.buffer

    def begin() -> Tensor:
        start = noise()
        length = buffer.norm(start)
        held["before"], held["v"] = torch.zeros_like(start), start.div_(float(length))
        return length

    def advance() -> Tensor:
        v = held["v"]
        u = product(v).mul_(law.nbeta).sub_(held["before"], alpha=beta)
        alpha = float(buffer.sum_over_shards(inner_product(u, v)))
        u.sub_(v, alpha=alpha)
        length = float(buffer.norm(u))
        held["before"], held["v"] = v, u.div_(length) if length > 0 else u
        return torch.tensor([alpha, length], dtype=torch.float64, device=u.device)

    size = float(journal.once(begin))
    beta = 0.0
    diagonal: list[float] = []  # of the tridiagonal matrix
    off_diagonal: list[float] = []
    for _ in range(_PRODUCTS if size > 0 and np.isfinite(size) else 0):
        alpha, beta = journal.once(advance).tolist()
        diagonal.append(alpha)
        if not np.isfinite(alpha + beta):
            diagonal.clear()
            break
        if beta < 1e-6 * max(abs(alpha), law.localization):
            break  # the noise lies in the directions found so far
        off_diagonal.append(beta)
    journal.drop("lanczos")
    return size, _quadrature(diagonal, off_diagonal) if diagonal else _AT_INFINITY


def _quadrature(diagonal: list[float], off_diagonal: list[float]) -> list[list[float]]:
    """Nodes and weights from a tridiagonal matrix."""
    off = off_diagonal[: len(diagonal) - 1]
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    return [[float(x), float(v) ** 2] for x, v in zip(values, vectors[0], strict=True)]
