"""A small estimate as a program of its own, for tests that launch it under several processes or kill it.

python worker.py OUTPUT '{"num_chains": 3, …}'
python worker.py OUTPUT '[{…}, {…}]'              one after the other, into OUTPUT/0, OUTPUT/1 …
"""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor, nn

from hf_llc import LLCEvaluator


def network(width: int = 6) -> nn.Module:
    """A tanh network whose weights come from a generator of its own."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return model


def examples(model: nn.Module, count: int = 203, width: int = 6) -> tuple[Tensor, Tensor]:
    """Inputs, and the network's own outputs as labels: w* is a minimum."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(count, width, generator=generator)
    with torch.no_grad():
        return x, model(x)


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """½‖ŷ − y‖² of each example."""
    return 0.5 * ((outputs - labels) ** 2).sum(-1)


SETTINGS = {
    "num_chains": 3,
    "num_draws": 60,
    "num_burnin_steps": 40,
    "batch_size": 20,
    "step_size": 1e-3,
    "localization": 5.0,
}


def run(output: str, settings: dict[str, object]) -> None:
    """Estimate and print the number of processes."""
    model = network()
    evaluator = LLCEvaluator(**{**SETTINGS, **settings})
    result = evaluator.compute(model, data=examples(model), loss_fn=squared_error, output=output)
    print(f"processes {result.num_processes}")


if __name__ == "__main__":
    asked = json.loads(sys.argv[2])
    if isinstance(asked, dict):
        run(sys.argv[1], asked)
    else:
        for number, each in enumerate(asked):
            run(f"{sys.argv[1]}/{number}", each)
