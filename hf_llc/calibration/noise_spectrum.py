"""The share ω of the gradient noise that heats λ̂: the noise along directions that the loss, not γ, confines.

Noise with variance V_i along direction i of curvature nβh_i raises E[nβL] by (ε_eff/8)·ω·Σ V_i, with

    ω = Σ V_i nβh_i/(nβh_i + γ) / Σ V_i = ⟨η, f(nβ∇²L) η⟩/⟨η, η⟩,    f(x) = x/(x + γ),

η a sample of the noise. Derived in docs/mathematics.md.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hf_llc.judging import statistics
from hf_llc.judging.heat import SIGNIFICANT_HEAT
from hf_llc.posterior.curvature import hessian_product
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
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

    Returns:
        The spectrum. If there is no noise or the loss is not finite, all of it lies at infinity, so that ω = 1.
    """
    walk = Walk(posterior, law, [HEAT], seed=seed, batch_size=batch_size, w=w, gradient=gradient)
    batches = [walk.batches.indices(2 + step) for step in range(NUM_BATCHES)]
    indices = torch.cat([batch for batch in batches if batch is not None], dim=1)
    base = posterior.gradient(w, indices)[1]  # of which every product takes a difference
    spectra: list[Spectrum] = []
    powers: list[float] = []
    for sample in range(num_samples):
        at = 2 + NUM_BATCHES + 2 * sample if sample else 0
        one, other = (walk.gradient(walk.batches.indices(at + step))[1] for step in range(2))
        noise = torch.cat([a - b for a, b in zip(one, other, strict=True)], dim=1)
        spectra.append(_lanczos(posterior, law, w, noise, indices, base))
        powers.append(float(posterior.buffer.norm(noise)) ** 2)
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
    posterior: Posterior, law: Law, w: Tensor, noise: Tensor, indices: Tensor, base: list[Tensor]
) -> list[list[float]]:
    """Nodes and weights of the Gauss quadrature, by Lanczos' method started at `noise`. `base`: ∇L(w) of them."""
    size = float(posterior.buffer.norm(noise))
    if not size > 0 or not np.isfinite(size):
        return _AT_INFINITY
    v_before, v, beta = torch.zeros_like(noise), noise / size, 0.0
    diagonal: list[float] = []  # of the tridiagonal matrix
    off_diagonal: list[float] = []
    for _ in range(_PRODUCTS):
        product = hessian_product(posterior, w, indices, base, v).mul_(law.nbeta).sub_(v_before, alpha=beta)
        alpha = float(posterior.buffer.sum_over_shards((product.double() * v).sum()))
        product.sub_(v, alpha=alpha)
        diagonal.append(alpha)
        beta = float(posterior.buffer.norm(product))
        if not np.isfinite(alpha + beta):
            return _AT_INFINITY
        if beta < 1e-6 * max(abs(alpha), law.localization):
            break  # the noise lies in the directions found so far
        off_diagonal.append(beta)
        v_before, v = v, product / beta
    off = off_diagonal[: len(diagonal) - 1]
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    return [[float(x), float(v) ** 2] for x, v in zip(values, vectors[0], strict=True)]
