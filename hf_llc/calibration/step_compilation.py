"""Does torch.compile pay for the chains to come? A measurement of both ways, whose answer the run folder keeps."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from hf_llc.calibration.chain_batching import times_in_turn
from hf_llc.posterior.posterior import Posterior
from hf_llc.progress import watch

WORTH_A_TRIAL = 240.0
"""Seconds of gradients still to come from which on compiling, which takes half a minute to two, may pay."""

_WORTHWHILE = 0.95
"""Compiled gradients must take less than this share of the time: they are the eager ones to rounding only."""

_ALIKE = 1e-3
"""Difference of gradients, as a share of their length, above which they are not those of one function."""


def compile_if_faster(
    posterior: Posterior, *, num_gradients: float, num_chains: int, batch_size: int
) -> dict[str, Any]:
    """Compile the gradient of the chains' minibatches and time it; `posterior` is left eager.

    All processes of a group must call it; the answer of the leader counts.

    Args:
        posterior: losses and gradients, not compiled.
        num_gradients: that this process will take at least.
        num_chains: stepped together.
        batch_size: examples a step.

    Returns:
        `compile`: whether to (`OnePass.compile_for`). The milliseconds of a gradient, `eager` and `compiled`; None:
        it was not tried, failed, or was another function.
    """
    w = posterior.start(num_chains)
    indices = torch.arange(num_chains * batch_size, device=posterior.device).view(num_chains, -1)
    indices = None if batch_size == posterior.num_examples else indices % posterior.num_examples

    def eager() -> Tensor:
        posterior.one_pass.compile_for()
        return torch.cat(posterior.gradient(w, indices)[1], dim=1)

    def compiled() -> Tensor:
        posterior.one_pass.compile_for(num_chains=num_chains, batch_size=batch_size)
        return torch.cat(posterior.gradient(w, indices)[1], dim=1)

    seconds = None
    if _is_worth_a_trial(posterior, eager, num_gradients):
        try:
            exact, found = eager(), compiled()
            if float((found - exact).norm()) <= _ALIKE * float(exact.norm()):
                seconds = times_in_turn(eager, compiled)
        except (RuntimeError, ValueError, TypeError, NotImplementedError):  # no compiler, or code that it cannot take
            pass
    posterior.one_pass.compile_for()
    posterior.buffer.release()
    if seconds is None:
        return {"compile": False, "eager": None, "compiled": None}
    is_faster = seconds[1] < _WORTHWHILE * seconds[0]
    return {"compile": is_faster, "eager": 1e3 * seconds[0], "compiled": 1e3 * seconds[1]}


def _is_worth_a_trial(posterior: Posterior, eager: Any, num_gradients: float) -> bool:
    """Whether so many eager gradients, or the time that is left, take minutes; a group agrees on it."""
    eager()  # allocates
    begun = time.perf_counter()
    float(eager().sum())  # waits for the device
    seconds = min(num_gradients * (time.perf_counter() - begun), watch().seconds_until("sample"))
    return not posterior.group.max_of(seconds < WORTH_A_TRIAL)[0]
