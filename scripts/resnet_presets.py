"""Sweeps and presets of resnet_cifar10.py."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from classifiers import MADE_UP
from experiment import Row

TRAINING = ("learning_rate", "batch_size", "momentum", "l2")
"""What a sweep varies: the names of a job."""


@dataclass(frozen=True)
class Sweep:
    """One setting of training varied, the others held.

    Attributes:
        name: of `TRAINING`, the one that varies.
        values: of it.
        base: the others. "l2" is the α of α‖w‖², whose gradient is 2αw: half of torch's weight_decay.
        steps: of training.
        every: steps from one λ̂ to the next.
        chain_steps: of SGLD.
        step_size: of SGLD, the same for all its values.
    """

    name: str
    values: tuple[float, ...]
    base: dict[str, float]
    steps: int
    every: int
    chain_steps: int
    step_size: float

    def jobs(self, seeds: int) -> list[Row]:
        """One a value and seed. A run that two sweeps share is one job."""
        held = {name: getattr(self, name) for name in ("steps", "every", "chain_steps", "step_size")}
        return [
            {**{name: {**self.base, self.name: value}[name] for name in TRAINING}, **held, "seed": seed}
            for value in self.values
            for seed in range(seeds)
        ]


def _base(learning_rate: float, batch_size: int, momentum: float) -> dict[str, float]:
    return {"learning_rate": learning_rate, "batch_size": batch_size, "momentum": momentum, "l2": 0.0}


RATES = (0.005, 0.01, 0.05, 0.1, 0.2)
SIZES = (16, 32, 64, 128, 256, 512, 1024)
MOMENTA = tuple(k / 10 for k in range(10))
PENALTIES = (0.0, 0.01, 0.025, 0.05, 0.075, 0.1)
PAPER_SWEEPS = (
    Sweep("learning_rate", RATES, _base(0.01, 512, 0.0), 30_000, 1000, 3000, 2e-7),
    Sweep("batch_size", SIZES, _base(0.01, 512, 0.0), 100_000, 2500, 2500, 2e-7),
    Sweep("momentum", MOMENTA, _base(0.05, 512, 0.0), 20_000, 1000, 3000, 2e-7),
    Sweep("learning_rate", RATES, _base(0.01, 512, 0.9), 30_000, 1000, 3000, 2e-7),
    Sweep("batch_size", SIZES, _base(0.01, 512, 0.9), 100_000, 2500, 2500, 2e-7),
    Sweep("l2", PENALTIES, _base(0.0005, 512, 0.9), 15_000, 500, 2000, 5e-8),
    Sweep("l2", PENALTIES, _base(0.001, 512, 0.0), 50_000, 1000, 2000, 5e-8),
)
"""Figure 1 (learning rate, batch size, momentum), then K.1 (the first two again with momentum 0.9) and K.2 (L2)."""


def _cpu_sweep(name: str, *values: float) -> Sweep:
    return Sweep(name, values, _base(0.05, 50, 0.0), 1000, 500, 120, 2e-6)


@dataclass(frozen=True)
class Settings:
    """What the rows depend on.

    Attributes:
        data: Hub id or folder of CIFAR-10.
        n, n_test: training and test images used.
        width: channels of the first stage; each later one has twice as many.
        halved: images are 16 × 16.
        stem: "imagenet" (7 × 7, stride 2, max-pool), as the authors ran it, or "cifar" (3 × 3).
        seeds: networks a setting.
        sweeps: what is varied.
        kept: share of SGLD's steps that is kept, the last ones.
        sampling: `SampleConfig`'s fields but those that are a sweep's.
        batch_norm: "eval" (frozen statistics) or "batch" (those of each minibatch) while sampling.
        both_norms: the learning rate, batch size and momentum of the network for which both are estimated.
    """

    data: str = "uoft-cs/cifar10"
    n: int = 50_000
    n_test: int = 10_000
    width: int = 64
    halved: bool = False
    stem: str = "imagenet"
    seeds: int = 5
    sweeps: tuple[Sweep, ...] = PAPER_SWEEPS
    kept: float = 0.1
    sampling: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {
            "num_chains": 1,
            "batch_size": 2048,
            "micro_batch_size": 2048,
            "localization": 1.0,
        }
    )
    batch_norm: str = "eval"
    both_norms: tuple[float, int, float] = (0.01, 512, 0.0)

    def sample(self, job: Row) -> dict[str, Any]:
        """`SampleConfig`'s fields for the λ̂ of a job."""
        draws = round(self.kept * job["chain_steps"])
        steps = {"num_draws": draws, "num_burnin_steps": job["chain_steps"] - draws}
        return {**self.sampling, **steps, "step_size": job["step_size"], "seed": job["seed"]}


def _smoke(name: str, *values: float) -> Sweep:
    return Sweep(name, values, _base(0.01, 20, 0.0), 6, 3, 8, 2e-6)


PRESETS = {
    "smoke": Settings(
        data=MADE_UP,
        n=120,
        n_test=60,
        width=4,
        halved=True,
        seeds=2,
        sweeps=(_smoke("learning_rate", 0.01, 0.1), _smoke("momentum", 0.0, 0.9)),
        kept=0.5,
        sampling={"num_chains": 1, "localization": 1.0, "batch_size": 40, "micro_batch_size": 40},
        both_norms=(0.01, 20, 0.0),
    ),
    "cpu": Settings(  # so few images that networks fit them, as the paper's do: λ̂ tells sharp fits from flat ones
        n=500,
        n_test=2000,
        width=16,
        halved=True,
        seeds=3,
        sweeps=(
            _cpu_sweep("learning_rate", 0.02, 0.05, 0.2),
            _cpu_sweep("batch_size", 50, 125, 250),
            _cpu_sweep("momentum", 0.0, 0.5, 0.9),
            _cpu_sweep("l2", 0.0, 0.0025, 0.01),
        ),
        kept=1 / 3,
        sampling={"num_chains": 1, "localization": 1.0, "batch_size": 125, "micro_batch_size": 125},
        both_norms=(0.05, 50, 0.0),
    ),
    "paper": Settings(),
}
