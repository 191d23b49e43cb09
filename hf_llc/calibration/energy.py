"""The energy U that a descent lowers, and the gradients at w* that it needs.

U(w) = nβ(L_n(w) − L_n(w*)) + (γ/2)‖w − w*‖², of all examples or of some of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_llc.posterior.curvature import inner_product
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.stage_files import KeptTensors


class AtWStar:
    """∇L_n(w*), and ∇L_B(w*) of examples, each `[1, parameter]`.

    Args:
        posterior: losses and gradients around w*.
        kept: the gradients of a descent.
        is_shared: the chains need them too, for their control variate; then they are `Posterior.anchor_gradients`,
            which may be known already.
    """

    def __init__(self, posterior: Posterior, kept: KeptTensors, *, is_shared: bool) -> None:
        self._posterior, self._is_shared = posterior, is_shared
        if is_shared:  # which keep themselves
            self.mean = torch.cat(posterior.anchor_gradients.mean, dim=1)
        else:
            (self.mean,) = kept.once("mean", lambda: [self.of(None)])

    def of(self, indices: Tensor | None) -> Tensor:
        """∇L_B(w*) of the examples `indices`, int64 `[1, m]`; None: all."""
        w_star, anchors = self._posterior.start(1), self._posterior.anchor_gradients
        pieces = anchors.of(indices, w_star) if self._is_shared else self._posterior.gradient(w_star, indices)[1]
        return torch.cat(pieces, dim=1)

    def tilt(self, indices: Tensor) -> Tensor:
        """∇L_B(w*) − ∇L_n(w*)."""
        return self.of(indices) - self.mean

    def spent(self, num_examples: int) -> int:
        """Gradients of single examples that these took, `num_examples` of them beside the mean.

        That of the mean belongs to the control variate where that has one.
        """
        if not self._is_shared:
            return self._posterior.num_examples + num_examples
        return 0 if self._posterior.anchor_gradients.are_kept else num_examples


class Energy:
    """U of the examples `indices`, made to have the gradient of all examples at w* (a control variate).

    A minimum of all examples is none of fewer. The term −⟨∇L_B(w*) − ∇L_n(w*), w − w*⟩ takes that away: where ∇L_n(w*)
    is zero, the gradient of this U at w* is zero too, whichever the examples.
    """

    def __init__(self, posterior: Posterior, law: Law, indices: Tensor | None, tilt: Tensor | None) -> None:
        self.posterior, self.law, self.indices, self.tilt = posterior, law, indices, tilt
        self.w_star = posterior.start(1)
        self.reference = float(posterior.paired_loss(indices, 1))

    def excess(self, w: Tensor) -> tuple[float, Tensor]:
        """nβ(L(w) − L(w*)) and ∇L(w), `[1, parameter]`."""
        loss, pieces = self.posterior.gradient(w, self.indices)
        excess, grad = float(loss) - self.reference, torch.cat(pieces, dim=1)
        if self.tilt is not None:
            excess -= float(inner_product(self.tilt, w - self.w_star))
            grad.sub_(self.tilt)
        return self.law.nbeta * excess, grad

    def pull(self, w: Tensor) -> float:
        """(γ/2)‖w − w*‖²."""
        step = w - self.w_star
        return self.law.localization / 2 * float(inner_product(step, step))

    def gradient(self, w: Tensor) -> tuple[float, Tensor]:
        """U and ∇U."""
        excess, grad = self.excess(w)
        grad.mul_(self.law.nbeta).add_(w - self.w_star, alpha=self.law.localization)
        return excess + self.pull(w), grad
