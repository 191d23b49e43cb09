"""Random numbers as functions of (seed, chain, step): no state to save, and the same on any number of processes."""

from __future__ import annotations

import functools
import importlib.util
import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

CHUNK = {"cpu": 2**15}
"""Elements drawn from one generator seed. On a CPU they are still in cache when they are used."""

ACCELERATOR_CHUNK = 2**24


@functools.cache
def _prepared(purpose: str, count: int) -> tuple[Any, Callable[..., bytes]]:
    """An empty hash of this purpose, and a function that packs so many counters into bytes."""
    # cached: small models need a seed every few microseconds, and this halves its cost
    return blake2b(digest_size=8, person=purpose.encode()), struct.Struct(f"<{count}q").pack


def counter_seed(*counters: int, purpose: str) -> int:
    """A 64-bit hash of the counters and the purpose; neighbouring counters give unrelated seeds."""
    empty, pack = _prepared(purpose, len(counters))
    digest = empty.copy()
    digest.update(pack(*counters))
    return int.from_bytes(digest.digest(), "little")


def uniform(*counters: int, purpose: str) -> float:
    """A uniform number in (0, 1), a function of the counters and the purpose."""
    return (counter_seed(*counters, purpose=purpose) + 0.5) / 2.0**64


class NoiseStream:
    """Standard normal noise for a batch of chains.

    Element i of chain c at step t belongs to chunk i // chunk_size, and each chunk has a generator seed of its own,
    hash(seed, c, t, chunk). So the noise of a chain depends on the kind of device, but not on the process, the chains
    beside it or earlier draws. On a GPU with Triton each element is a function of (seed, c, t, i) by itself.

    torch's CPU generator keeps 32 bits of a seed. In a long run two chunks may therefore have the same numbers, at
    unrelated elements and steps.

    Args:
        seed: of the run.
        chains: chain numbers.
        device: of the noise.

    Attributes:
        philox: `hf_llc.backend.philox_noise.Philox`, whose kernels draw the noise that they use; None without Triton.
    """

    def __init__(self, seed: int, chains: Sequence[int], device: torch.device) -> None:
        self.seed, self.chains = seed, list(chains)
        self.generator = torch.Generator(device=device)
        self.chunk_size = CHUNK.get(device.type, ACCELERATOR_CHUNK)
        self._filled: Tensor | None = None
        self._rows: tuple[Tensor, ...] = ()  # kept: to make them takes a tenth of a small network's step
        self.philox: Any = None
        if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
            from hf_llc.backend.philox_noise import Philox

            self.philox = Philox(counter_seed(seed, purpose="noise") >> 1, chains, device)

    def fill(self, out: Tensor, *, step: int, chunk: int) -> Tensor:
        """Overwrite `out`, `[chain, elements of the chunk]`, with the noise of this step and chunk."""
        if self.philox is not None:
            return self.philox.fill(out, step=step, start=chunk * self.chunk_size)
        if self._filled is not out:
            self._filled, self._rows = out, out.unbind()
        for row, chain in zip(self._rows, self.chains, strict=True):
            self.generator.manual_seed(counter_seed(self.seed, chain, step, chunk, purpose="noise"))
            row.normal_(generator=self.generator)
        return out


_BLOCK = 16
"""Steps whose batches are drawn together."""


class BatchStream:
    """Minibatches: each chain shuffles the examples once into a circle, and a batch is a segment of m of them.

    The segment's start is drawn anew for every step and chain: line 5 of Algorithm 1 of arXiv 2308.12108 draws a random
    minibatch. Two other schemes are biased (tests/test_kernel_laws.py):

    - Segments in turn, without a new shuffle at the circle's end: the practice of section 4.4 there, and the order
      "in-turn" here. The gradient noises of an epoch's batches sum to zero, so what earlier batches did to w opposes
      the batch to come. Then L_B(w) − L_B(w*) exceeds L_n(w) − L_n(w*) on average, by up to ε(nβ)²/4 times the
      variance of ∇L_B, and the heat of gradient noise is not that of independent batches.
    - Starts shared by all chains correlate their losses, since every w has just fitted the same examples.

    Args:
        seed: of the run.
        chains: chain numbers.
        num_examples: of the data.
        batch_size: m; all examples: full batches.
        device: of the indices.
        order: "random" or "in-turn".
    """

    def __init__(
        self,
        seed: int,
        chains: Sequence[int],
        *,
        num_examples: int,
        batch_size: int,
        device: torch.device,
        order: str = "random",
    ) -> None:
        self.is_in_turn = order == "in-turn"
        self.seed, self.chains, self.num_examples, self.batch_size = seed, list(chains), num_examples, batch_size
        self.is_full = batch_size == num_examples
        self.generator = torch.Generator()
        orders = []
        for chain in chains if not self.is_full else []:
            self.generator.manual_seed(counter_seed(seed, chain, purpose="batches"))
            shuffled = torch.randperm(num_examples, generator=self.generator)
            orders.append(torch.cat([shuffled, shuffled[: batch_size - 1]]))  # so that a segment may pass the end
        self.orders = torch.stack(orders).to(device) if orders else None
        self._block, self._drawn = -1, torch.empty(0)

    def indices(self, step: int) -> Tensor | None:
        """Indices of this step's batch, int64 `[chain, m]`, a view; None stands for all examples, in order."""
        block = self.block(step)
        return None if block is None else block[0][block[1]]

    def block(self, step: int) -> tuple[Tensor, int] | None:
        """The batches drawn together with this step's, int64 `[step, chain, m]`, and the index of this step's."""
        if self.orders is None:
            return None
        block, at = divmod(step, _BLOCK)
        if block != self._block:
            self._block, self._drawn = block, self._draw(block, self.orders)
        return self._drawn, at

    def _draw(self, block: int, orders: Tensor) -> Tensor:
        """Batches of the steps of a block, `[step, chain, m]`."""
        if self.is_in_turn:
            steps = torch.arange(block * _BLOCK, (block + 1) * _BLOCK)[:, None]
            begins = [steps * self.batch_size % self.num_examples] * len(self.chains)
        else:
            begins = [self._begins(chain, block) for chain in self.chains]
        places = torch.stack(begins).to(orders.device) + torch.arange(self.batch_size, device=orders.device)
        drawn = orders.gather(1, places.flatten(1)).view_as(places)
        return drawn.transpose(0, 1).contiguous()

    def _begins(self, chain: int, block: int) -> Tensor:
        """Where the segments of a chain begin in the steps of a block, `[step, 1]`."""
        self.generator.manual_seed(counter_seed(self.seed, chain, block, purpose="batch"))
        return torch.randint(self.num_examples, (_BLOCK, 1), generator=self.generator)

    def in_turn(self, step: int) -> Tensor | None:
        """Indices for training, which needs every example equally often: segments in turn."""
        if self.orders is None:
            return None
        start = step * self.batch_size % self.num_examples
        return self.orders[:, start : start + self.batch_size]
