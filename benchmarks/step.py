"""Milliseconds a chain-step: hf_llc, bare forward + backward, devinterp and canonical-interp, side by side in one run.

    python benchmarks/step.py [--cases relu linear gpt2 attention-only] [--seconds 4] [--output step.json]
    python benchmarks/step.py --device cuda

Contenders take turns, round after round, on the same model and batch size. The table has the median round and its ratio
to forward + backward of the same run. Peers are used through their public interfaces: devinterp's optimizer in the
plain loop of its documentation and, for language models, its `sample`; canonical-interp's estimator with one chain,
eight chains, and eight compiled. A contender that cannot run a model says why. On a GPU all data are on the GPU, those
of the peers' loaders too, and the clock is read after it has finished.

Time: with --seconds 3 --rounds 3, on two cores with 1 thread, 10 minutes, most of it for eight chains of the largest
model.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from models import Case, cases
from step_peers import canonical, devinterp_optimizer, devinterp_sample
from timing import EPS, GAMMA, NBETA, Runner, quiet, timed

from hf_llc.backend import onednn_products
from hf_llc.backend.versions import package_versions
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.samplers import make_kernel
from hf_llc.samplers.walk import Walk

CHAINS = 8
SLOW = 0.1
"""Seconds a chain-step from which one step warms a contender up and one step a round will do."""


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

    return timed(step)


def ours(case: Case, *, chains: int, compiled: bool = False, in_backward: bool = False) -> Runner:
    """hf_llc's SGLD step as the evaluator runs it, with the trace, which is put together every fifty steps."""
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

    return timed(step, chains)


def by_torch(case: Case) -> Runner:
    """The same with torch's matrix products, whatever the CPU (`hf_llc.backend.onednn_products`)."""
    runner = ours(case, chains=1)

    def run(steps: int) -> float:
        with mock.patch.object(onednn_products, "is_faster", return_value=False):
            return runner(steps)

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
            with quiet():
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
            with quiet():
                times[name].append(runner(min(steps, 2000)))
    return {**{name: statistics.median(values) for name, values in times.items()}, **found}


def main() -> None:
    """Print the table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = ["relu", "linear", "gpt2", "attention-only"]
    parser.add_argument("--cases", nargs="+", default=known, choices=known)
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
