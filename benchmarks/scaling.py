"""Chain-steps a second on one process and on two, and whether their traces are the same bit for bit.

    python benchmarks/scaling.py [--cases embedded linear] [--steps 200 4000] [--rounds 3] [--output scaling.json]

Four chains of the embedded language model on its text, and of a deep linear network of the paper's 1k class. torchrun
starts every run, also that of one process. Numbers of processes take turns, round after round, and the median round
counts. `wall` is the estimate's own time with loading; `launch` includes Python's start and the imports; chain-steps a
second are those of sampling alone. Each process has one thread on a CPU, or one device.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_llc.backend.versions import package_versions
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.files import write_json
from hf_llc.loading.problem_loader import load_problem
from hf_llc.models.deep_linear import random_network
from hf_llc.parallel.processes import Processes
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.records.trace import Trace
from hf_llc.result import LLCResult
from hf_llc.workflow.run import Run
from hf_llc.workflow.run_folder import RunFolder
from hf_llc.workflow.settings import decide_from_data

CHAINS = 4
STEPS = {"embedded": 200, "linear": 4000}
"""Steps a chain: a few seconds to half a minute on one core."""


def problem_of(case: str, device: str) -> tuple[Problem, dict[str, Any]]:
    """The problem of a case on `device`, and how to sample it; the step sizes are small enough for any machine."""
    if case == "embedded":
        return load_problem(None, None, LoadConfig(device=device)), {"step_size": 1e-6, "localization": 1.0}
    problem = random_network("1k", 1).problem(10_000)
    problem.model.to(device)
    return problem, {"step_size": 1e-7, "localization": 1.0, "batch_size": 500}


def estimate(case: str, steps: int, folder: Path, *, device: str | None = None, chains: int = CHAINS) -> None:
    """One estimate by the processes that are there; the main one writes the result into `folder`."""
    begun = time.monotonic()
    processes = Processes()
    problem, settings = problem_of(case, str(processes.device) if device is None else device)
    sample = decide_from_data(
        SampleConfig(
            sampler="sgld", num_chains=chains, num_burnin_steps=0, num_draws=steps, check_localization=False,
            save_seconds=3600.0, **settings,
        ),
        problem,
    )  # fmt: skip
    with preserved(problem.model):
        result = Run(problem, sample, RunFolder(folder), processes).result(begun)
    processes.main_does(lambda: str(result.save(folder)))


def launch(case: str, steps: int, count: int, folder: Path, *, device: str, chains: int = CHAINS) -> float:
    """`estimate` by `count` processes under torchrun; seconds from start to end.

    Raises:
        RuntimeError: it failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", port,
        __file__, "--worker", str(folder), "--cases", case, "--steps", str(steps), "--device", device,
        "--chains", str(chains),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if device == "cpu":
        environment["ACCELERATE_USE_CPU"] = "true"
    begun = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{case} on {count} processes failed: {done.stderr[-2000:]}")
    return time.monotonic() - begun


def difference(one: Trace, other: Trace) -> str | None:
    """The first array in which two traces differ by a bit, None if none does."""
    for item in fields(Trace):
        a, b = getattr(one, item.name), getattr(other, item.name)
        if a.shape != b.shape or not np.array_equal(a.view(np.int64), b.view(np.int64)):
            return item.name
    return None


def measure(case: str, steps: int, *, rounds: int, counts: list[int], device: str, chains: int = CHAINS) -> Any:
    """Medians of wall time and chain-steps a second by number of processes, all rounds, and the comparison."""
    table: dict[int, dict[str, Any]] = {count: {"wall": [], "launch": [], "rate": []} for count in counts}
    first, unequal = None, None
    for _ in range(rounds):
        for count, row in table.items():
            with tempfile.TemporaryDirectory() as folder:
                row["launch"].append(launch(case, steps, count, Path(folder), device=device, chains=chains))
                result = LLCResult.load(folder)
            assert result.trace is not None and result.num_processes == count
            row["wall"].append(result.wall_seconds)
            row["rate"].append(result.steps_per_second)
            first = result.trace if first is None else first
            unequal = difference(first, result.trace) or unequal
    return {"processes": table, "steps": steps, "chains": chains, "traces_equal": unequal is None, "unequal": unequal}


def show(case: str, found: dict[str, Any]) -> None:
    """A case's part of the table."""
    print(f"\n{case}: {found['chains']} chains of {found['steps']:,} steps")
    base = next(iter(found["processes"].values()))
    for count, row in found["processes"].items():
        rate, wall, start = (statistics.median(row[name]) for name in ("rate", "wall", "launch"))
        times = rate / statistics.median(base["rate"])
        print(
            f"  {count} process(es){rate:9.1f} chain-steps/s {times:5.2f} ×  wall {wall:6.2f} s  launch {start:6.2f} s"
        )
    print(f"  traces {'equal bit for bit' if found['traces_equal'] else 'DIFFER in ' + found['unequal']}", flush=True)


def main() -> int:
    """Print the table; write it as JSON where asked. 1 where traces on CPUs differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--steps", nargs="+", type=int, help="a chain, for each case")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--chains", type=int, default=CHAINS)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: one GPU a process")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    steps = [STEPS[case] for case in args.cases] if args.steps is None else args.steps
    if len(steps) != len(args.cases):
        parser.error("--steps takes one number for each case")
    torch.set_num_threads(1)
    if args.worker is not None:
        device = "cpu" if args.device == "cpu" else None
        estimate(args.cases[0], steps[0], args.worker, device=device, chains=args.chains)
        return 0
    versions = package_versions()
    print(f"hf_llc {versions['hf_llc']}, torch {versions['torch']}; {os.cpu_count()} cores, 1 thread a process")
    table = {}
    for case, number in zip(args.cases, steps, strict=True):
        table[case] = measure(
            case, number, rounds=args.rounds, counts=args.processes, device=args.device, chains=args.chains
        )
        show(case, table[case])
    if args.output is not None:
        write_json(args.output, {"versions": versions, "cores": os.cpu_count(), "device": args.device, "table": table})
    return 0 if args.device != "cpu" or all(found["traces_equal"] for found in table.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
