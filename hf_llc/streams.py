"""Random numbers as functions of (seed, chain, step): no state to save, the same on any number of processes."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

CHUNK = {"cpu": 2**15}
"""Elements drawn from one generator seed. On a CPU they stay in cache between the draw and its use."""

ACCELERATOR_CHUNK = 2**24


def counter_seed(*counters: int, purpose: str) -> int:
    """A 64-bit hash of the counters: neighbouring counters give unrelated seeds."""
    packed = struct.pack(f"<{len(counters)}q", *counters)
    return int.from_bytes(blake2b(packed, digest_size=8, person=purpose.encode()).digest(), "little")


def uniform(*counters: int, purpose: str) -> float:
    """A uniform number in (0, 1) that depends on the counters alone."""
    return (counter_seed(*counters, purpose=purpose) + 0.5) / 2.0**64


class NoiseStream:
    """Standard normal noise for a batch of chains.

    Element i of chain c at step t belongs to chunk i // chunk_size, which has its own generator seed
    hash(seed, c, t, chunk). So a chain's noise does not depend on which chains run beside it, on the process, or on
    what was drawn before; only the kind of device matters. (torch's CPU generator keeps 32 bits of the seed: two
    chunks of a long run may share their numbers, at unrelated places and times.) On a GPU with Triton each element is
    a function of (seed, c, t, i) by itself.

    Attributes:
        philox: `hf_llc.philox.Philox`, whose kernels draw the noise where they use it; None without Triton.
    """

    def __init__(self, seed: int, chains: Sequence[int], device: torch.device) -> None:
        self.seed, self.chains = seed, list(chains)
        self.generator = torch.Generator(device=device)
        self.chunk_size = CHUNK.get(device.type, ACCELERATOR_CHUNK)
        self.philox: Any = None
        if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
            from hf_llc.philox import Philox

            self.philox = Philox(counter_seed(seed, purpose="noise") >> 1, chains, device)

    def fill(self, out: Tensor, *, step: int, chunk: int) -> Tensor:
        """Overwrite `out`, shape `[chain, elements of the chunk]`, with the noise of this step and chunk."""
        if self.philox is not None:
            return self.philox.fill(out, step=step, start=chunk * self.chunk_size)
        for row, chain in zip(out, self.chains, strict=True):
            self.generator.manual_seed(counter_seed(self.seed, chain, step, chunk, purpose="noise"))
            row.normal_(generator=self.generator)
        return out


class BatchStream:
    """Each chain shuffles the examples once and walks them in segments of m, over and over ([L], Algorithm 1).

    The walk is cyclic: a segment that reaches the end of the shuffled examples goes on at their start, so that every
    example is used equally often and every batch has m examples, whether or not m divides their number.
    """

    def __init__(
        self, seed: int, chains: Sequence[int], *, num_examples: int, batch_size: int, device: torch.device
    ) -> None:
        self.num_examples, self.batch_size = num_examples, batch_size
        self.is_full = batch_size == num_examples
        generator = torch.Generator()
        orders = []
        for chain in chains if not self.is_full else []:
            generator.manual_seed(counter_seed(seed, chain, purpose="batches"))
            orders.append(torch.randperm(num_examples, generator=generator))
        self.orders = torch.stack(orders).to(device) if orders else None

    def indices(self, step: int) -> Tensor | None:
        """Examples of this step's batch, int64 `[chain, m]`; None means all of them, in order."""
        if self.orders is None:
            return None
        start = step * self.batch_size % self.num_examples
        stop = start + self.batch_size
        if stop <= self.num_examples:
            return self.orders[:, start:stop]
        return torch.cat([self.orders[:, start:], self.orders[:, : stop - self.num_examples]], dim=1)
