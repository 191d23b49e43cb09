"""Which share of the gradient noise heats λ̂: the noise along directions that the loss holds, not the localization.

A gradient whose noise has power V_i along direction i of curvature nβh_i raises E[nβL] by (ε_eff/8)·ω·Σ V_i, with

    ω = Σ V_i nβh_i/(nβh_i + γ) / Σ V_i,

1 where γ is weak (`pilot`). ω is ⟨η, f(nβ∇²L) η⟩/⟨η, η⟩ for a sample η of the noise and f(x) = x/(x + γ): Lanczos'
method started at η gives it as a Gauss quadrature (Golub and Meurant 1994) in a few products, since f is smooth on the
scale of γ, and the same nodes serve every γ.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hf_llc.judging import statistics
from hf_llc.posterior.curvature import hessian_product
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.records.trace import Trace
from hf_llc.samplers.walk import Walk

HEAT = -3
"""The chain number of what is drawn here."""

_PRODUCTS = 6
"""Products with the Hessian."""

_BATCHES = 16
"""The Hessian is that of so many batches: that of few has a noise of its own, on the scale of γ or above."""

_LITTLE = 0.02
"""Part of λ̂ below which the heat of gradient noise is taken as it is: at most."""

NUM_GRADIENTS = 4 + _BATCHES * (_PRODUCTS + 1)
"""What it costs, in gradients of a batch, at most."""


Spectrum = list[list[float]]
"""Curvatures nβh and the shares of the noise's power at them: nodes and weights of the quadrature."""


def matters(trace: Trace, *, nbeta: float, num_burnin_steps: int) -> bool:
    """Whether the heat that the chains measured is more than a little of λ̂, so that its share is worth finding."""
    excess = nbeta * (trace.loss - trace.init_loss)[:, num_burnin_steps:].mean()
    return statistics.mean_of(trace.heat[:, num_burnin_steps:]) > _LITTLE * abs(excess)


def heating_share(spectrum: Spectrum, localization: float) -> float:
    """ω at this γ, between 0 and 1.

    f is continued oddly below 0: there the Hessian of few batches is negative by its own noise, as much as it is too
    large elsewhere.
    """
    if localization == 0:
        return 1.0
    share = sum(weight * value / (abs(value) + localization) for value, weight in spectrum)
    return min(max(share, 0.0), 1.0)


@torch.no_grad()
def noise_spectrum(posterior: Posterior, law: Law, w: Tensor, *, seed: int, batch_size: int, gradient: str) -> Spectrum:
    """Where in the spectrum of the loss the noise of minibatch gradients lies.

    Args:
        posterior: losses and gradients.
        law: nβ and γ of the chain.
        w: where a chain is, `[1, parameter]`.
        seed: of the batches.
        batch_size: of the chain's gradients.
        gradient: "plain" or "control-variate": whose noise.

    Returns:
        The spectrum; all of it at infinity, ω = 1, where it cannot be told: no noise, or a loss that is not finite.
    """
    walk = Walk(posterior, law, [HEAT], seed=seed, batch_size=batch_size, w=w, gradient=gradient)
    one, other = (walk.gradient(walk.batches.indices(step))[1] for step in range(2))
    noise = torch.cat([a - b for a, b in zip(one, other, strict=True)], dim=1)
    batches = [walk.batches.indices(2 + step) for step in range(_BATCHES)]
    indices = torch.cat([batch for batch in batches if batch is not None], dim=1)
    return _quadrature(posterior, law, w, noise, indices)


_UNKNOWN: Spectrum = [[1e300, 1.0]]


def _quadrature(posterior: Posterior, law: Law, w: Tensor, noise: Tensor, indices: Tensor) -> Spectrum:
    size = float(posterior.norm(noise))
    if not size > 0 or not np.isfinite(size):
        return _UNKNOWN
    base = posterior.gradient(w, indices)[1]
    before, v, beta = torch.zeros_like(noise), noise / size, 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(_PRODUCTS):
        product = hessian_product(posterior, w, indices, base, v).mul_(law.nbeta).sub_(before, alpha=beta)
        alpha = float(posterior.over_shards((product.double() * v).sum()))
        product.sub_(v, alpha=alpha)
        diagonal.append(alpha)
        beta = float(posterior.norm(product))
        if not np.isfinite(alpha + beta):
            return _UNKNOWN
        if beta < 1e-6 * max(abs(alpha), law.localization):
            break
        beside.append(beta)
        before, v = v, product / beta
    off = beside[: len(diagonal) - 1]
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    return [[float(x), float(v) ** 2] for x, v in zip(values, vectors[0], strict=True)]
