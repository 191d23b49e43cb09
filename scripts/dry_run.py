"""What `--dry-run` prints: the jobs of an experiment with all their settings, and what they would take.

Nothing is read and nothing written, and no data are needed. Seconds are an estimate to a factor of three or so: the
larger of the operations over the rate at which this machine multiplies matrices (or `--operations-a-second`, of
another), and of the gradients times what one takes at least. Each script knows that from its rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_SHARE = 0.5
"""Of the rate of matrix products that training and sampling reach."""

_SIDE = 768


@dataclass(frozen=True)
class Cost:
    """What a job takes.

    Attributes:
        gradients: of minibatches, training and sampling together.
        operations: floating-point ones, passes without a gradient included.
        least: seconds that a gradient takes at least on a CPU, however small the network.
    """

    gradients: int
    operations: float
    least: float = 3e-4

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.gradients + other.gradients, self.operations + other.operations, max(self.least, other.least))


def dense(parameters: int, examples: float) -> float:
    """Operations of the gradients of so many examples of a network of matrices: 2 forward, 4 backward a weight."""
    return 6.0 * parameters * examples


def counted(model: nn.Module, loss: Callable[[Any], Tensor], inputs: Tensor) -> float:
    """Operations of the gradient of one of `inputs`, as torch counts them, one forward and backward pass over all."""
    with FlopCounterMode(display=False) as counter:
        loss(model(inputs)).backward()
    return counter.get_total_flops() / len(inputs)


def rate_here() -> float:
    """Operations a second that this machine may be expected to reach, from products of matrices."""
    one = torch.ones(_SIDE, _SIDE)
    seconds = []
    for _ in range(4):
        begun = time.perf_counter()
        torch.mm(one, one)
        seconds.append(time.perf_counter() - begun)
    return _SHARE * 2 * _SIDE**3 / min(seconds)


def print_plan(
    jobs: Sequence[dict[str, Any]],
    settings: Mapping[str, Any],
    cost: Callable[[dict[str, Any]], Cost],
    *,
    rate: float | None = None,
) -> None:
    """Print a JSON line a job, and one for all of them.

    Args:
        jobs: of the experiment.
        settings: what they share; a job's own go before.
        cost: job → what it takes.
        rate: operations a second; None: of this machine.
    """
    is_here = rate is None
    rate = rate_here() if rate is None else rate
    total = {"jobs": len(jobs), "gradients": 0, "operations": 0.0, "seconds": 0.0}
    for job in jobs:
        found = cost(job)
        seconds = max(found.operations / rate, found.gradients * (found.least if is_here else 0.0))
        taken = {"gradients": found.gradients, "operations": found.operations, "seconds": round(seconds, 3)}
        for name, value in taken.items():
            total[name] += value
        print(json.dumps({**settings, **job, **taken}, ensure_ascii=False, default=str))
    print(json.dumps({**total, "hours": round(total["seconds"] / 3600, 3), "operations_a_second": round(rate)}))
