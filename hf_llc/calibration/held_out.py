"""Does minimize serve these data alone? A shorter minimization, which never sees a tenth of the examples, tells.

The minimization itself sees all examples, so that its end is a minimum of L_n. A second one from w*, with the same
learning rate and a quarter of the steps, leaves a tenth out. Where the loss of that tenth rises, the way from w* leads
to what only the examples seen have in common.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from hf_llc.backend.random_streams import counter_seed
from hf_llc.calibration.minimize import Saved, adam
from hf_llc.posterior.posterior import Posterior

_TENTH = 10
SHARE = 4
"""The second minimization has a quarter of the steps of the first."""

_FEWEST, _MOST = 20, 2000
"""Examples held out: with fewer nothing could be told, and more would cost more than they tell."""

_PARTS = 16
"""Parts of the examples held out, whose spread gives the error."""


def held_out(
    posterior: Posterior, *, rate: float, steps: int, batch_size: int, state: Path, seal: str, save_seconds: float
) -> dict[str, Any] | None:
    """How a minimization from w* changes the loss of examples that it does not see.

    Args:
        posterior: losses and gradients around w*.
        rate: first learning rate.
        steps: of the minimization that saw all examples.
        batch_size: examples a step.
        state: file of the optimizer's state, from which a killed run continues.
        seal: of the run, for that file.
        save_seconds: time between two writes of it.

    Returns:
        `held_out_examples`: how many. `held_out_before`, `held_out_after`: their loss at w* and at the end.
        `held_out_rise`, `held_out_se`: the change and its standard error. `num_gradients`: in minibatches. None: the
        examples are too few, or the time was up.
    """
    generator = torch.Generator().manual_seed(counter_seed(posterior.num_examples, purpose="held out"))
    order = torch.randperm(posterior.num_examples, generator=generator).to(posterior.device)
    count, steps = min(posterior.num_examples // _TENTH, _MOST), steps // SHARE
    if count < _FEWEST or steps == 0:
        return None
    away, seen = order[None, :count], order[None, count:]
    size = min(batch_size, seen.shape[1])
    circle = torch.cat([seen, seen[:, : size - 1]], dim=1)

    def batch(step: int) -> torch.Tensor:
        start = step * size % seen.shape[1]
        return circle[:, start : start + size]

    w, taken = adam(
        posterior, batch, rate=rate, steps=steps, saved=Saved.read(state, seal, posterior.group),
        save=lambda now: now.write(state, seal), save_seconds=save_seconds,
    )  # fmt: skip
    if taken < steps:
        return None
    before, parts = float(posterior.paired_loss(away, 1)), away.chunk(_PARTS, dim=1)
    rises = [float(posterior.gradient(w, part)[0]) - float(posterior.paired_loss(part, 1)) for part in parts]
    sizes = torch.tensor([part.shape[1] for part in parts], dtype=torch.float64)
    values = torch.tensor(rises, dtype=torch.float64)
    rise = float((sizes * values).sum() / sizes.sum())
    return {
        "held_out_examples": count,
        "held_out_before": before,
        "held_out_after": before + rise,
        "held_out_rise": rise,
        "held_out_se": float(values.std()) / math.sqrt(len(values)),
        "num_gradients": steps + -(-count // batch_size),
    }
