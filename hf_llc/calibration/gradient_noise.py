"""Q, the power of the noise of minibatch gradients, from two minibatches."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_llc.posterior.posterior import Posterior


def gradient_noise(
    posterior: Posterior, w: Tensor, first: Tensor, second: Tensor, *, anchor: Tensor, nbeta: float
) -> tuple[float, float]:
    """Q = E‖nβ(∇L_B(w) − ∇L_n(w))‖² from two minibatches, plain and with the control variate.

    Half the squared difference of two independent unbiased gradients is an unbiased estimate of the variance of either.

    Args:
        posterior: losses and gradients.
        w: position, `[1, parameter]`.
        first: a minibatch, int64 `[1, m]`.
        second: another minibatch, int64 `[1, m]`.
        anchor: w*, `[1, parameter]`.
        nbeta: nβ.

    Returns:
        Q of plain gradients ∇L_B(w), and of ∇L_B(w) − ∇L_B(w*) + ∇L_n(w*).
    """
    at_w = _difference(posterior, w, first, second)
    plain = _square(posterior, at_w)
    at_anchor = _difference(posterior, anchor, first, second)
    controlled = _square(posterior, [a.sub_(b) for a, b in zip(at_w, at_anchor, strict=True)])
    return nbeta**2 * plain / 2, nbeta**2 * controlled / 2


def _difference(posterior: Posterior, w: Tensor, first: Tensor, second: Tensor) -> list[Tensor]:
    """∇L_B(w) on one minibatch minus that on another, in pieces."""
    one = posterior.gradient(w, first)[1]
    return [a.sub_(b) for a, b in zip(one, posterior.gradient(w, second)[1], strict=True)]


def _square(posterior: Posterior, parts: list[Tensor]) -> float:
    """Squared norm of a vector in pieces, over all shards."""
    total = torch.zeros((), dtype=torch.float64, device=posterior.device)
    for part in parts:
        total = total + part.square().sum(dtype=torch.float64)
    return float(posterior.buffer.sum_over_shards(total))
