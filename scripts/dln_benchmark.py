"""Deep linear networks of known learning coefficient: figure 4, table 1 and figures J.1–J.3 of arXiv 2308.12108.

    python scripts/dln_benchmark.py                                   # 50 networks of 1k and of 10k parameters
    python scripts/dln_benchmark.py --sizes 100k --networks 20 --trained 0    # one more size
    python scripts/dln_benchmark.py --samplers auto --budgets 4 --trained 0    # four times the gradients
    python scripts/dln_benchmark.py --samplers asymptotic --budgets 2 --trained 0    # is it the sampler, or n?
    torchrun --nproc-per-node 2 scripts/dln_benchmark.py              # networks shared out; the same numbers
    accelerate launch scripts/dln_benchmark.py --preset paper         # 1k … 100M parameters, one GPU or more

Each network is drawn as the paper's authors drew theirs (`hf_llc.models.deep_linear`), with n inputs in batches of 500
and γ = 1. `paper` is their SGLD: table 1's ε, every loss of the last tenth of the steps. `auto` is hf_llc left to
itself with the same number of gradients, its pilot chain counted: two chains (one for the larger networks where the
budget is small), half burnt, and plain gradients, since labels have no noise that a control variate could remove. The
exact value is the global learning coefficient, to which a chain at γ = 1 drifts also where w* itself has a local one (a
column of the rows).
`asymptotic` is the same with full batches at a hundred times the nβ: the exact value is a limit of large n. Of the nine
10k networks that `auto` puts 13 to 23 % below it, all of seven layers or more, eight are there within 8 %, four of them
within 4 %, in twice the gradients; three that were given full batches and 40,000 steps at the benchmark's own nβ stayed
17 to 21 % below: what is missing there is n. (At that nβ chains keep near w* for longer: where λ(w*) is another, so is
λ̂.)

Chains start at the true weights, and for some networks (`--trained N`, the first N of a size) also at weights found by
SGD from a fresh start (learning rate 0.01, momentum 0.9, 50,000 steps).

`cpu` takes 10 minutes with two processes on two cores; what to expect of it is in docs/results/dln_benchmark, which
also has the rows of twenty networks of 100k. `paper` has not been run in full. Those twenty took 3 core-hours for each
sampler, 1 to 25 minutes a network: with `auto` (at most 49,926 gradients) median error 2.1 %, 5–95 % −7.4 … +7.1 %,
none lost, pairs in order 0.953 among them and 0.988 with those of 1k and 10k; with `paper` 6.5 %, −8.0 … +52.7 %, order
0.937. `auto` has 0.9 % for the eleven of up to six layers, 5.3 % for the nine deeper ones (one of nine layers is 26 %
below, and as far with full batches). On an H200 that did six other jobs a network took 114 to 142 seconds. On paper,
one GPU of 30 float32 TFLOP/s takes a gradient (6·500 operations a parameter) in 10 ms at 100M parameters, 2 ms at 10M
and, for its launches, 1 to 1.5 ms below: 12 minutes for one network of each size, five times that for both samplers,
both weights and the training, so 100 hours for 100 networks, 70 at 100M. Ten networks of 100M with `--trained 0` are 3
hours.

A batch enters the loss through XᵀX/m alone, so the m inputs are replaced by at most H_0 rows with the same XᵀX: the
same function at less cost (tests/test_deep_linear.py compares the two).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from experiment import Experiment, Row, parse, start
from matplotlib.figure import Figure

from hf_llc.calibration.calibrate import calibrate, with_calibration
from hf_llc.config import SampleConfig
from hf_llc.models.deep_linear import SIZES, DeepLinearNetwork, random_network
from hf_llc.parallel.processes import Processes
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.result import LLCResult
from hf_llc.workflow.estimate_model import estimate_problem
from hf_llc.workflow.settings import decide_from_data

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"sizes": ["1k"], "networks": 2, "trained": 1, "budgets": [0.1], "trained_steps": 100},
    "cpu": {"sizes": ["1k", "10k"], "networks": 50, "trained": 10, "budgets": [1.0], "trained_steps": 50_000},
    "paper": {"sizes": list(SIZES), "networks": 100, "trained": 100, "budgets": [1.0], "trained_steps": 50_000},
}
SAMPLERS = ("paper", "auto", "asymptotic")
BATCH = 500
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


def train(network: DeepLinearNetwork, problem: Problem, steps: int) -> None:
    """Replace the true weights by those that SGD finds from a fresh start, in place."""
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
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@functools.lru_cache(maxsize=1)
def begin(size: str, seed: int, trained_steps: int, group: int) -> tuple[DeepLinearNetwork, Problem]:
    """A network at the w* that samplers start from, with groups of inputs: they leave it as they found it."""
    network = random_network(size, seed)
    problem = network.problem(SIZES[size].n, group=group)
    problem.model.to(Processes().device)
    if trained_steps:
        train(network, problem, trained_steps)
    return network, problem


def work(job: Row, *, trained_steps: int) -> Row:
    """λ̂ of one network by one sampler.

    The pilot chain runs here, and the chains with what it found: `estimate_problem` alone would let chains that turn
    out too hot start again, which the budget has no gradients for. Those that break, break early: they do.
    """
    group = SIZES[job["size"]].n if job["sampler"] == "asymptotic" else BATCH
    network, problem = begin(job["size"], job["seed"], trained_steps if job["trained"] else 0, group)
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
    """What goes into the row."""
    exact, local = float(network.coefficient.learning_coefficient), network.local_coefficient
    return {
        "widths": network.widths, "ranks": list(network.ranks), "parameters": result.num_parameters,
        "exact": exact, "local_low": float(local.lower), "local_high": float(local.upper),
        "llc": result.llc, "llc_se": result.llc_se, "error": result.llc / exact - 1, "verdict": result.verdict,
        "init_loss": result.init_loss, "r_hat": result.r_hat, "ess": result.ess, "accept_prob": result.accept_prob,
        "kinetic_temperature": result.kinetic_temperature, "heat_capacity": result.heat_capacity,
        "heat": result.step_size_bias, "step_size": result.step_size, "friction": result.friction,
        "gradient": result.gradient, "gradients": result.num_gradients,
    }  # fmt: skip


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


def table(summaries: Sequence[Row]) -> str:
    """The summaries as text."""
    head = "size  sampler  budget  nets  lost  gradients  median |err|   rms    5 … 95 %     z mean ± sd of nets  order"
    return "\n".join([head, *map(_line, summaries)])


def _line(s: Row) -> str:
    return (
        f"{s['size']:<5} {s['sampler']:<7} {s['budget']:6g} {s['networks']:6d} {s['diverged']:5d} "
        f"{s['gradients']:10,d} {s['median_abs_error']:12.2%} {s['rms_error']:8.2%}  "
        f"{s['low_5']:+7.2%} … {s['high_95']:+7.2%} {s['z_mean']:+7.2f} ± {s['z_sd']:.2f} of {s['certain']} "
        f"{s['order_preserved']:8.4f}" + ("  trained" if s["trained"] else "")
    )


def draw(rows: Sequence[Row]) -> Figure:
    """λ̂ against λ (figures 4, J.1), the relative error (J.2) and its distribution (J.3), by sampler."""
    samplers = [name for name in SAMPLERS if any(row["sampler"] == name for row in rows)]
    figure = Figure(figsize=(4.2 * (len(samplers) + 1), 4), layout="constrained")
    axes = figure.subplots(1, len(samplers) + 1, squeeze=False)[0]
    sizes = [size for size in SIZES if any(row["size"] == size for row in rows)]
    exact = [row["exact"] for row in rows]
    for column, sampler in enumerate(samplers):
        panel = axes[column]
        panel.plot([min(exact), max(exact)], [min(exact), max(exact)], color="black", lw=0.8)
        for (number, size), is_trained in itertools.product(enumerate(sizes), (False, True)):
            wanted = (sampler, size, is_trained)
            part = [r for r in rows if (r["sampler"], r["size"], r["trained"]) == wanted and (r["llc"] or 0) > 0]
            style = {"marker": "x", "label": f"{size}, trained"} if is_trained else {"marker": ".", "label": size}
            if part:
                panel.plot([r["exact"] for r in part], [r["llc"] for r in part], ls="", ms=5, c=f"C{number}", **style)
        panel.set(xscale="log", yscale="log", xlabel="exact λ", ylabel="λ̂", title=sampler)
        panel.legend(frameon=False)
    groups = [(size, sampler) for size in sizes for sampler in samplers]
    found = [r for r in rows if r["error"] is not None and not r["trained"]]
    errors = [[100 * r["error"] for r in found if (r["size"], r["sampler"]) == group] for group in groups]
    axes[-1].boxplot(errors, whis=(5, 95), tick_labels=[f"{size}\n{sampler}" for size, sampler in groups])
    axes[-1].axhline(0, color="black", lw=0.8)
    axes[-1].set(ylabel="relative error (%)", title="box: quartiles, whiskers: 5–95 %", yscale="symlog")
    axes[-1].margins(y=0.08)  # the limits were taken on another scale
    return figure


def sentence(summaries: Sequence[Row]) -> str:
    """Whether the paper's claim is seen: estimates that rank and match the exact values at every size."""
    parts = []
    for s in summaries:
        name = f"{s['size']} {s['sampler']}{', trained' if s['trained'] else ''}"
        seen = s["median_abs_error"] < 0.1 and s["order_preserved"] > 0.95
        parts.append(
            f"{name}: median error {s['median_abs_error']:.1%}, order {s['order_preserved']:.3f}"
            f"{'' if seen else ' (not seen)'}"
        )
    return "λ̂ follows the exact learning coefficient (median error under 10 %, 95 % of pairs in order): " + "; ".join(
        parts
    )


def main() -> None:
    """Run the jobs, print the table, draw the figure."""

    def flags(parser: Any) -> None:
        parser.add_argument("--sizes", nargs="+", choices=list(SIZES))
        parser.add_argument("--networks", type=int)
        parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS[:2]))
        parser.add_argument("--budgets", nargs="+", type=float, help="gradients, as multiples of table 1's steps")
        parser.add_argument("--trained", type=int, metavar="N", help="networks a size also at weights found by SGD")

    args = parse(__doc__, PRESETS, more=flags)
    preset = {**PRESETS[args.preset]}
    for name in ("sizes", "networks", "trained", "budgets"):
        preset[name] = preset[name] if getattr(args, name) is None else getattr(args, name)
    asked = preset["sizes"]
    if args.plot_only and args.sizes is None:  # others as far as they are there
        preset["sizes"] = list(SIZES)
    experiment = Experiment(
        args.output, {"trained_steps": preset["trained_steps"]}, overwrite=args.overwrite, plot_only=args.plot_only
    )
    jobs = [
        {"size": size, "sampler": sampler, "budget": budget, "trained": is_trained, "seed": seed}
        for is_trained, networks in ((False, preset["networks"]), (True, preset["trained"]))
        for size in preset["sizes"]
        for budget in preset["budgets"]
        for seed in range(networks)
        for sampler in args.samplers
    ]
    there = experiment.rows()
    jobs = [job for job in jobs if job["size"] in asked or any(job.items() <= row.items() for row in there)]
    rows = experiment.run(
        jobs, lambda job: work(job, trained_steps=preset["trained_steps"]), unit=("size", "seed", "trained")
    )
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in ("size", "sampler", "budget", "trained")), []).append(row)
    summaries = [summary(group) for group in groups.values()]
    if experiment.processes.is_main:
        print("\n" + table(summaries))
    experiment.finish(draw(rows), summaries, sentence(summaries))


if __name__ == "__main__":
    start(main)
