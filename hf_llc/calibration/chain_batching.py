"""How many chains to step together: all chains of a process if a short measurement finds that faster, otherwise one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from hf_llc.backend.random_streams import BatchStream
from hf_llc.posterior.posterior import Posterior

_ROUNDS = 5
"""Timings of each way. The two take turns, so that other load on the machine hits both; the fastest of each counts."""

_WORTHWHILE = 0.9
"""Batched chains must take less than this share of the time a chain-step, because they take more memory."""


def fastest_chain_batch(
    posterior: Posterior, *, num_chains: int, num_groups: int, batch_size: int, seed: int
) -> dict[str, Any]:
    """Time a gradient of one chain and of all chains of a process under vmap. All processes of a group must call it.

    Args:
        posterior: losses and gradients.
        num_chains: chains of the estimate.
        num_groups: groups of processes that share the chains.
        batch_size: examples a step.
        seed: seed of the minibatches.

    Returns:
        `chain_batch_size`, and the milliseconds of a chain-step one by one (`one`) and batched (`together`); both are
        None if chains cannot be batched.
    """
    share = math.ceil(num_chains / num_groups)
    if share == 1:
        return {"chain_batch_size": 1, "one": None, "together": None}
    one = _gradient(posterior, 1, batch_size, seed)
    try:
        together = _gradient(posterior, share, batch_size, seed)
        seconds = times_in_turn(one, together)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):  # no vmap rule, or no memory
        return {"chain_batch_size": 1, "one": None, "together": None}
    one_ms, together_ms = 1e3 * seconds[0], 1e3 * seconds[1] / share
    is_faster = together_ms < _WORTHWHILE * one_ms
    return {"chain_batch_size": share if is_faster else 1, "one": one_ms, "together": together_ms}


def _gradient(posterior: Posterior, count: int, batch_size: int, seed: int) -> Callable[[], Tensor]:
    """A function that takes a gradient of `count` chains at w*, called once already to compile and allocate."""
    w = posterior.start(count)
    batches = BatchStream(
        seed, range(count), num_examples=posterior.num_examples, batch_size=batch_size, device=posterior.device
    )

    def once() -> Tensor:
        return posterior.gradient(w, batches.indices(0))[0]

    once()
    return once


def times_in_turn(one: Callable[[], Tensor], other: Callable[[], Tensor]) -> tuple[float, float]:
    """Seconds of each function, the least of all rounds."""
    best = [math.inf, math.inf]
    for _ in range(_ROUNDS):
        for which, gradient in enumerate((one, other)):
            begun = time.perf_counter()
            float(gradient().sum())  # waits for the device
            best[which] = min(best[which], time.perf_counter() - begun)
    return best[0], best[1]
