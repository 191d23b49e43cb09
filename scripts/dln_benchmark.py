"""Deep linear networks of known learning coefficient: figure 4, table 1 and figures J.1–J.3 of arXiv 2308.12108.

    python scripts/dln_benchmark.py                                   # 50 networks of 1k and of 10k parameters
    python scripts/dln_benchmark.py --sizes 100k --networks 20 --trained 0    # one more size
    python scripts/dln_benchmark.py --samplers auto --budgets 4 --trained 0    # four times the gradients
    python scripts/dln_benchmark.py --samplers asymptotic --budgets 2 --trained 0    # is it the sampler, or n?
    torchrun --nproc-per-node 2 scripts/dln_benchmark.py              # networks shared out; the same numbers
    accelerate launch scripts/dln_benchmark.py --preset paper         # 1k … 100M parameters, one GPU or more

Each network is drawn as the paper's authors drew theirs (`hf_llc.models.deep_linear`), with n inputs in batches of 500
and γ = 1. The exact value is the global learning coefficient: a chain at γ = 1 drifts to it, also where w* itself has
another, local one (a column of the rows). Samplers:

- `paper`: the paper's SGLD with table 1's ε, every loss of the last tenth of the steps.
- `auto`: hf_llc's own choice with as many gradients, its pilot chain counted. Two chains (one for the larger networks
  at a small budget), half of each burnt. Gradients are plain: labels have no noise for a control variate to remove.
- `asymptotic`: `auto` with full batches and a hundred times the nβ, since the exact value is a limit of large n. Nine
  10k networks are 13 to 23 % too low with `auto`, all of seven layers or more. Here eight of them are within 8 %, four
  within 4 %, with twice the gradients. Three of them, with full batches and 40,000 steps at the benchmark's own nβ,
  stayed 17 to 21 % too low: the cause is n. (At that nβ chains stay near w* for longer, and see its local λ.)

Chains start at the true weights; for the first N networks of a size (`--trained N`) also at weights that SGD finds from
a fresh start (learning rate 0.01, momentum 0.9, 50,000 steps). Gradients are not clipped, as in the paper (none of the
twenty needs it); `--clip 1` clips their norm.

The figure has Figure 4, the same on linear axes (J.1), (λ − λ̂)/λ with the paper's sign and, grey, its range (J.2), MALA
acceptance by size (J.3), and loss traces at an ε that is too small, right and too large (H.1).

A batch enters the loss through XᵀX/m alone. Its m inputs are replaced by at most H_0 rows with the same XᵀX, which is
the same function at less cost (tests/test_deep_linear.py compares the two).

Expected of `cpu`: docs/results/dln_benchmark, with twenty networks of 100k beside. For those twenty: `auto` (at most
49,926 gradients) has a median error of 2.1 %, 5–95 % −7.4 … +7.1 %, none lost, pairs in order 0.953 among them and
0.988 with those of 1k and 10k. `paper` has 6.5 %, −8.0 … +52.7 %, order 0.937. `auto` has 0.9 % for the eleven of up to
six layers and 5.3 % for the nine deeper ones (one of nine layers is 26 % too low, and as much with full batches).

Time: `cpu` 10 minutes with two processes on two cores. The twenty of 100k took 3 core-hours for each sampler, 1 to 25
minutes a network; on an H200 with six other jobs 114 to 142 seconds a network. `paper` has not been run in full. By
estimate, a GPU of 30 float32 TFLOP/s takes a gradient (6·500 operations a parameter) in 10 ms at 100M parameters, 2 ms
at 10M and, bound by launches, 1 to 1.5 ms below: 12 minutes for one network of each size. Both samplers, both weights
and the training take five times that, 100 hours for 100 networks, 70 of them at 100M; ten of 100M without training 3.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from dln_figure import SAMPLERS, draw, sentence, table
from dry_run import Cost, dense, print_plan
from experiment import Experiment, Row, parse, start
from sampling_alone import sample_alone

from hf_llc.calibration.calibrate import calibrate, with_calibration
from hf_llc.config import SampleConfig
from hf_llc.models.deep_linear import SIZES, DeepLinearNetwork, random_network, random_widths
from hf_llc.parallel.processes import Processes
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.result import LLCResult
from hf_llc.samplers import make_kernel
from hf_llc.workflow.estimate_model import estimate_problem
from hf_llc.workflow.settings import decide_from_data

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"sizes": ["1k"], "networks": 2, "trained": 1, "budgets": [0.1], "trained_steps": 100, "traces": False},
    "cpu": {
        "sizes": ["1k", "10k"],
        "networks": 50,
        "trained": 10,
        "budgets": [1.0],
        "trained_steps": 50_000,
        "traces": True,
    },
    "paper": {
        "sizes": list(SIZES),
        "networks": 100,
        "trained": 100,
        "budgets": [1.0],
        "trained_steps": 50_000,
        "traces": True,
    },
}
BATCH = 500
TRACES = (("too small", 1e-8), ("right", 1e-6), ("too large", 1e-5))
"""ε of Figure H.1's chains, on the first network of 1k; right: where MALA would accept 0.9 to 0.95 of the steps."""
MORE_DATA = 100
"""`asymptotic` has as many times the nβ of the others."""
MEASURED = 1.091
"""Gradients a step: one, one more on every twentieth, and four more on every hundredth."""


def settings(sampler: str, size: str, budget: float) -> SampleConfig:
    """How to sample with `budget` times the gradients of table 1."""
    row = SIZES[size]
    total = round(budget * row.num_steps)
    common: dict[str, Any] = {
        "batch_size": 1,  # one group of inputs
        "localization": 1.0,
        "nbeta": row.n / math.log(row.n) * (MORE_DATA if sampler == "asymptotic" else 1),
        "check_localization": False,
    }
    if sampler == "paper":
        kept = total // 10
        draws = min(kept, 1000)
        return SampleConfig(
            sampler="sgld", step_size=row.step_size, num_chains=1, num_burnin_steps=total - draws * (kept // draws),
            num_draws=draws, num_steps_between_draws=kept // draws, **common,
        )  # fmt: skip
    chains = 1 if size != "1k" and budget <= 1 else 2  # too short for two chains of the larger ones to arrive
    pilot = 1.3 * min(max(total / chains / 10, 200), 1000)  # with its looks at curvature and noise
    steps = int((total - pilot - 30) / chains / MEASURED)
    draws = min(200, steps // 2)
    thinning = steps // 2 // draws
    return SampleConfig(
        num_chains=chains, target_se=0.0075, gradient="plain", max_steps=steps,
        num_burnin_steps=steps - draws * thinning, num_draws=draws, num_steps_between_draws=thinning, **common,
    )  # fmt: skip


def train(network: DeepLinearNetwork, problem: Problem, steps: int, *, clip: float | None = None) -> None:
    """Replace the true weights by those that SGD finds from a fresh start, in place; `clip`: the gradient's largest
    norm, None: as it is, as in the paper."""
    model, device = network.model, Processes().device
    generator = torch.Generator().manual_seed(network.seed)
    for parameter in model.parameters():
        sd = parameter.shape[1] ** -0.5
        start = torch.empty(parameter.shape)
        parameter.data.copy_(torch.nn.init.trunc_normal_(start, std=sd, a=-2 * sd, b=2 * sd, generator=generator))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    order = torch.randint(problem.num_examples, (steps,), generator=generator).tolist()
    for index in order:
        optimizer.zero_grad()
        batch = {name: x[index : index + 1].to(device) for name, x in problem.examples.items()}
        problem.losses(model, batch).mean().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


@functools.lru_cache(maxsize=1)
def begin(
    size: str, seed: int, trained_steps: int, group: int, clip: float | None = None
) -> tuple[DeepLinearNetwork, Problem]:
    """A network at the w* that samplers start from, and its problem; cached, since samplers leave it as found."""
    network = random_network(size, seed)
    problem = network.problem(SIZES[size].n, group=group)
    problem.model.to(Processes().device)
    if trained_steps:
        train(network, problem, trained_steps, clip=clip)
    return network, problem


def work(job: Row, *, trained_steps: int, clip: float | None = None) -> Row:
    """λ̂ of one network by one sampler.

    The pilot runs here, and the chains with the settings that it found. `estimate_problem` by itself would restart
    chains at a smaller step if gradient noise heats them too much, for which the budget has no gradients. Chains that
    diverge are restarted all the same: they diverge early, at little cost.
    """
    group = SIZES[job["size"]].n if job["sampler"] == "asymptotic" else BATCH
    network, problem = begin(job["size"], job["seed"], trained_steps if job["trained"] else 0, group, clip)
    sample = decide_from_data(settings(job["sampler"], job["size"], job["budget"]), problem)
    if sample.step_size != "auto":
        return found(network, estimate_problem(problem, sample))
    with preserved(problem.model):
        calibration = calibrate(Posterior(problem), sample)
    result, spent = estimate_problem(problem, with_calibration(sample, calibration)), calibration["num_gradients"]
    if result.verdict == "diverged":
        spent += result.num_gradients
        result = estimate_problem(problem, sample)
    row = found(network, result)
    return {**row, "gradients": row["gradients"] + spent}


def found(network: DeepLinearNetwork, result: LLCResult) -> Row:
    """The row of an estimate, but for its job.

    Its gradients are those of the sampler, which the budget is about. The descent that looks whether w* is a minimum is
    not counted: λ̂ takes nothing from it.
    """
    descent = result.descent or {"num_gradients": 0}
    exact, local = float(network.coefficient.learning_coefficient), network.local_coefficient
    return {
        "widths": network.widths, "ranks": list(network.ranks), "parameters": result.num_parameters,
        "exact": exact, "local_low": float(local.lower), "local_high": float(local.upper),
        "llc": result.llc, "llc_se": result.llc_se, "error": result.llc / exact - 1, "verdict": result.verdict,
        "init_loss": result.init_loss, "r_hat": result.r_hat, "ess": result.ess, "accept_prob": result.accept_prob,
        "kinetic_temperature": result.kinetic_temperature, "heat_capacity": result.heat_capacity,
        "heat": result.step_size_bias, "step_size": result.step_size, "friction": result.friction,
        "gradient": result.gradient, "gradients": result.num_gradients - int(descent["num_gradients"]),
    }  # fmt: skip


def trace_of(job: Row) -> Row:
    """Figure H.1: a chain's loss, in means over its hundredths, and its mean MALA acceptance."""
    network, problem = begin(job["size"], 0, 0, BATCH)
    row = SIZES[job["size"]]
    nbeta = row.n / math.log(row.n)
    how = {"nbeta": nbeta, "localization": 1.0, "batch_size": 1, "num_steps": row.num_steps, "seed": 0}
    trace = sample_alone(problem, make_kernel("sgld", job["step_size"]), chains=[0], **how)
    excess = (nbeta * (trace.loss - trace.init_loss))[0].reshape(100, -1)
    finite = np.isfinite(trace.accept_prob)
    return {
        "exact": float(network.coefficient.learning_coefficient),
        "accept_prob": float(trace.accept_prob[finite].mean()) if finite.any() else math.nan,
        "trace": {
            "steps": [(k + 1) * excess.shape[1] for k in range(len(excess))],
            "llc": [float(x) if math.isfinite(x) else None for x in excess.mean(axis=1)],
        },
    }


def order_preserved(exact: Sequence[float], llc: Sequence[float]) -> float:
    """Share of the pairs of networks with different λ whose estimates stand in the same order (arXiv 2507.21449)."""
    same = [
        (a - b) * (x - y) > 0
        for i, (a, x) in enumerate(zip(exact, llc, strict=True))
        for b, y in zip(exact[:i], llc[:i], strict=True)
        if a != b
    ]
    return sum(same) / len(same) if same else math.nan


def summary(rows: Sequence[Row]) -> Row:
    """Errors of one size, sampler and budget; a diverged chain counts as lost, not as an error.

    z-scores are those of the networks whose local and global coefficients agree (`certain` of them): elsewhere a chain
    is on its way from one to the other, and only the distance to the global one counts, as an error.
    """
    kept = [row for row in rows if row["llc"] is not None and row["verdict"] != "diverged"]
    error = np.array([row["error"] for row in kept])
    certain = [row for row in kept if row["llc_se"] and row["local_low"] == row["local_high"] == row["exact"]]
    z = np.array([(row["llc"] - row["exact"]) / row["llc_se"] for row in certain])
    low, high = np.quantile(error, [0.05, 0.95]) if len(error) else (math.nan, math.nan)
    return {
        "size": rows[0]["size"], "sampler": rows[0]["sampler"], "budget": rows[0]["budget"],
        "trained": rows[0]["trained"], "networks": len(rows), "diverged": len(rows) - len(kept),
        "trustworthy": sum(row["verdict"] == "trustworthy" for row in rows),
        "gradients": max(row["gradients"] for row in rows),
        "median_abs_error": float(np.median(np.abs(error))), "rms_error": float(np.sqrt(np.mean(error**2))),
        "low_5": float(low), "high_95": float(high),
        "certain": len(certain), "z_mean": float(z.mean()) if len(z) else math.nan,
        "z_sd": float(z.std(ddof=1)) if len(z) > 1 else math.nan,
        "order_preserved": order_preserved([r["exact"] for r in kept], [r["llc"] for r in kept]),
    }  # fmt: skip


def jobs_of(preset: Row, samplers: Sequence[str]) -> list[Row]:
    """The jobs of a preset: at the true weights, then at trained ones."""
    return [
        {"size": size, "sampler": sampler, "budget": budget, "trained": is_trained, "seed": seed}
        for is_trained, networks in ((False, preset["networks"]), (True, preset["trained"]))
        for size in preset["sizes"]
        for budget in preset["budgets"]
        for seed in range(networks)
        for sampler in samplers
    ]


def traces_of(preset: Row) -> list[Row]:
    """The chains of Figure H.1, if the preset has it."""
    return [{"kind": kind, "size": "1k", "step_size": e} for kind, e in TRACES] if preset["traces"] else []


def cost_of(job: Row, *, trained_steps: int) -> Cost:
    """The gradients of table 1, and those of the training. A batch has at most as many rows as there are inputs."""
    if "kind" in job:
        job = {**job, "seed": 0, "budget": 1.0, "trained": False}
    widths = random_widths(job["size"], job["seed"])
    gradients = round(job["budget"] * SIZES[job["size"]].num_steps) + job["trained"] * trained_steps
    parameters = sum(one * other for one, other in pairwise(widths))
    return Cost(gradients, dense(parameters, gradients * min(BATCH, widths[0])))


def main() -> None:
    """Run the jobs, print the table, draw the figure."""

    def flags(parser: Any) -> None:
        parser.add_argument("--sizes", nargs="+", choices=list(SIZES))
        parser.add_argument("--networks", type=int)
        parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS[:2]))
        parser.add_argument("--budgets", nargs="+", type=float, help="gradients, as multiples of table 1's steps")
        parser.add_argument("--clip", type=float, metavar="NORM", help="of gradients in training; the paper has none")
        parser.add_argument("--trained", type=int, metavar="N", help="networks a size also at weights found by SGD")

    args = parse(__doc__, PRESETS, more=flags)
    preset = {**PRESETS[args.preset]}
    for name in ("sizes", "networks", "trained", "budgets"):
        preset[name] = preset[name] if getattr(args, name) is None else getattr(args, name)
    if args.dry_run:
        shared = {"trained_steps": preset["trained_steps"], "clip": args.clip}
        cost = functools.partial(cost_of, trained_steps=preset["trained_steps"])
        print_plan(jobs_of(preset, args.samplers) + traces_of(preset), shared, cost, rate=args.operations_a_second)
        return
    asked = preset["sizes"]
    if args.plot_only and args.sizes is None:  # others as far as they are there
        preset["sizes"] = list(SIZES)
    known = {"trained_steps": preset["trained_steps"], "clip": args.clip}
    experiment = Experiment(args.output, known, overwrite=args.overwrite, plot_only=args.plot_only)
    jobs = jobs_of(preset, args.samplers)
    there = experiment.rows()
    jobs = [job for job in jobs if job["size"] in asked or any(job.items() <= row.items() for row in there)]
    rows = experiment.run(
        jobs,
        lambda job: work(job, trained_steps=preset["trained_steps"], clip=args.clip),
        unit=("size", "seed", "trained"),
    )
    has_traces = any("kind" in row for row in there) or (preset["traces"] and "1k" in asked and not args.plot_only)
    traces = experiment.run(traces_of(preset) if has_traces else [], trace_of)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in ("size", "sampler", "budget", "trained")), []).append(row)
    summaries = [summary(group) for group in groups.values()]
    if experiment.processes.is_main:
        print("\n" + table(summaries))
    experiment.finish(draw([*rows, *traces]), summaries, sentence(summaries))


if __name__ == "__main__":
    start(main)
