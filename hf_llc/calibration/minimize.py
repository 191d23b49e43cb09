"""Move w* to the nearest minimum ŵ of L_n, in memory: λ̂ is defined at a minimum."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_llc.backend.random_streams import BatchStream
from hf_llc.parallel.group import Group
from hf_llc.parallel.pacing import Pacer, deferred_interrupt
from hf_llc.posterior.kept_losses import KeptLosses
from hf_llc.posterior.posterior import Posterior
from hf_llc.progress import watch
from hf_llc.seals import load_tensors, save_tensors

MINIMIZER = -1
"""Chain number of the minimizer's batch order. No chain of an estimate has it."""

_SEED = 0
"""Seed of the batch order, whatever the seed of the chains: λ̂ with another seed is λ̂ of the same ŵ."""

_LEARNING_RATES = (1e-3, 1e-4, 1e-5)
_MOMENTS = ("exp_avg", "exp_avg_sq")


def minimize(
    posterior: Posterior,
    *,
    steps: int,
    batch_size: int,
    state: Path,
    seal: str = "",
    save_seconds: float = 20.0,
    kept: Callable[[float], KeptLosses | None] = lambda rate: None,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[Tensor, dict[str, Any]]:
    """Minimize L_n from w* by Adam (Kingma and Ba 2015) on minibatches, with a cosine learning rate that ends at zero.

    The first learning rate is 1e-3. If L_n does not fall, the next attempt begins at w* again with a tenth of it, twice
    at most; if L_n never falls, ŵ is w*. nβ and γ play no part.

    Args:
        posterior: losses and gradients around w*.
        steps: gradient steps of an attempt.
        batch_size: examples a step.
        state: file of the optimizer's state, from which a killed run continues; finished attempts are not repeated.
        seal: of the run, for that file (`hf_llc.seals`).
        save_seconds: time between two writes of `state`, in seconds.
        kept: first learning rate of an attempt → where ℓ_i at its end are kept.
        report: called with the step and a running mean of the minibatch loss.

    Returns:
        ŵ, `[1, parameter]`, and a report: L_n before and after, distance ‖ŵ − w*‖, gradient evaluations.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with the state saved.
    """
    w_star = posterior.start(1)
    before, evaluations, taken = posterior.init_loss, 0, 0
    saved = Saved.read(state, seal, posterior.group)
    batches = BatchStream(
        _SEED, [MINIMIZER], num_examples=posterior.num_examples, batch_size=batch_size, device=posterior.device
    )
    for attempt, rate in enumerate(_LEARNING_RATES):
        if attempt < saved.attempt:
            evaluations += steps
            continue  # an attempt after it had begun, so L_n had not fallen
        w, taken = adam(
            posterior,
            batches.in_turn,
            rate=rate,
            saved=saved if attempt == saved.attempt else Saved(attempt),
            steps=steps,
            save=lambda now: now.write(state, seal),
            save_seconds=save_seconds,
            report=report,
        )
        evaluations += taken
        with watch().until("calibrate"):  # L_n at ŵ must be known
            losses = posterior.example_losses(w, kept=kept(rate))
        after = float(losses.mean())
        if after < before:
            break
        w, after, rate = w_star, before, 0.0
        if watch().is_over("minimize", posterior.group):
            break
    distance = float((w - w_star).double().norm())
    return w, {
        "steps": taken,
        "learning_rate": rate,
        "loss_before": before,
        "loss_after": after,
        "gain": before - after,
        "distance": distance,
        "relative_distance": distance / max(float(w_star.double().norm()), 1e-300),
        "num_gradients": evaluations,
    }


@dataclass
class Saved:
    """Where the minimizer is: the attempt, its steps, its weights and moments. A new attempt has none of these."""

    attempt: int = 0
    step: int = 0
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, seal: str, group: Group) -> Saved:
        """What is on disk, for every process of a group."""
        saved = dict(group.from_leader(lambda: load_tensors(path, seal=seal) if path.exists() else {}))
        if not saved:
            return cls()
        attempt, step = saved.pop("done").tolist()
        return cls(attempt, step, saved)

    def write(self, path: Path, seal: str) -> None:
        """Replace what is on disk."""
        save_tensors(path, {**self.tensors, "done": torch.tensor([self.attempt, self.step])}, seal=seal)


def adam(
    posterior: Posterior,
    batch: Callable[[int], Tensor | None],
    *,
    rate: float,
    saved: Saved,
    steps: int,
    save: Callable[[Saved], None],
    save_seconds: float,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[Tensor, int]:
    """One attempt from w*, or the rest of it after what is saved; returns the weights and the steps taken.

    Args:
        posterior: losses and gradients around w*.
        batch: step → the examples of its gradient; None: all of them.
        rate: first learning rate.
        saved: where to begin.
        steps: of the attempt.
        save: writes where it is; called every `save_seconds` and at the end.
        save_seconds: time between two writes.
        report: called with the step and a running mean of the minibatch loss.
    """
    w = posterior.start(1)
    optimizer = torch.optim.Adam([w], lr=rate)
    _restore(saved, w, optimizer)
    last_save, running, pacer, step = time.monotonic(), math.nan, Pacer(posterior.group, saved.step), saved.step - 1
    with deferred_interrupt() as is_asked:
        for step in range(saved.step, steps):
            optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss, grad = posterior.gradient(w, batch(step))
            w.grad = torch.cat(grad, dim=1)
            optimizer.step()
            is_last = step + 1 == steps
            if not is_last and not pacer.is_due(step + 1, is_asked):
                continue
            value = float(loss)
            running = value if math.isnan(running) else 0.8 * running + 0.2 * value
            report(step + 1, running)
            late = time.monotonic() - last_save > save_seconds
            stops, saves, ends = pacer.agree(
                step + 1, stop=is_asked(), save=late or is_last, end=watch().is_over("minimize")
            )
            if stops or saves:
                if posterior.group.leads:
                    save(_state_of(saved.attempt, step + 1, w, optimizer))
                last_save = time.monotonic()
            if stops:
                raise KeyboardInterrupt
            if ends:
                break
    w.grad = None
    return w, step + 1


def _state_of(attempt: int, step: int, w: Tensor, optimizer: torch.optim.Adam) -> Saved:
    moments = {name: optimizer.state[w][name].cpu() for name in _MOMENTS}
    return Saved(attempt, step, {"w": w.detach().cpu(), **moments})


def _restore(saved: Saved, w: Tensor, optimizer: torch.optim.Adam) -> None:
    """Take weights and optimizer to where they were saved."""
    if not saved.tensors:
        return
    w.copy_(saved.tensors["w"])
    moments = {name: saved.tensors[name].to(w.device) for name in _MOMENTS}
    optimizer.state[w] = {"step": torch.tensor(float(saved.step)), **moments}
    saved.tensors = {}  # or this memory would be held until the attempt ends
