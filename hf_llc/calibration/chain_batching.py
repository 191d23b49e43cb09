"""How many chains to step together: as many as each process has where a short measurement finds that faster."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from hf_llc.backend.random_streams import BatchStream
from hf_llc.posterior.posterior import Posterior

_ROUNDS = 5
"""Both ways take turns, so that what else the machine does hits both; the fastest of each counts."""

_WORTH = 0.9
"""Batched chains have to take less than this part of the time: they take more memory."""


def choose(posterior: Posterior, *, num_chains: int, num_groups: int, batch_size: int, seed: int) -> dict[str, Any]:
    """Time a gradient of one chain and of a process's share of the chains, by vmap. All processes of a group ask.

    Args:
        posterior: whose gradients.
        num_chains: of the estimate.
        num_groups: of processes that share them.
        batch_size: examples a step.
        seed: of the batches.

    Returns:
        `chain_batch_size`, and the milliseconds a chain-step of either way (`one`, `together`; None: not possible).
    """
    share = math.ceil(num_chains / num_groups)
    if share == 1:
        return {"chain_batch_size": 1, "one": None, "together": None}
    one = _gradient(posterior, 1, batch_size, seed)
    try:
        together = _gradient(posterior, share, batch_size, seed)
        seconds = _times(one, together)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):  # no vmap for it, or no memory
        return {"chain_batch_size": 1, "one": None, "together": None}
    each = [1e3 * seconds[0], 1e3 * seconds[1] / share]
    is_worth_it = each[1] < _WORTH * each[0]
    return {"chain_batch_size": share if is_worth_it else 1, "one": each[0], "together": each[1]}


def _gradient(posterior: Posterior, count: int, batch_size: int, seed: int) -> Callable[[], Tensor]:
    """A gradient of `count` chains at w*; done once already, so that what is made on first use is made."""
    w = posterior.start(count)
    batches = BatchStream(
        seed, range(count), num_examples=posterior.num_examples, batch_size=batch_size, device=posterior.device
    )

    def once() -> Tensor:
        return posterior.gradient(w, batches.indices(0))[0]

    once()
    return once


def _times(one: Callable[[], Tensor], together: Callable[[], Tensor]) -> tuple[float, float]:
    """Seconds of each, the least of all rounds."""
    best = [math.inf, math.inf]
    for _ in range(_ROUNDS):
        for which, work in enumerate((one, together)):
            begun = time.perf_counter()
            float(work().sum())  # waits for the device
            best[which] = min(best[which], time.perf_counter() - begun)
    return best[0], best[1]
