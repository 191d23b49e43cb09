"""Processes that step the same chains together, and the messages between them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from hf_llc.parallel.shard_spans import Spans, length, overlaps

T = TypeVar("T")

TIMEOUT = timedelta(days=7)
"""Processes wait for each other as long as chains take, not as long as a network message should."""

_BUCKET = 2**20
"""Tensors of fewer elements are summed together in one message."""

_SLAB = 2**26
"""Elements of each process in one message, where a tensor is gathered from shards or cut into them."""


class Group:
    """Processes that step the same chains together, each with its share of every batch, and perhaps of the weights.

    Every process of a group takes the same steps in the same order. So what depends on a clock, a signal or a file must
    be agreed: see `max_of` and `from_leader`.

    Args:
        ranks: of its processes; None: this process alone.
        device: on which messages travel.
    """

    def __init__(self, ranks: Sequence[int] | None = None, device: torch.device | None = None) -> None:
        self.size = 1 if ranks is None else len(ranks)
        self._handle = None if ranks is None else handle_of(tuple(ranks))
        self._leader = 0 if ranks is None else ranks[0]
        self.index = 0 if ranks is None else ranks.index(dist.get_rank())
        self.device = device or torch.device("cpu")

    @property
    def leads(self) -> bool:
        """True in the one process of the group that writes files and reports."""
        return self.index == 0

    def share(self, size: int) -> tuple[int, int]:
        """Where this process's share of `size` items begins and ends. Shares differ by one item at most."""
        return self.index * size // self.size, (self.index + 1) * size // self.size

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each (contiguous) tensor by its sum over the group, the same bits on every process."""
        if self.size == 1:
            return
        large, buckets = [x for x in tensors if x.numel() >= _BUCKET], dict[torch.dtype, list[Tensor]]()
        for x in tensors:
            if x.numel() < _BUCKET:
                buckets.setdefault(x.dtype, []).append(x)
        joined = {dtype: torch.cat([x.reshape(-1) for x in small]) for dtype, small in buckets.items()}
        messages = [dist.all_reduce(x, group=self._handle, async_op=True) for x in [*large, *joined.values()]]
        for message in messages:
            if message is not None:
                message.wait()
        for dtype, small in buckets.items():
            parts = joined[dtype].split([x.numel() for x in small])
            for x, part in zip(small, parts, strict=True):
                x.copy_(part.view_as(x))

    def all_reduce(self, x: Tensor, *, largest: bool = False) -> Tensor:
        """The sum (or the maximum) of a small tensor over the group, as a new tensor."""
        if self.size == 1:
            return x
        result = x.clone()
        dist.all_reduce(result, op=dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group=self._handle)
        return result

    def max_of(self, *values: int) -> list[int]:
        """The maximum of each value over the group."""
        if self.size == 1:
            return list(values)
        result = torch.tensor(values, dtype=torch.int64, device=self.device)
        dist.all_reduce(result, op=dist.ReduceOp.MAX, group=self._handle)
        return result.tolist()

    def all_gather(self, value: T) -> list[T]:
        """The value of every process of the group, in order, on all of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._handle)
        return values

    def from_leader(
        self,
        read: Callable[[], Mapping[str, Tensor]],
        spans_of: Callable[[str], Sequence[Spans] | None] = lambda name: None,
    ) -> Mapping[str, Tensor]:
        """What `read` gives the leader, on every process. Only the leader need be able to read it.

        Args:
            read: tensors by name.
            spans_of: for a name the spans of every process in the last axis; each process gets the tensor's shard at
                its spans. None: each gets the full tensor.
        """
        if self.size == 1:
            return read()
        mine = read() if self.leads else {}
        names: list[Any] = [[(name, x.shape, x.dtype) for name, x in mine.items()]]
        dist.broadcast_object_list(names, src=self._leader, group=self._handle, device=self.device)
        received = {}
        for name, shape, dtype in names[0]:
            spans = spans_of(name)
            if spans is not None:
                received[name] = self._scatter(mine.get(name), shape[0], dtype, spans)
                continue
            x = mine[name].to(self.device) if self.leads else torch.empty(shape, dtype=dtype, device=self.device)
            dist.broadcast(x, src=self._leader, group=self._handle)
            received[name] = x
        return received

    def _scatter(self, full: Tensor | None, rows: int, dtype: torch.dtype, spans: Sequence[Spans]) -> Tensor:
        """The leader's `full [row, element]` cut into shards: each process gets that at its spans."""
        sizes = [length(each) for each in spans]
        shard = torch.empty(rows, sizes[self.index], dtype=dtype, device=self.device)
        for start in range(0, max(sizes), _SLAB):
            stop = min(start + _SLAB, max(sizes))
            parts = None
            if full is not None:
                parts = [torch.zeros(rows, stop - start, dtype=dtype) for _ in spans]
                for part, each in zip(parts, spans, strict=True):
                    for inside, outside in overlaps(each, start, stop):
                        part[:, inside] = full[:, outside]
                parts = [part.to(self.device) for part in parts]
            slab = torch.empty(rows, stop - start, dtype=dtype, device=self.device)
            dist.scatter(slab, parts, src=self._leader, group=self._handle)
            shard[:, start:stop] = slab[:, : max(0, sizes[self.index] - start)]
        return shard

    def to_leader(self, shard: Tensor, spans: Sequence[Spans]) -> Tensor:
        """The inverse: the full `[row, element]` on the leader, on the host; nothing of use on the other processes."""
        if self.size == 1:
            return shard
        sizes = [length(each) for each in spans]
        full = torch.empty(len(shard), sum(sizes) if self.leads else 0, dtype=shard.dtype)
        for start in range(0, max(sizes), _SLAB):
            stop = min(start + _SLAB, max(sizes))
            slab = shard.new_zeros(len(shard), stop - start)
            mine = shard[:, start:stop]
            slab[:, : mine.shape[1]] = mine
            parts = [torch.empty_like(slab) for _ in spans] if self.leads else None
            dist.gather(slab, parts, dst=self._leader, group=self._handle)
            for part, each in zip(parts or [], spans, strict=self.leads):
                for inside, outside in overlaps(each, start, stop):
                    full[:, outside] = part[:, inside].cpu()
        return full

    def mesh(self) -> DeviceMesh:
        """The group as torch's sharding takes it."""
        assert self._handle is not None
        return DeviceMesh.from_group(self._handle, self.device.type)

    def is_mesh(self, mesh: DeviceMesh) -> bool:
        """Whether a mesh has these processes, in this order."""
        return mesh.mesh.flatten().tolist() == list(range(self._leader, self._leader + self.size))


@functools.cache
def handle_of(ranks: tuple[int, ...]) -> Any:
    """torch's handle of the group with these ranks. All processes of the run must ask: each makes all the groups."""
    mine = None
    for start in range(0, dist.get_world_size(), len(ranks)):
        theirs = list(range(start, start + len(ranks)))
        handle = dist.new_group(theirs, timeout=TIMEOUT)
        mine = handle if theirs == list(ranks) else mine
    return mine
