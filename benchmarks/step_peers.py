"""Steps of the peers, devinterp and canonical-interp, through their public interfaces (see step.py)."""

from __future__ import annotations

import itertools
import time

import torch
from models import Case, canonical_estimator
from timing import EPS, GAMMA, NBETA, Runner, timed, wait


def devinterp_optimizer(case: Case) -> Runner:
    """devinterp's SGMCMC.sgld in a plain training loop, a loader feeding it."""
    from devinterp.optim import SGMCMC

    problem, model = case.problem, case.problem.model
    optimizer = SGMCMC.sgld(model.parameters(), lr=EPS, nbeta=NBETA, localization=GAMMA)
    data = torch.utils.data.StackDataset(**problem.examples)
    feed = itertools.cycle(torch.utils.data.DataLoader(data, batch_size=case.batch_size, drop_last=True))
    trace = []

    def step(t: int) -> None:
        optimizer.zero_grad()
        loss = problem.losses(model, next(feed)).mean()
        loss.backward()
        optimizer.step()
        trace.append(loss.item())

    return timed(step)


def devinterp_sample(case: Case) -> Runner:
    """devinterp's `sample` on a language model: a longer run minus a shorter one."""
    if not case.is_language_model:
        raise ValueError("language models only")
    from datasets import Dataset
    from devinterp.slt.sampling import sample

    data = Dataset.from_dict({"input_ids": case.problem.examples["input_ids"].tolist()}).with_format("torch")

    def once(draws: int) -> float:
        begun = time.perf_counter()
        sample(
            model=case.problem.model,
            dataset=data,
            observables={},
            lr=EPS,
            n_beta=NBETA,
            num_chains=1,
            num_draws=draws,
            batch_size=case.batch_size,
            localization=GAMMA,
            num_init_loss_batches=1,
            device=str(next(case.problem.model.parameters()).device),
        )
        wait()
        return time.perf_counter() - begun

    def run(steps: int) -> float:
        few = max(1, steps // 4)
        return max(once(few + steps) - once(few), 1e-9) / steps

    return run


def canonical(case: Case, *, chains: int, compiled: bool = False) -> Runner:
    """canonical-interp's estimator: a longer run minus a shorter one, its own pass over the data in both."""
    estimator_class = canonical_estimator()
    problem = case.problem

    class Loss(torch.nn.Module):
        """Mean loss as the output: the package calls model(x), then criterion(output, y)."""

        def __init__(self) -> None:
            super().__init__()
            self.model = problem.model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if case.is_language_model:
                return problem.losses(self.model, {"input_ids": x}).mean()
            return self.model(x)

    def criterion(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return output if case.is_language_model else ((output - y) ** 2).sum(-1).mean()

    device = next(problem.model.parameters()).device
    tensors = list(problem.examples.values())
    data = torch.utils.data.TensorDataset(tensors[0], tensors[-1])
    loader = torch.utils.data.DataLoader(data, batch_size=case.batch_size, drop_last=True)

    def once(draws: int) -> float:
        estimator = estimator_class(
            draws=draws,
            chains=chains,
            burnin_steps=draws,
            steps_bw_draws=1,
            learning_rate=EPS,
            localization=GAMMA,
            nbeta=NBETA,
        )
        begun = time.perf_counter()
        estimator.estimate_llc(
            Loss(), loader, criterion_fn=criterion, compile=compiled, show_progress=False, devices=device
        )
        wait()
        return time.perf_counter() - begun

    def run(steps: int) -> float:
        few = max(1, steps // 8)
        return max(once(few + (steps + 1) // 2) - once(few), 1e-9) / ((steps + 1) // 2 * 2 * chains)

    return run
