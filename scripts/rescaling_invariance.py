"""Figure O.1 of arXiv 2308.12108: λ̂ of ReLU networks whose layers are rescaled over eight orders of magnitude.

    OMP_NUM_THREADS=1 python scripts/rescaling_invariance.py           # --preset cpu
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 scripts/rescaling_invariance.py
    accelerate launch scripts/rescaling_invariance.py --preset paper   # 17 α, five runs; one GPU

W₁ → αW₁, b₁ → αb₁, W₂ → W₂/α leaves the function and so λ as they are. SGLD is not invariant: no single ε suits two
layers whose curvatures have moved apart by α⁴.

Setting: three networks, 10-20-10, 20-30-20 and 30-40-30, in which six hidden units are copies of a seventh. Labels are
the network's own outputs, n = 10,000, batches of 500, ε = 1e-5, γ = 0, 10,000 steps without burn-in; λ̂ is from losses
on all examples. A job is one chain with its own noise. Four preconditioners:

- known: A = c² for a parameter that was multiplied by c, in the drift and in the noise. The chain is then the image of
  the unscaled one, draw for draw. This is the paper's figure; its eq. 27 leaves A out of the noise: another law.
- none: SGLD at ε·min(α, 1/α)², the step size that the stiffer layer allows.
- adaptive: hf_llc's `psgld` at that step size, RMSProp frozen after a fifth of the steps. (The paper leaves this one to
  the reader.) A gradient scales as 1/c, so its inverse root mean square makes up for c, not for c².
- curvature: A = 1/(nβ(h + a tenth of h's mean over the tensor)), h the diagonal of the Hessian at w*, with ε = 0.02. It
  scales as c² by itself: invariance without knowing α.

The presets differ in α, in the number of runs and in how often L_n is computed: each chain of `cpu` is one that the
paper ran.

Expected with A = c²: λ̂ = 165.3, 540.4 and 1112.8 for the three networks (the authors' own of these widths: 166, 537 and
1110), at no α from 1e-4 to 1e4 further than 2.4 ± 1.0 % away. On the first network, at α = 1, at α = 0.3 and 3, and at
the ends:

    none         163, then 124 and 100, then 100 and 71
    adaptive     177, then 167 and 154, then 110 and 71 (its A spans a factor of 11; α⁴ is needed)
    curvature    172 … 182

Preconditioners differ at α = 1 for want of burn-in: in steps 10,000 to 30,000 of one chain each, A = c² and curvature
give 183.7 and 183.6.

Time: `cpu` takes four minutes of one thread of a 2-core machine. `paper` has not been run: 510 chains with a loss on
all examples at every step, four hours of a GPU by estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import matplotlib
import numpy as np
import torch
from dry_run import Cost, dense
from experiment import Row, carry_out, parse, start
from matplotlib.figure import Figure
from relu_network import ReLUNetwork, own_labels
from rescaling_figure import FIRST, NETWORKS, OTHERS, PRECONDITIONERS, claim, draw, summarize
from torch import Tensor, nn

from hf_llc.backend.random_streams import counter_seed
from hf_llc.parallel.processes import Processes
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.samplers import SGLD, AdaptiveSGLD, Kernel, PreconditionedSGLD
from hf_llc.samplers.walk import Walk

matplotlib.use("Agg")


COPIES = (1, 2, 3, 4, 5, 8)
STEP_SIZE, BATCH_SIZE = 1e-5, 500


@dataclass(frozen=True)
class Sweep:
    """Some networks with some preconditioners at some α."""

    networks: tuple[str, ...]
    preconditioners: tuple[str, ...]
    log10_alphas: tuple[float, ...]
    runs: int


@dataclass(frozen=True)
class Preset:
    """What is swept, and the length of a chain."""

    sweeps: tuple[Sweep, ...]
    n: int = 10_000
    num_steps: int = 10_000
    steps_a_loss: int = 20


ALL, DECADES = tuple(k / 2 for k in range(-8, 9)), tuple(float(k) for k in range(-4, 5))
PRESETS = {
    "smoke": Preset((Sweep((FIRST,), tuple(PRECONDITIONERS), (-2.0, 0.0), 2),), 1000, 60, 10),
    "cpu": Preset(
        (
            Sweep((FIRST,), ("known",), DECADES, 2),
            Sweep((FIRST,), tuple(PRECONDITIONERS)[1:], (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0), 1),
            Sweep(OTHERS, ("known",), (-4.0, 0.0, 4.0), 1),
        )
    ),
    "paper": Preset(
        (Sweep(tuple(NETWORKS), ("known",), ALL, 5), Sweep((FIRST,), tuple(PRECONDITIONERS)[1:], ALL, 5)),
        steps_a_loss=1,
    ),
}


def network(name: str, alpha: float) -> tuple[ReLUNetwork, Tensor]:
    """The network of these widths after rescaling by α, and by what each parameter was multiplied, `[parameter]`."""
    model = ReLUNetwork([int(width) for width in name.split("-")], copies=COPIES)
    by_tensor = {"layers.0.weight": alpha, "layers.0.bias": alpha, "layers.1.weight": 1 / alpha, "layers.1.bias": 1.0}
    factors = []
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.mul_(by_tensor[key])
            factors.append(torch.full((parameter.numel(),), by_tensor[key], dtype=torch.float64))
    return model, torch.cat(factors)


def curvature(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """The diagonal of the Hessian of the mean squared error where it is 0, one tensor a parameter.

    h = (2 / outputs) · mean over inputs of Σ_k (∂ŷ_k/∂w)²: without residuals the Gauss–Newton term is all there is.

    Args:
        model: the network.
        inputs: `[example, input]`.
    """
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def output(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, weights, (x,))

    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    outputs = 1
    for part in inputs.split(50):
        jacobian = torch.func.vmap(torch.func.jacrev(output), in_dims=(None, 0))(weights, part)
        for name, values in jacobian.items():
            outputs = values.shape[1]
            total[name] += values.square().sum((0, 1))
    return [2 / (outputs * len(inputs)) * value for value in total.values()]


def kernel_for(preconditioner: str, problem: Problem, factors: Tensor, *, nbeta: float, freeze_after: int) -> Kernel:
    """The sampler of this name for a network whose parameters were multiplied by `factors`."""
    if preconditioner == "known":
        return PreconditionedSGLD(STEP_SIZE, factors.square())
    if preconditioner == "curvature":
        found = curvature(problem.model, problem.examples["inputs"][:500].to(Processes().device))
        scale = [1 / (nbeta * (h + 0.1 * h.mean())) for h in found]
        return PreconditionedSGLD(0.02, torch.cat([a.flatten() for a in scale]))
    largest = float(torch.maximum(factors, 1 / factors).max())
    step_size = STEP_SIZE / largest**2
    return SGLD(step_size) if preconditioner == "none" else AdaptiveSGLD(step_size, freeze_after=freeze_after)


def full_losses(
    problem: Problem, kernel: Kernel, *, nbeta: float, num_steps: int, every: int, seed: int, batch_size: int
) -> np.ndarray:
    """L_n(w) − L_n(w*) on all examples after every `every` steps of one chain at γ = 0, `[loss]`.

    The chain ends at the first loss that is not finite.
    """
    with preserved(problem.model):
        posterior = Posterior(problem)
        walk = Walk(posterior, Law(nbeta=nbeta, localization=0.0), [0], seed=seed, batch_size=batch_size)
        found = []
        for step in range(num_steps):
            kernel.step(walk, walk.batches.indices(step), step=step, measure=False)
            if (step + 1) % every == 0:
                found.append(float(posterior.example_losses(walk.w).mean()) - posterior.init_loss)
                if not math.isfinite(found[-1]):
                    break
    return np.array(found)


def work(job: Row, preset: Preset) -> Row:
    """One chain: its λ̂, NaN if it diverged."""
    nbeta = preset.n / math.log(preset.n)
    model, factors = network(job["network"], 10 ** job["log10_alpha"])
    problem = own_labels(model, preset.n)
    freeze_after = preset.num_steps // 5
    excess = full_losses(
        problem,
        kernel_for(job["preconditioner"], problem, factors, nbeta=nbeta, freeze_after=freeze_after),
        nbeta=nbeta,
        num_steps=preset.num_steps,
        every=preset.steps_a_loss,
        seed=counter_seed(*_numbers(job), purpose="rescaling") % 2**62,
        batch_size=min(BATCH_SIZE, preset.n // 4),
    )
    dropped = freeze_after // preset.steps_a_loss if job["preconditioner"] == "adaptive" else 0
    return {"llc": nbeta * float(excess[dropped:].mean()) if len(excess) > dropped else math.nan}


def _numbers(job: Row) -> list[int]:
    """A job as whole numbers."""
    names = (list(NETWORKS).index(job["network"]), list(PRECONDITIONERS).index(job["preconditioner"]))
    return [*names, round(2 * job["log10_alpha"]), job["run"]]


def cost(job: Row, preset: Preset) -> Cost:
    """One chain, with its losses on all examples."""
    parameters = sum((one + 1) * other for one, other in pairwise(int(width) for width in job["network"].split("-")))
    examples = preset.num_steps * (min(BATCH_SIZE, preset.n // 4) + preset.n / preset.steps_a_loss / 3)
    return Cost(preset.num_steps, dense(parameters, examples))


def main() -> None:
    """Run what is missing, then the figure."""
    args = parse(__doc__, PRESETS)
    preset = PRESETS[args.preset]
    settings = {
        "copies": COPIES,
        "step_size": STEP_SIZE,
        "batch_size": BATCH_SIZE,
        "n": preset.n,
        "num_steps": preset.num_steps,
        "steps_a_loss": preset.steps_a_loss,
    }
    jobs = [
        {"network": name, "preconditioner": preconditioner, "log10_alpha": log10_alpha, "run": run}
        for sweep in preset.sweeps
        for name in sweep.networks
        for preconditioner in sweep.preconditioners
        for log10_alpha in sweep.log10_alphas
        for run in range(sweep.runs)
    ]

    def shown(rows: list[Row]) -> tuple[Figure, list[Row], str]:
        table = summarize(rows)
        return draw(table), table, claim(table)

    carry_out(args, jobs, settings, lambda job: work(job, preset), cost=lambda job: cost(job, preset), shown=shown)


if __name__ == "__main__":
    start(main)
