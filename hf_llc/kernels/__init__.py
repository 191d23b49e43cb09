"""One sampler a file. A kernel has `step(walk, indices, step, measure) -> Step`, which moves `walk.w` in place."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from hf_llc.kernels.mala import MALA
from hf_llc.kernels.sgld import SGLD
from hf_llc.walk import Step, Walk

__all__ = ["MALA", "SGLD", "Kernel", "make_kernel"]


class Kernel(Protocol):
    """One sampler: moves every chain of a walk by one step."""

    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """Move `walk.w` in place; `measure` asks for the acceptance probability too."""
        ...


def make_kernel(name: str, step_size: float) -> Kernel:
    """The kernel called `name` ("sgld" or "mala") at step size ε."""
    return {"sgld": SGLD, "mala": MALA}[name](step_size)
