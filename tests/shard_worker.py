"""Estimates of a small transformer as a program of its own, its weights split over `k` processes where there are more.

python shard_worker.py OUTPUT '[{"num_chains": 3, …}, …]' k        into OUTPUT/0, OUTPUT/1 …
"""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hf_llc import LLCEvaluator
from hf_llc.backend import random_streams
from hf_llc.parallel import group
from hf_llc.parallel.processes import process_state

WORDS, WIDTH = 11, 5
"""Neither they nor what follows from them can be divided by the number of processes."""


class Block(nn.Module):
    """Attention with one head, and a tanh layer; a gain of one element, which is with one process alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH + 1), nn.Linear(3 * WIDTH + 1, WIDTH)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(self.norm(x)).chunk(3, dim=-1)
        x = x + nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.gain * self.down(torch.tanh(self.up(x)))


class Transformer(nn.Module):
    """Two blocks between an embedding and an output layer that share their weight; one parameter is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Embedding(WORDS, WIDTH), nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight
        self.blocks[0].down.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def network() -> Transformer:
    """Weights that come from a generator of their own."""
    model, generator = Transformer(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return model


def examples(count: int = 41) -> tuple[Tensor, Tensor]:
    """Sequences and their next words."""
    words = torch.randint(WORDS, (count, 8), generator=torch.Generator().manual_seed(2))
    return words[:, :-1], words[:, 1:]


def next_words(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each sequence."""
    return nn.functional.cross_entropy(outputs.transpose(1, 2), labels, reduction="none").mean(-1)


SETTINGS = {
    "num_chains": 1,
    "num_draws": 6,
    "num_burnin_steps": 6,
    "batch_size": 7,
    "step_size": 1e-3,
    "localization": 5.0,
    "check_localization": False,
}


def split(model: Transformer, size: int) -> Transformer:
    """As `fully_shard` does it, in groups of `size` neighbours."""
    count = process_state().num_processes
    mesh = init_device_mesh("cpu", (count // size, size), mesh_dim_names=("group", "shard"))["shard"]
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def run(output: str, settings: dict[str, object], size: int) -> None:
    """Estimate; the weights are afterwards as they were before."""
    model = network()
    if size > 1:
        model = split(model, size)
    before = [parameter.full_tensor() if size > 1 else parameter.clone() for parameter in model.parameters()]
    evaluator = LLCEvaluator(**{**SETTINGS, **settings})
    evaluator.compute(model, data=examples(), loss_fn=next_words, output=output, progress=False)
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter.full_tensor() if size > 1 else parameter, value)
        assert parameter.grad is None


if __name__ == "__main__":
    random_streams.CHUNK["cpu"], group._SLAB = 64, 50  # small enough for the stretches of a process to cross some
    for number, each in enumerate(json.loads(sys.argv[2])):
        run(f"{sys.argv[1]}/{number}", each, int(sys.argv[3]))
