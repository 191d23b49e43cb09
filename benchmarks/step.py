"""Milliseconds a chain-step: hf_llc, bare forward + backward, devinterp and canonical-interp, side by side in one run.

    python benchmarks/step.py [--cases relu linear gpt2 attention-only] [--seconds 4] [--output step.json]
    python benchmarks/step.py --device cuda

Every contender takes turns, round after round, on the same model and batch size; the median round counts, and the ratio
to forward + backward of the same run. Peers are used through their public interfaces: devinterp's optimizer in the
plain loop its documentation shows and (language models) its `sample`; canonical-interp's estimator with one chain,
eight chains, and eight compiled. A contender that cannot run a model says why.
With --seconds 3 --rounds 3, two cores and 1 thread: 10 minutes, most of it eight chains of the largest model. On a GPU
the data lie on it, also those that a peer's loader batches, and the clock is read when it has done its work.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from models import Case, canonical_estimator, cases

from hf_llc.backend import onednn_products
from hf_llc.backend.versions import package_versions
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.samplers import make_kernel
from hf_llc.samplers.walk import Walk

NBETA, GAMMA, EPS = 10.0, 1.0, 1e-9
CHAINS = 8
SLOW = 0.1
"""Seconds a chain-step from which one step warms a contender up and one step a round will do."""
Runner = Callable[[int], float]
"""Runs that many steps; returns seconds a chain-step."""


def _timed(step: Callable[[int], object], chains: int = 1) -> Runner:
    counter = itertools.count()

    def run(steps: int) -> float:
        _wait()
        begun = time.perf_counter()
        for _ in range(steps):
            step(next(counter))
        _wait()
        return (time.perf_counter() - begun) / (steps * chains)

    return run


def _wait() -> None:
    """For the GPU, if there is one at work."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def forward_backward(case: Case) -> Runner:
    """The floor: mean loss of a batch and its gradient, nothing else."""
    problem, parameters = case.problem, list(case.problem.model.parameters())
    batches = [
        {k: x[i : i + case.batch_size] for k, x in problem.examples.items()}
        for i in range(0, problem.num_examples, case.batch_size)
    ]

    def step(t: int) -> None:
        loss = problem.losses(problem.model, batches[t % len(batches)]).mean()
        torch.autograd.grad(loss, parameters)

    return _timed(step)


def ours(case: Case, *, chains: int, compiled: bool = False, in_backward: bool = False) -> Runner:
    """hf_llc's SGLD step as the evaluator runs it, trace included, which it puts together every fifty steps."""
    posterior = Posterior(case.problem, compile=compiled, step_in_backward=in_backward)
    walk = Walk(
        posterior, Law(nbeta=NBETA, localization=GAMMA), list(range(chains)), seed=0, batch_size=case.batch_size
    )
    kernel = make_kernel("sgld", EPS)
    losses: list[torch.Tensor] = []
    trace: list[Any] = []

    def step(t: int) -> None:
        indices = walk.batches.indices(t)
        losses.append(kernel.step(walk, indices, step=t, measure=False).loss)
        losses.append(walk.init_loss(t))
        if len(losses) == 100:
            trace.append(torch.stack(losses).cpu().numpy())
            losses.clear()

    return _timed(step, chains)


def by_torch(case: Case) -> Runner:
    """The same with torch's matrix products, whatever the CPU (`hf_llc.backend.onednn_products`)."""
    runner = ours(case, chains=1)

    def run(steps: int) -> float:
        with mock.patch.object(onednn_products, "is_faster", return_value=False):
            return runner(steps)

    return run


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

    return _timed(step)


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
        _wait()
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
        _wait()
        return time.perf_counter() - begun

    def run(steps: int) -> float:
        few = max(1, steps // 8)
        return max(once(few + (steps + 1) // 2) - once(few), 1e-9) / ((steps + 1) // 2 * 2 * chains)

    return run


CONTENDERS: dict[str, Callable[[Case], Runner]] = {
    "forward + backward": forward_backward,
    "hf_llc, 1 chain": lambda case: ours(case, chains=1),
    "hf_llc, 1 chain, torch's products": by_torch,
    "hf_llc, 1 chain, in backward": lambda case: ours(case, chains=1, in_backward=True),
    "hf_llc, 1 chain, compiled": lambda case: ours(case, chains=1, compiled=True),
    f"hf_llc, {CHAINS} chains": lambda case: ours(case, chains=CHAINS),
    f"hf_llc, {CHAINS} chains, compiled": lambda case: ours(case, chains=CHAINS, compiled=True),
    "devinterp optimizer": devinterp_optimizer,
    "devinterp sample": devinterp_sample,
    "canonical-interp, 1 chain": lambda case: canonical(case, chains=1),
    f"canonical-interp, {CHAINS} chains": lambda case: canonical(case, chains=CHAINS),
    f"canonical-interp, {CHAINS} chains, compiled": lambda case: canonical(case, chains=CHAINS, compiled=True),
}


def measure(case: Case, *, seconds: float, rounds: int) -> dict[str, float | str]:
    """Median seconds a chain-step of each contender, or why it has none."""
    runners: dict[str, tuple[Runner, int]] = {}
    found: dict[str, float | str] = {}
    for name, make in CONTENDERS.items():
        try:
            with _quiet():
                runner = make(case)
                if "compiled" in name:
                    runner(1)  # compiles; the next one tells how long a step takes
                once = runner(1)
                if once < SLOW:
                    once = runner(3)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:60] if str(error) else ''}"
            continue
        chains = CHAINS if f"{CHAINS} chains" in name else 1
        runners[name] = (runner, max(3 if once < SLOW else 1, math.ceil(seconds / rounds / (once * chains))))
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, (runner, steps) in runners.items():
            with _quiet():
                times[name].append(runner(min(steps, 2000)))
    return {**{name: statistics.median(values) for name, values in times.items()}, **found}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    """Print the table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=["relu", "linear", "gpt2", "attention-only"])
    parser.add_argument("--seconds", type=float, default=4.0, help="measuring time of each contender on each model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    import logging

    logging.disable(logging.WARNING)
    table: dict[str, dict[str, float | str]] = {}
    for case in cases(args.cases, args.device):
        with preserved(case.problem.model):
            table[case.name] = measure(case, seconds=args.seconds, rounds=args.rounds)
        floor = table[case.name]["forward + backward"]
        assert isinstance(floor, float)
        print(f"\n{case.name}, {case.num_parameters:,} parameters")
        for name in CONTENDERS:
            value = table[case.name][name]
            text = f"{value * 1e3:10.3f} ms {value / floor:7.2f} ×" if isinstance(value, float) else f"  – {value}"
            print(f"  {name:<38}{text}")
        sys.stdout.flush()
    if args.output is not None:
        args.output.write_text(
            json.dumps(
                {
                    "versions": package_versions(),
                    "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
                    "threads": 1,
                    "seconds_a_chain_step": table,
                },
                indent=2,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
