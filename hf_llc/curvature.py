"""The largest curvature of the energy along a chain, which bounds the step size of every sampler."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_llc.posterior import Posterior

_REACH = 1e-3
"""Hessian-vector products are gradient differences over this distance, relative to ‖w‖: well above float32's rounding
of a gradient, well below the distance over which the Hessian of a network changes."""


class Curvature:
    """Running maximum of the largest eigenvalue of nβ∇²L_B(w) + γ, by power iteration.

    The direction found is kept from one call to the next: along a chain a few iterations follow it.

    Attributes:
        loss: the largest eigenvalue of nβ∇²L_B seen so far, at least 0.
        num_gradients: gradient evaluations spent.
    """

    def __init__(self, posterior: Posterior) -> None:
        self.posterior = posterior
        self.loss = 0.0
        self.num_gradients = 0
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(1, posterior.num_parameters, generator=generator, dtype=posterior.dtype)
        self._direction = v.to(posterior.device) / v.norm()

    @property
    def value(self) -> float:
        """κ: that of the energy, γ included."""
        return self.loss + self.posterior.localization

    def refresh(self, w: Tensor, indices: Tensor | None, *, iterations: int) -> float:
        """Look at the curvature at `w`, `[1, parameter]`, on a minibatch; returns κ, which never falls."""
        _, base = self.posterior.gradient(w, indices)
        length = _REACH * max(float(w.norm()), 1.0)
        self.num_gradients += 1
        for _ in range(iterations):
            _, moved = self.posterior.gradient(w + length * self._direction, indices)
            self.num_gradients += 1
            product = torch.cat([a - b for a, b in zip(moved, base, strict=True)], dim=1) / length
            size = float(product.norm())
            if not math.isfinite(size) or size == 0:
                return self.value
            self._direction = product / size
            found = self.posterior.nbeta * size
        self.loss = max(self.loss, found)
        return self.value
