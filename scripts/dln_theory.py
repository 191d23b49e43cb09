"""What theory says of λ, checked: Figures I.1 and 2 of arXiv 2308.12108 and the one-parameter model of its appendix F.

    OMP_NUM_THREADS=1 python scripts/dln_theory.py           # --preset cpu
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 scripts/dln_theory.py
    accelerate launch scripts/dln_theory.py --preset paper   # more networks, more nβ, more chains

1. Figure I.1: exact λ and multiplicity m (Aoyagi 2024) of deep linear networks with 2 to 800 hidden layers. Widths are
   uniform on 100 … 2000, the rank of the product on 0 … the smallest width, as the paper draws them. The claim: λ lies
   far below d/2, the more so the deeper the network, and m hardly matters.
2. Figure 2: the volume V(ε) of {K < ε} near a minimum shrinks as ε^λ (ln 1/ε)^(m−1). V is integrated numerically for
   four landscapes K of two parameters with known λ, under N(w*, I/γ) with γ = 1, which is SGLD's localization. The
   Laplace transform of V gives the exact λ̂ at any nβ: nβ E[K] = ∫ V(x/nβ)(x − 1)e^−x dx / ∫ V(x/nβ) e^−x dx. hf_llc
   samples the same landscapes by HMC and must agree.
3. Appendix F: ŷ = w⁸ f₁(x) + (1 − w⁸) f₂(x), with noise. Where f₁ is the truth, K = ½(1 − w⁸)² has λ = 1/2 at w = 1;
   where f₂ is, K = ½w¹⁶ has λ = 1/16 at w = 0: two truths, two λ. (f₁ and f₂ are a sine and a cosine, of mean squared
   difference 1.) Both λ are checked in the same two ways.
4. A polynomial with two minima of loss 0 beside it: K = ½((w + 1)(w − 1)⁸)² has λ = 1/2 at w = −1 and 1/16 at w = 1.
   The posterior mass moves to w = 1 as n grows, as n^(1/2 − 1/16).
5. Appendix E, eq. 24: E K under N(w*, σ²I) is ½σ² Tr H, to second order in σ. At half of these minima H is 0, whatever
   λ is between 1/16 and 1/2. No more of an experiment than that: eq. 24 is an identity of quadratics.

The landscapes, f₁, f₂ and the polynomial are ours, with the λ that the paper names.

Expected of `cpu`:

- median λ/(d/2) is 0.056 up to 10 hidden layers and 0.0002 from 100 on, at most 0.361; m is at most 25, and its term in
  the free energy at most 0.04 % of λ ln n at n = 10⁶;
- exponents of the volume are within 0.003 of λ; 22 sampled λ̂ lie −1.5 to +1.3 standard errors off;
- appendix F at nβ = 1000: λ̂ = 0.495 ± 0.007 and 0.0519 ± 0.0014 (from the volume: 0.5008 and 0.0539);
- the polynomial at nβ = 1000: 0.502 ± 0.008 and 0.0558 ± 0.0013 (0.5000 and 0.0561), its mass moves as n^0.4382.

Time: two minutes of one core, six by the clock on a busy machine. `paper` has not been run: half an hour of one core
(`--dry-run`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import torch
from dry_run import Cost
from experiment import Row, carry_out, parse, start
from landscapes import LANDSCAPES, Landscape, exact_llc, mass_exponent, volume, volume_exponent
from sampling_alone import sample_alone
from torch import Tensor, nn

from hf_llc.backend.random_streams import counter_seed
from hf_llc.judging.estimator import llc_draws
from hf_llc.judging.statistics import standard_error
from hf_llc.problem import Problem
from hf_llc.publishing.picture import COLOURS, WIDTH, legend_below
from hf_llc.samplers import HMC
from hf_llc.theory import deep_linear

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm

WIDTHS = (100, 2000)
"""Widths of the networks, both ends included."""


@dataclass(frozen=True)
class Preset:
    """How many networks, and how long the chains."""

    hidden: tuple[int, ...]
    networks_a_depth: int
    log10_nbetas: tuple[float, ...]
    num_chains: int
    num_steps: int


HIDDEN = tuple(sorted({round(2 * 400 ** (k / 24)) for k in range(25)}))
"""Hidden layers, 2 to 800, evenly in their logarithm."""
PRESETS = {
    "smoke": Preset((2, 200), 2, (2.0,), 8, 16),
    "cpu": Preset(HIDDEN, 8, (1.0, 2.0, 3.0), 200, 300),
    "paper": Preset(HIDDEN, 40, (1.0, 1.5, 2.0, 2.5, 3.0), 1000, 1000),
}


class Parameters(nn.Module):
    """A few parameters that are the whole model; inputs do not matter."""

    def __init__(self, landscape: Landscape) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(landscape.w_star, dtype=torch.float64))
        self.landscape = landscape

    def forward(self, inputs: Tensor) -> Tensor:
        """K for every example, `[batch]`."""
        return self.landscape.loss(self.w).expand(len(inputs))


def sampled_llc(name: str, nbeta: float, preset: Preset) -> Row:
    """λ̂ by HMC at γ = 1, the first half of the trajectories dropped."""
    landscape = LANDSCAPES[name]
    problem = Problem(
        Parameters(landscape),
        {"inputs": torch.zeros(2, 1, dtype=torch.float64)},
        lambda forward, batch: forward(batch["inputs"]),
        n=2,
        unit="nats per example",
    )
    trace = sample_alone(
        problem,
        HMC(1 / (landscape.stiffness * nbeta + 1), num_leapfrog_steps=landscape.leapfrog),
        chains=range(preset.num_chains),
        nbeta=nbeta,
        localization=1.0,
        batch_size=2,
        num_steps=preset.num_steps,
        seed=counter_seed(list(LANDSCAPES).index(name), round(100 * math.log10(nbeta)), purpose="landscape") % 2**62,
    )
    draws = llc_draws(trace.loss, trace.init_loss, nbeta=nbeta, num_burnin_steps=preset.num_steps // 2)
    return {
        "llc": float(draws.mean()),
        "llc_se": standard_error(draws),
        "accept_prob": float(np.nanmean(trace.accept_prob)),
    }


def random_theory(hidden: int, seed: int) -> Row:
    """Exact λ and m of one random deep linear network, beside its d/2."""
    draw = random.Random(f"{hidden} {seed}")
    widths = [draw.randint(*WIDTHS) for _ in range(hidden + 2)]
    rank = draw.randint(0, min(widths))
    value, multiplicity = deep_linear(widths, rank)
    half = sum(a * b for a, b in pairwise(widths)) / 2
    return {"rank": rank, "lambda": float(value), "multiplicity": multiplicity, "half_d": half}


def work(job: Row, preset: Preset) -> Row:
    """One network's theory, or one landscape's λ̂ at one nβ with what it must be."""
    if job["part"] == "network":
        return random_theory(job["hidden"], job["seed"])
    nbeta = 10 ** job["log10_nbeta"]
    found = sampled_llc(job["landscape"], nbeta, preset)
    return {**found, "exact": exact_llc(LANDSCAPES[job["landscape"]], nbeta)}


def claim_of_networks(networks: Sequence[Row]) -> str:
    """Figure I.1: is λ far below d/2, and m negligible?"""
    share = [(row["hidden"], row["lambda"] / row["half_d"]) for row in networks]
    shallow = float(np.median([x for hidden, x in share if hidden <= 10]))
    deep = float(np.median([x for hidden, x in share if hidden >= 100]))
    n, largest = 1e6, max(x for _, x in share)
    weight = max((row["multiplicity"] - 1) * math.log(math.log(n)) / (row["lambda"] * math.log(n)) for row in networks)
    return (
        f"λ of deep linear networks far below d/2, the more so the deeper, and m negligible: "
        f"{_seen(deep < shallow < 1 and weight < 0.01)} ({len(networks)} networks; median λ/(d/2) {shallow:.3f} up to "
        f"10 hidden layers, {deep:.4f} from 100 on, largest {largest:.3f}; m at "
        f"most {max(row['multiplicity'] for row in networks)}, its term in the free energy at most "
        f"{weight:.2%} of λ's at n = 10⁶)."
    )


def claim_of_landscapes(targets: Sequence[Row]) -> str:
    """Figure 2 and appendix F: is λ the exponent of the volume, and λ̂ what the volume says?"""
    off = max(abs(volume_exponent(item) - item.learning_coefficient) for item in LANDSCAPES.values())
    z = np.array([(row["llc"] - row["exact"]) / row["llc_se"] for row in targets])
    is_sharp = max(row["llc_se"] / row["exact"] for row in targets) < 0.1
    agrees = _seen(float(np.abs(z).max()) < 4) if is_sharp else "cannot tell"
    return (
        f"V(ε) shrinks as ε^λ: {_seen(off < 0.01)} (exponents within {off:.4f} of λ, {len(LANDSCAPES)} landscapes). "
        f"λ̂ is what V says at its nβ: {agrees} ({len(z)} estimates, {z.min():+.1f} to "
        f"{z.max():+.1f} standard errors off, root mean square {np.sqrt((z**2).mean()):.2f}). "
        f"The mass at λ = 1/16 gains on that at λ = 1/2 as n^{mass_exponent():.4f} (7/16 = 0.4375)."
    )


def claim_of_appendix_f(targets: Sequence[Row]) -> str:
    """Are both λ of appendix F's own model seen, by quadrature and by λ̂? And what ½σ² Tr H says (appendix E)."""
    parts = []
    for name, landscape in list(LANDSCAPES.items())[-2:]:
        row = max((row for row in targets if row["landscape"] == name), key=lambda row: row["log10_nbeta"])
        z = (row["llc"] - row["exact"]) / row["llc_se"]
        exponent = volume_exponent(landscape)
        is_seen = abs(exponent - landscape.learning_coefficient) < 0.01 and abs(z) < 4
        parts.append(
            f"{name[3:]}: λ = {landscape.learning_coefficient:g}, exponent of the volume {exponent:.4f}, λ̂ at nβ = "
            f"{10 ** row['log10_nbeta']:g} {row['llc']:.4f} ± {row['llc_se']:.4f} ({row['exact']:.4f} by quadrature): "
            f"{_seen(is_seen) if row['llc_se'] < 0.1 * row['exact'] else 'cannot tell'}"
        )
    flat = [item for item in LANDSCAPES.values() if item.half_trace() == 0]
    values = sorted(item.learning_coefficient for item in flat)
    return (
        f"Appendix F, w⁸ f₁ + (1 − w⁸) f₂: {'; '.join(parts)}. ½σ² Tr H (eq. 24) is 0 at {len(flat)} of "
        f"{len(LANDSCAPES)} minima, with λ from {values[0]:g} to {values[-1]:g}: it cannot tell them apart."
    )


def _seen(is_seen: bool) -> str:
    return "seen" if is_seen else "not seen"


def draw(networks: Sequence[Row], targets: Sequence[Row]) -> Any:
    """Above: λ against d/2, and multiplicities. Below: volumes, and λ̂ against what they say."""
    figure, ((one, two), (three, four)) = plt.subplots(2, 2, figsize=(WIDTH, 7.6), layout="constrained")
    layers = [row["hidden"] for row in networks]
    half = np.array([row["half_d"] for row in networks])
    dots = one.scatter(half, [row["lambda"] for row in networks], c=layers, s=8, norm=LogNorm(), cmap="viridis")
    figure.colorbar(dots, ax=one, label="hidden layers")
    span = np.array([half.min(), half.max()])
    one.plot(span, span, "k--", lw=1, label="λ = d/2: a regular model")
    one.set(xscale="log", yscale="log", xlabel="d/2", ylabel="λ, exact", title="Figure I.1: deep linear networks")
    legend_below(one)
    two.scatter(layers, [row["multiplicity"] for row in networks], s=8, color=COLOURS[0], alpha=0.6)
    two.set(
        xscale="log", yscale="log", xlabel="hidden layers", ylabel="multiplicity m", title="Figure I.1: multiplicity"
    )
    levels = np.geomspace(1e-10, 1, 61)
    nbetas = np.geomspace(3, 1e5, 19)
    for i, (name, landscape) in enumerate(LANDSCAPES.items()):
        fraction = {1.0: "1", 0.75: "3/4", 0.5: "1/2", 0.25: "1/4", 1 / 16: "1/16"}[landscape.learning_coefficient]
        label = f"{name}:  λ = {fraction}" + (f", m = {landscape.multiplicity}" if landscape.multiplicity > 1 else "")
        three.plot(levels, volume(landscape, levels), f"C{i}", label=label)
        four.plot(nbetas, [exact_llc(landscape, nbeta) for nbeta in nbetas], f"C{i}", lw=1)
        four.axhline(landscape.learning_coefficient, color=f"C{i}", ls=":", lw=1)
        mine = [row for row in targets if row["landscape"] == name]
        four.errorbar(
            [10 ** row["log10_nbeta"] for row in mine],
            [row["llc"] for row in mine],
            [2 * row["llc_se"] for row in mine],
            fmt=f"C{i}o",
            ms=4,
        )
    three.set(xscale="log", yscale="log", xlabel="ε", ylabel="V(ε): probability of K < ε", title="Figure 2: volumes")
    legend_below(three)
    four.plot([], [], "ko", ms=4, label="λ̂, sampled (±2 standard errors)")
    four.plot([], [], "k", lw=1, label="from the volume, exactly")
    four.plot([], [], "k:", lw=1, label="λ: the limit")
    four.set(xscale="log", xlabel="nβ", ylabel="nβ E[K]", title="λ̂ and what the volume says", ylim=(0, 1.1))
    legend_below(four, ncols=1)
    return figure


def cost(job: Row, preset: Preset) -> Cost:
    """The leapfrog steps of all chains together; a network's theory takes no gradient."""
    if job["part"] == "network":
        return Cost(0, 0.0)
    gradients = preset.num_steps * LANDSCAPES[job["landscape"]].leapfrog
    return Cost(gradients, 100.0 * gradients * preset.num_chains, least=1e-3)


def main() -> None:
    """Run what is missing, then the figure."""
    args = parse(__doc__, PRESETS)
    preset = PRESETS[args.preset]
    settings = {"widths": WIDTHS, "num_chains": preset.num_chains, "num_steps": preset.num_steps}
    jobs: list[Row] = [
        {"part": "landscape", "landscape": name, "log10_nbeta": log10_nbeta}
        for name in LANDSCAPES
        for log10_nbeta in preset.log10_nbetas
        if log10_nbeta >= LANDSCAPES[name].least_log10_nbeta
    ]
    jobs += [
        {"part": "network", "hidden": hidden, "seed": seed}
        for hidden in preset.hidden
        for seed in range(preset.networks_a_depth)
    ]

    def shown(rows: list[Row]) -> tuple[Any, list[Row], str]:
        networks, targets = ([row for row in rows if row["part"] == part] for part in ("network", "landscape"))
        names = sorted({name for row in rows for name in row} - {"seconds"})
        numbers = [{name: row.get(name, "") for name in ("part", *(n for n in names if n != "part"))} for row in rows]
        sentence = f"{claim_of_networks(networks)} {claim_of_landscapes(targets)} {claim_of_appendix_f(targets)}"
        return draw(networks, targets), numbers, sentence

    carry_out(args, jobs, settings, lambda job: work(job, preset), cost=lambda job: cost(job, preset), shown=shown)


if __name__ == "__main__":
    start(main)
