"""Running estimates of λ̂ by the peers, devinterp and canonical-interp, each by its own code (see running.py)."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from known import Known
from models import canonical_estimator
from running import Curve, running
from torch import Tensor

DEVINTERP = {"step_size": 0.01, "chains": 4, "draws": 200, "batch_size": 32}
"""`SGMCMC.sgld`'s lr; `sample`'s chains, draws (no burn-in) and batch size."""


CANONICAL = {"step_size": 1.0, "chains": 8, "draws": 100, "burnin": 100}
"""`LLCEstimator`'s learning_rate; the chains, draws and burn-in of its `GridSearchConfig`, since it has none itself."""


_MOST_STEPS = 10**6


def _loader(examples: Mapping[str, Tensor], batch_size: int, seed: int, *, as_pairs: bool = False) -> Any:
    """A plain DataLoader over the examples, shuffled."""
    data = (
        torch.utils.data.TensorDataset(next(iter(examples.values())), list(examples.values())[-1])
        if as_pairs
        else torch.utils.data.StackDataset(**examples)
    )
    generator = torch.Generator().manual_seed(seed)
    return torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=True, drop_last=True, generator=generator)


def devinterp(
    known: Known,
    *,
    seconds: float,
    chains: int,
    seed: int,
    step_size: float,
    batch_size: int | None = None,
    draws: int = _MOST_STEPS,
    burnt: float = 0.5,
) -> Curve:
    """devinterp's SGMCMC.sgld in the plain loop of its documentation; chains in turn, each with its own model.

    devinterp's `sample` does more: it takes language models only, keeps every token's loss on disk, and has one time,
    at its end. As there, the batches of the first epoch are replayed. L_n(w*) is that of all examples. A loss that is
    not finite ends the run.
    """
    from devinterp.optim import SGMCMC

    begun, problem = time.perf_counter(), known.problem
    device = next(problem.model.parameters()).device
    size = min(known.case.batch_size if batch_size is None else batch_size, problem.num_examples)
    torch.manual_seed(seed)
    models = [copy.deepcopy(problem.model).eval() for _ in range(chains)]
    each = {"lr": step_size, "nbeta": known.nbeta, "localization": known.localization}
    optimizers = [SGMCMC.sgld(model.parameters(), **each) for model in models]
    feeds = [itertools.cycle(_loader(problem.examples, size, seed + chain)) for chain in range(chains)]
    with torch.no_grad():
        whole = torch.utils.data.DataLoader(torch.utils.data.StackDataset(**problem.examples), batch_size=size)
        parts = [problem.losses(models[0], {k: x.to(device) for k, x in batch.items()}) for batch in whole]
        init_loss = float(torch.cat(parts).double().mean())
    stamps, rows, note = [], [], ""
    for step in range(draws):
        row = []
        for model, optimizer, feed in zip(models, optimizers, feeds, strict=True):
            optimizer.zero_grad()
            loss = problem.losses(model, {k: x.to(device) for k, x in next(feed).items()}).mean()
            loss.backward()
            optimizer.step()
            row.append(loss.item())
        rows.append(row)
        stamps.append(time.perf_counter() - begun)
        if not math.isfinite(sum(row)):
            note = f"diverged at step {step}"
            break
        if stamps[-1] > seconds:
            break
    curve = running(stamps, known.nbeta * (np.array(rows).T - init_loss), burnt=burnt)
    curve.note = note or f"ε = {step_size:.2g}"
    return curve


class _Over(Exception):
    """The time is up."""


class _MeanLoss(torch.nn.Module):
    """canonical-interp calls model(x), then criterion(output, y): a language model's output here is its mean loss."""

    def __init__(self, known: Known) -> None:
        super().__init__()
        self.model, self.losses = known.problem.model, known.problem.losses
        self.name, self.is_language_model = next(iter(known.problem.examples)), known.case.is_language_model

    def forward(self, x: Tensor) -> Tensor:
        """The mean loss of token ids, or the prediction for inputs."""
        if self.is_language_model:
            return self.losses(self.model, {self.name: x}).mean()
        output = self.model(x)
        return output if isinstance(output, Tensor) else output.prediction

    def criterion(self, output: Tensor, y: Tensor) -> Tensor:
        """The mean loss."""
        return output if self.is_language_model else (output - y).square().mean()


def canonical(
    known: Known,
    *,
    seconds: float,
    chains: int,
    seed: int,
    step_size: float,
    burnin: int = 0,
    draws: int = _MOST_STEPS,
    compiled: bool,
) -> Curve:
    """canonical-interp's LLCEstimator, which steps its chains together on the same batches.

    It calls the function that unpacks a batch once a step. That function takes the times, and ends the run when time is
    up; the draws so far are in the estimator. With `burnin`, canonical-interp's own rule holds: that many steps are
    dropped and all draws kept. Without, the later half is kept.
    """
    estimator_class = canonical_estimator()
    begun, loader = time.perf_counter(), _loader(known.problem.examples, known.case.batch_size, seed, as_pairs=True)
    estimator = estimator_class(
        draws=draws, chains=chains, burnin_steps=burnin, steps_bw_draws=1, learning_rate=step_size,
        localization=known.localization, nbeta=known.nbeta,
    )  # fmt: skip
    stamps: list[float] = []

    def unpack(batch: Any) -> tuple[Tensor, Tensor]:
        stamps.append(time.perf_counter() - begun)
        if stamps[-1] > seconds and len(stamps) > len(loader) + burnin + 1:
            raise _Over
        return batch[0], batch[1]

    whole = _MeanLoss(known)
    device = next(whole.parameters()).device
    try:
        estimator.estimate_llc(
            whole, loader, whole.criterion, devices=device, seed=seed, compile=compiled, unpack_fn=unpack,
            show_progress=False,
        )  # fmt: skip
        stamps.append(time.perf_counter() - begun)
    except _Over:
        pass
    ends = stamps[len(loader) + burnin + 1 :]  # a step ends where the next one begins
    losses = estimator.array_log_l[:, : len(ends)].detach().double().numpy()
    excess = known.nbeta * (losses - estimator.original_loss.detach().double().numpy()[:, None])
    curve = running(ends, excess, burnt=0.0 if burnin else 0.5)
    curve.note = f"ε = {step_size:.2g}" if np.isfinite(excess).all() else "diverged"
    return curve
