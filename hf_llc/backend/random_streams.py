"""Random numbers as functions of (seed, chain, step): no state to save, the same on any number of processes."""

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
"""Elements drawn from one generator seed. On a CPU they stay in cache between the draw and its use."""

ACCELERATOR_CHUNK = 2**24


@functools.cache
def _prepared(purpose: str, count: int) -> tuple[Any, Callable[..., bytes]]:
    """A hash that has read nothing yet, and what packs so many counters.

    Small models draw a seed every few microseconds; this halves what one takes.
    """
    return blake2b(digest_size=8, person=purpose.encode()), struct.Struct(f"<{count}q").pack


def counter_seed(*counters: int, purpose: str) -> int:
    """A 64-bit hash of the counters: neighbouring counters give unrelated seeds."""
    empty, pack = _prepared(purpose, len(counters))
    digest = empty.copy()
    digest.update(pack(*counters))
    return int.from_bytes(digest.digest(), "little")


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
        philox: `hf_llc.backend.philox_noise.Philox`, whose kernels draw the noise where they use it; None without
            Triton.
    """

    def __init__(self, seed: int, chains: Sequence[int], device: torch.device) -> None:
        self.seed, self.chains = seed, list(chains)
        self.generator = torch.Generator(device=device)
        self.chunk_size = CHUNK.get(device.type, ACCELERATOR_CHUNK)
        self._filled: Tensor | None = None
        self._rows: tuple[Tensor, ...] = ()  # to make them is a tenth of a small network's step
        self.philox: Any = None
        if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
            from hf_llc.backend.philox_noise import Philox

            self.philox = Philox(counter_seed(seed, purpose="noise") >> 1, chains, device)

    def fill(self, out: Tensor, *, step: int, chunk: int) -> Tensor:
        """Overwrite `out`, shape `[chain, elements of the chunk]`, with the noise of this step and chunk."""
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
    """Each chain shuffles the examples once and lays them in a circle; a batch is a segment of m of them.

    Chains take a segment that begins anywhere, drawn for every step and chain. [L], Algorithm 1, walks the segments in
    turn instead, which biases λ̂: what earlier batches of an epoch did to w leans against the batch that is to come
    (together they sum to nothing), so that L_B(w) − L_B(w*) is above L_n(w) − L_n(w*) on average, by up to ε(nβ)²/4
    times the variance of ∇L_B; and the heat of gradient noise is no longer what independent batches bring. Segments
    that begin at the same places in all chains would make their losses go together: what w has fitted lately is there.
    A segment that depends neither on the past nor on other chains has none of this (tests/test_kernel_laws.py).
    """

    def __init__(
        self, seed: int, chains: Sequence[int], *, num_examples: int, batch_size: int, device: torch.device
    ) -> None:
        self.seed, self.chains, self.num_examples, self.batch_size = seed, list(chains), num_examples, batch_size
        self.is_full = batch_size == num_examples
        self.generator = torch.Generator()
        orders = []
        for chain in chains if not self.is_full else []:
            self.generator.manual_seed(counter_seed(seed, chain, purpose="batches"))
            order = torch.randperm(num_examples, generator=self.generator)
            orders.append(torch.cat([order, order[: batch_size - 1]]))  # the circle cut open
        self.orders = torch.stack(orders).to(device) if orders else None
        self._block, self._drawn = -1, torch.empty(0)

    def indices(self, step: int) -> Tensor | None:
        """Examples of this step's batch, int64 `[chain, m]`, a view; None means all of them, in order."""
        found = self.block(step)
        return None if found is None else found[0][found[1]]

    def block(self, step: int) -> tuple[Tensor, int] | None:
        """The batches that are drawn together with this step's, int64 `[step, chain, m]`, and which of them is its."""
        if self.orders is None:
            return None
        block, at = divmod(step, _BLOCK)
        if block != self._block:
            self._block, self._drawn = block, self._draw(block, self.orders)
        return self._drawn, at

    def _draw(self, block: int, orders: Tensor) -> Tensor:
        """Batches of the steps of a block, `[step, chain, m]`."""
        begins = []
        for chain in self.chains:
            self.generator.manual_seed(counter_seed(self.seed, chain, block, purpose="batch"))
            begins.append(torch.randint(self.num_examples, (_BLOCK, 1), generator=self.generator))
        places = torch.stack(begins).to(orders.device) + torch.arange(self.batch_size, device=orders.device)
        drawn = orders.gather(1, places.flatten(1)).view_as(places)
        return drawn.transpose(0, 1).contiguous()

    def in_turn(self, step: int) -> Tensor | None:
        """The same for training, which wants every example equally often: segment after segment."""
        if self.orders is None:
            return None
        start = step * self.batch_size % self.num_examples
        return self.orders[:, start : start + self.batch_size]
