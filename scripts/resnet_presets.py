"""Sweeps and presets of resnet_cifar10.py."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from classifiers import MADE_UP
from experiment import Row

TRAINING = ("learning_rate", "batch_size", "momentum", "weight_decay")
"""What a sweep varies: the names of a job."""


@dataclass(frozen=True)
class Sweep:
    """One setting of training varied, the others held.

    Attributes:
        name: of `TRAINING`, the one that varies.
        values: of it.
        base: the others.
        step_size: of SGLD, the same for all its values.
    """

    name: str
    values: tuple[float, ...]
    base: dict[str, float]
    step_size: float

    def jobs(self, seeds: int) -> list[Row]:
        """One a value and seed. A run that two sweeps share is one job."""
        settings = [{**self.base, self.name: value, "step_size": self.step_size} for value in self.values]
        return [
            {**{n: s[n] for n in (*TRAINING, "step_size")}, "seed": seed} for s in settings for seed in range(seeds)
        ]


def _sweeps(
    values: dict[str, tuple[float, ...]],
    *,
    learning_rate: float,
    batch_sizes: tuple[int, int],
    with_momentum: bool,
    step_sizes: tuple[float, float],
) -> tuple[Sweep, ...]:
    """The paper's sweeps around one base.

    Args:
        values: of each setting that is varied; none: it is not.
        learning_rate: of the base.
        batch_sizes: of the base, and of the base of the sweep over momentum.
        with_momentum: all sweeps but that over momentum are also run with momentum 0.9.
        step_sizes: SGLD's ε, and its ε in the sweep over L2.
    """
    (batch_size, batch_size_momentum), (step_size, step_size_decay) = batch_sizes, step_sizes
    found = []
    for momentum in (0.0, 0.9) if with_momentum else (0.0,):
        base = {"learning_rate": learning_rate, "batch_size": batch_size, "momentum": momentum, "weight_decay": 0.0}
        found += [
            Sweep("learning_rate", values.get("learning_rate", ()), base, step_size),
            Sweep("batch_size", values.get("batch_size", ()), base, step_size),
            Sweep("weight_decay", values.get("weight_decay", ()), base, step_size_decay),
        ]
        if momentum == 0:
            held = {**base, "batch_size": batch_size_momentum}
            found.append(Sweep("momentum", values.get("momentum", ()), held, step_size))
    return tuple(found)


@dataclass(frozen=True)
class Settings:
    """What the rows depend on.

    Attributes:
        data: Hub id or folder of CIFAR-10.
        n, n_test: training and test images used.
        width: channels of the first stage; each later one has twice as many.
        halved: images are 16 × 16.
        stem: "imagenet" (7 × 7, stride 2, max-pool), as the authors ran it, or "cifar" (3 × 3).
        steps: of training.
        measured: steps after which λ̂ is estimated; the last one is `steps`.
        seeds: networks a setting.
        sweeps: what is varied.
        sampling: `SampleConfig`'s fields but the step size, which is a sweep's.
        batch_norm: "eval" (frozen statistics) or "batch" (those of each minibatch) while sampling.
        both_norms: the learning rate, batch size and momentum of the network for which both are estimated.
    """

    data: str = "uoft-cs/cifar10"
    n: int = 50_000
    n_test: int = 10_000
    width: int = 64
    halved: bool = False
    stem: str = "imagenet"
    steps: int = 30_000
    measured: tuple[int, ...] = (1, 1000, 2500, 5000, 7500, 10_000, 15_000, 20_000, 25_000, 30_000)
    seeds: int = 5
    sweeps: tuple[Sweep, ...] = _sweeps(
        {
            "learning_rate": (0.005, 0.01, 0.05, 0.1, 0.2),
            "batch_size": (16, 32, 64, 128, 256, 512, 1024),
            "momentum": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
            "weight_decay": (0.0, 0.01, 0.025, 0.05, 0.075, 0.1),
        },
        learning_rate=0.01,
        batch_sizes=(512, 128),
        with_momentum=True,
        step_sizes=(2e-7, 5e-8),
    )
    sampling: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {
            "num_chains": 1,
            "num_draws": 200,
            "num_burnin_steps": 1800,
            "batch_size": 2048,
            "micro_batch_size": 2048,
            "localization": 1.0,
        }
    )
    batch_norm: str = "eval"
    both_norms: tuple[float, int, float] = (0.01, 512, 0.0)


_TINY = {"num_chains": 1, "localization": 1.0}


PRESETS = {
    "smoke": Settings(
        data=MADE_UP,
        n=120,
        n_test=60,
        width=4,
        halved=True,
        steps=6,
        measured=(3, 6),
        seeds=2,
        sweeps=_sweeps(
            {"learning_rate": (0.01, 0.1), "momentum": (0.0, 0.9)},
            learning_rate=0.01,
            batch_sizes=(20, 20),
            with_momentum=False,
            step_sizes=(2e-6, 2e-6),
        ),
        sampling={**_TINY, "num_draws": 4, "num_burnin_steps": 4, "batch_size": 40, "micro_batch_size": 40},
        both_norms=(0.01, 20, 0.0),
    ),
    "cpu": Settings(  # so few images that networks fit them, as the paper's do: λ̂ tells sharp fits from flat ones
        n=500,
        n_test=2000,
        width=16,
        halved=True,
        steps=1000,
        measured=(500, 1000),
        seeds=3,
        sweeps=_sweeps(
            {
                "learning_rate": (0.02, 0.05, 0.2),
                "batch_size": (50, 125, 250),
                "momentum": (0.0, 0.5, 0.9),
                "weight_decay": (0.0, 0.005, 0.02),
            },
            learning_rate=0.05,
            batch_sizes=(50, 50),
            with_momentum=False,
            step_sizes=(2e-6, 2e-6),
        ),
        sampling={**_TINY, "num_draws": 40, "num_burnin_steps": 80, "batch_size": 125, "micro_batch_size": 125},
        both_norms=(0.05, 50, 0.0),
    ),
    "paper": Settings(),
}
