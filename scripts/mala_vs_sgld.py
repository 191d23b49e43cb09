"""Figure M.1 of arXiv 2308.12108: λ̂ by SGLD and by MALA on data sets of 100 to 100,000 examples, and the time of both.

    OMP_NUM_THREADS=1 python scripts/mala_vs_sgld.py           # --preset cpu: up to n = 10,000
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 scripts/mala_vs_sgld.py
    accelerate launch scripts/mala_vs_sgld.py --preset paper   # all seven n, five runs; one GPU

The paper's claim: the two samplers agree, and only MALA's time grows with n.

Setting: a 10-20-20-10 ReLU network with its own outputs as labels, γ = 1, ε = 1e-5, 10,000 steps without burn-in. SGLD
takes batches of 32, MALA all examples. A job is one chain, and each chain has its own noise. The presets differ in n
and in the number of runs: every chain of `cpu` is one that the paper ran.

Chains that start at w* and have no burn-in are not in equilibrium: flat directions relax in 2/(εγ) = 200,000 steps. At
small n both λ̂ are those of the same short walk. rows.jsonl has hf_llc's verdict on each chain, and `step_size_bias`,
hf_llc's estimate of what the finite step and the minibatch gradients add to SGLD's λ̂.

Expected, with the authors' numbers for their own random network of these widths in brackets (±: standard error):

    n            SGLD                  MALA                  fastest chain, SGLD and MALA
    100          54.4 ± 1.1  [55]      55.7 ± 0.9  [54]      2.7 s and 3.6 s
    316          86.8 ± 1.5  [87]      87.0 ± 2.0  [86]      2.7 s and 3.9 s
    1,000       135.0 ± 1.2 [137]     131.2 ± 2.0 [140]      2.7 s and 4.8 s
    3,162       202.2 ± 0.6 [211]     198.5 ± 2.8 [215]      2.7 s and 12 s
    10,000      283.0 ± 1.6 [295]     273.4 ± 6.9 [296]      2.7 s and 31 s

Time: the 60 chains of `cpu` take six minutes of one thread on a busy 2-core machine. `paper` has not been run; half an
hour of a GPU by estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from claims import verdicts
from dry_run import Cost, dense
from experiment import Row, carry_out, parse, start
from relu_network import ReLUNetwork, own_labels
from sampling_alone import sample_alone

from hf_llc.judging.estimator import estimate
from hf_llc.parallel.processes import Processes
from hf_llc.publishing.picture import WIDTH, legend_below
from hf_llc.samplers import make_kernel

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WIDTHS = [10, 20, 20, 10]
STEP_SIZE, LOCALIZATION, BATCH_SIZE = 1e-5, 1.0, 32

SAMPLERS = {"sgld": "SGLD, batches of 32", "mala": "MALA, all examples"}

AUTHORS = {
    100: (55, 54),
    316: (87, 86),
    1000: (137, 140),
    3162: (211, 215),
    10_000: (295, 296),
    31_623: (349, 359),
    100_000: (356, 349),
}
"""n → λ̂ of SGLD and of MALA, means of five runs, from the authors' stored results."""

TOLERANCE = 0.1
"""Means that differ by less agree. The authors' own differ by up to 0.03, with standard errors of up to 0.04."""


@dataclass(frozen=True)
class Preset:
    """How many runs of each n, and steps a run. Runs at small n spread more and cost less."""

    runs: dict[int, int]
    num_steps: int = 10_000


PRESETS = {
    "smoke": Preset({100: 2, 316: 2}, 100),
    "cpu": Preset({100: 12, 316: 6, 1000: 4, 3162: 4, 10_000: 4}),
    "paper": Preset(dict.fromkeys(AUTHORS, 5)),
}


def work(job: Row, num_steps: int) -> Row:
    """One chain: λ̂ and what hf_llc has to say of it."""
    n, is_sgld = job["n"], job["sampler"] == "sgld"
    nbeta = n / math.log(n)
    problem = own_labels(ReLUNetwork(WIDTHS), n)
    trace = sample_alone(
        problem,
        make_kernel(job["sampler"], STEP_SIZE),
        chains=[job["run"]],
        nbeta=nbeta,
        localization=LOCALIZATION,
        batch_size=BATCH_SIZE if is_sgld else n,
        num_steps=num_steps,
        seed=list(SAMPLERS).index(job["sampler"]),
    )
    found = estimate(
        trace,
        nbeta=nbeta,
        init_loss=float(trace.init_loss.mean()),
        localization=LOCALIZATION,
        step_size=STEP_SIZE,
        is_exact=not is_sgld,
        num_burnin_steps=0,
        num_steps_between_draws=1,
    )
    bias = found.step_size_bias if is_sgld else 0.0
    return {"llc": found.llc, "accept_prob": found.accept_prob, "step_size_bias": bias, "verdict": found.verdict}


def summarize(rows: list[Row]) -> list[Row]:
    """One line an n: means, their standard errors over runs, the fastest run's seconds, and the authors' λ̂."""
    table = []
    for n in sorted({row["n"] for row in rows}):
        line: Row = {"n": n}
        for sampler, theirs in zip(SAMPLERS, AUTHORS[n], strict=True):
            mine = [row for row in rows if row["n"] == n and row["sampler"] == sampler]
            values = np.array([math.nan if row["llc"] is None else row["llc"] for row in mine])
            line[sampler] = float(values.mean())
            line[f"{sampler}_se"] = float(values.std(ddof=1)) / math.sqrt(len(values))
            line[f"{sampler}_seconds"] = min(row["seconds"] for row in mine)
            line[f"{sampler}_authors"] = theirs
            line[f"{sampler}_runs"] = len(mine)
        bias = [row["step_size_bias"] for row in rows if row["n"] == n and row["sampler"] == "sgld"]
        line["sgld_step_size_bias"] = float(np.mean(bias))
        line["difference"] = (line["sgld"] - line["mala"]) / line["mala"]
        line["difference_se"] = math.hypot(line["sgld_se"], line["mala_se"]) / line["mala"]
        table.append(line)
    return table


def claim(table: list[Row]) -> str:
    """Do the samplers agree, and whose time grows with n?"""
    differences = ", ".join(f"{line['n']:,}: {line['difference']:+.1%} ± {line['difference_se']:.1%}" for line in table)
    agree = all(abs(line["difference"]) + 2 * line["difference_se"] <= TOLERANCE for line in table)
    differ = any(abs(line["difference"]) - 2 * line["difference_se"] > TOLERANCE for line in table)
    verdict = "seen" if agree else "not seen" if differ else "cannot tell"
    first, last = table[0], table[-1]
    times = " and ".join(
        f"{name.split(',')[0]}'s {last[f'{sampler}_seconds'] / first[f'{sampler}_seconds']:.1f} times"
        for sampler, name in SAMPLERS.items()
    )
    return (
        f"SGLD and MALA agree within {TOLERANCE:.0%}, two standard errors included: {verdict}. "
        f"λ̂ of SGLD against that of MALA, by n: {differences}. "
        f"From n = {first['n']:,} to {last['n']:,} the time of a chain grows: {times}."
    )


def claim_of_verdicts(rows: list[Row]) -> str:
    """What hf_llc says of single chains, and why the claim does not stand on it."""
    return (
        f"Verdicts of single chains: {verdicts(rows)}. Without burn-in they have under ten effective draws: errors are "
        "not their own, but those of the mean over runs, each with noise of its own."
    )


def draw(table: list[Row]) -> Any:
    """λ̂ (left) and seconds a chain (right) against n."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.0), layout="constrained")
    sizes = [line["n"] for line in table]
    for shift, (sampler, name) in zip((0.97, 1.03), SAMPLERS.items(), strict=True):
        color, marker = ("C0", "o") if sampler == "sgld" else ("C1", "s")
        left.errorbar(
            np.array(sizes) * shift,
            [line[sampler] for line in table],
            [2 * line[f"{sampler}_se"] for line in table],
            fmt=f"{color}{marker}",
            label=f"{name}, ±2 standard errors",
        )
        authors = [AUTHORS[n][sampler == "mala"] for n in AUTHORS]
        left.plot(
            list(AUTHORS), authors, f"{color}{'--' if sampler == 'sgld' else ':'}", lw=1, label=f"{name}: the authors"
        )
        right.plot(sizes, [line[f"{sampler}_seconds"] for line in table], f"{color}{marker}-", label=name)
    left.set(xscale="log", xlabel="examples n", ylabel="λ̂", ylim=(0, None))
    right.set(xscale="log", yscale="log", xlabel="examples n", ylabel=f"seconds a chain on {Processes().device.type}")
    for which in (right.yaxis.set_major_formatter, right.yaxis.set_minor_formatter):
        which(lambda value, _: f"{value:.0f}" if round(value, 6) in (2, 3, 5, 10, 20, 30, 50, 100, 300, 1000) else "")
    legend_below(left, ncols=1)
    legend_below(right, ncols=1)
    return figure


def cost(job: Row, num_steps: int) -> Cost:
    """One chain."""
    parameters = sum((one + 1) * other for one, other in pairwise(WIDTHS))
    batch = BATCH_SIZE if job["sampler"] == "sgld" else job["n"]
    return Cost(num_steps, dense(parameters, num_steps * batch))


def main() -> None:
    """Run what is missing, then the figure."""
    args = parse(__doc__, PRESETS)
    preset = PRESETS[args.preset]
    settings = {
        "widths": WIDTHS,
        "step_size": STEP_SIZE,
        "localization": LOCALIZATION,
        "batch_size": BATCH_SIZE,
        "num_steps": preset.num_steps,
        "device": Processes().device.type,
    }
    jobs = [
        {"n": n, "sampler": sampler, "run": run}
        for n, runs in preset.runs.items()
        for run in range(runs)
        for sampler in SAMPLERS
    ]

    def shown(rows: list[Row]) -> tuple[Any, list[Row], str]:
        table = summarize(rows)
        return draw(table), table, f"{claim(table)} {claim_of_verdicts(rows)}"

    steps = preset.num_steps
    carry_out(args, jobs, settings, lambda job: work(job, steps), cost=lambda job: cost(job, steps), shown=shown)


if __name__ == "__main__":
    start(main)
