"""Move w* to the nearest minimum ŵ of L_n, in memory: λ̂ is defined at a minimum."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_llc.backend.random_streams import BatchStream
from hf_llc.files import write_atomically
from hf_llc.parallel.group import Group
from hf_llc.parallel.pacing import Pacer, deferred_interrupt
from hf_llc.posterior.posterior import Posterior

MINIMIZER = -1
"""Chain number of the minimizer's batch order. No chain of an estimate has it."""

_SEED = 0
"""Seed of the batch order, whatever the seed of the chains: λ̂ with another seed is λ̂ of the same ŵ."""

_LEARNING_RATES = (1e-3, 1e-4, 1e-5)


def minimize(
    posterior: Posterior,
    *,
    steps: int,
    batch_size: int,
    state: Path,
    save_seconds: float = 20.0,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[Tensor, dict[str, Any]]:
    """Minimize L_n from w* by Adam (Kingma and Ba 2015) on minibatches, with a cosine learning rate that ends at zero.

    The first learning rate is 1e-3. If L_n does not fall, the next attempt begins at w* again with a tenth of it, twice
    at most; if L_n never falls, ŵ is w*. nβ and γ play no part.

    Args:
        posterior: losses and gradients around w*.
        steps: gradient steps of an attempt.
        batch_size: examples a step.
        state: file of the optimizer's state, from which a killed run continues.
        save_seconds: time between two writes of `state`, in seconds.
        report: called with the step and a running mean of the minibatch loss.

    Returns:
        ŵ, `[1, parameter]`, and a report: L_n before and after, distance ‖ŵ − w*‖, gradient evaluations.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with the state saved.
    """
    w_star = posterior.start(1)
    before, evaluations = posterior.init_loss, 0
    for attempt, rate in enumerate(_LEARNING_RATES):
        w = _descend(
            posterior,
            rate=rate,
            attempt=attempt,
            steps=steps,
            batch_size=batch_size,
            state=state,
            save_seconds=save_seconds,
            report=report,
        )
        evaluations += steps
        after = float(posterior.example_losses(w).mean())
        if after < before:
            break
    else:
        w, after, rate = w_star, before, 0.0
    distance = float((w - w_star).double().norm())
    return w, {
        "steps": steps,
        "learning_rate": rate,
        "loss_before": before,
        "loss_after": after,
        "gain": before - after,
        "distance": distance,
        "relative_distance": distance / max(float(w_star.double().norm()), 1e-300),
        "num_gradients": evaluations,
    }


def _descend(
    posterior: Posterior,
    *,
    rate: float,
    attempt: int,
    steps: int,
    batch_size: int,
    state: Path,
    save_seconds: float,
    report: Callable[[int, float], None],
) -> Tensor:
    """One attempt from w*, or the rest of it if `state` holds this attempt; returns the weights."""
    w = posterior.start(1)
    optimizer = torch.optim.Adam([w], lr=rate)
    batches = BatchStream(
        _SEED, [MINIMIZER], num_examples=posterior.num_examples, batch_size=batch_size, device=posterior.device
    )
    done = _restore(state, attempt, w, optimizer, posterior.group)
    saved, running, pacer = time.monotonic(), math.nan, Pacer(posterior.group, done)
    with deferred_interrupt() as is_asked:
        for step in range(done, steps):
            optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss, grad = posterior.gradient(w, batches.in_turn(step))
            w.grad = torch.cat(grad, dim=1)
            optimizer.step()
            is_last = step + 1 == steps
            if not is_last and not pacer.is_due(step + 1, is_asked):
                continue
            value = float(loss)
            running = value if math.isnan(running) else 0.8 * running + 0.2 * value
            report(step + 1, running)
            late = time.monotonic() - saved > save_seconds
            stops, saves = pacer.agree(step + 1, stop=is_asked(), save=late or is_last)
            if stops or saves:
                if posterior.group.leads:
                    _save(state, attempt, step + 1, w, optimizer)
                saved = time.monotonic()
            if stops:
                raise KeyboardInterrupt
    w.grad = None
    return w


def _save(path: Path, attempt: int, step: int, w: Tensor, optimizer: torch.optim.Adam) -> None:
    moments = optimizer.state[w]
    tensors = {"w": w.detach().cpu(), "exp_avg": moments["exp_avg"].cpu(), "exp_avg_sq": moments["exp_avg_sq"].cpu()}
    tensors["done"] = torch.tensor([attempt, step])
    write_atomically(path, lambda temporary: save_file(tensors, temporary))


def _restore(path: Path, attempt: int, w: Tensor, optimizer: torch.optim.Adam, group: Group) -> int:
    """Restore weights and optimizer if `path` holds this attempt; returns the steps done."""
    saved = group.from_leader(lambda: load_file(path) if path.exists() else {})
    if "done" not in saved or int(saved["done"][0]) != attempt:
        return 0
    step = int(saved["done"][1])
    w.copy_(saved["w"])
    optimizer.state[w] = {
        "step": torch.tensor(float(step)),
        "exp_avg": saved["exp_avg"].to(w.device),
        "exp_avg_sq": saved["exp_avg_sq"].to(w.device),
    }
    return step
