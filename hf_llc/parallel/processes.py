"""Which process runs which chains, and how results come together. Only this module knows ranks."""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import functools
import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from hf_llc.errors import InputError

T = TypeVar("T")

_TIMEOUT = timedelta(days=7)
"""Processes wait for each other as long as chains take, not as long as a network message should."""


def process_state() -> PartialState:
    """The processes of this run, whoever started them (accelerate, torchrun, a notebook, Trainer).

    Without an accelerator accelerate must be told that processes on CPUs are meant: else each believes it is alone.
    A group that begins here ends with this process: left to Python's exit, gloo's threads now and then abort it.
    """
    if PartialState._shared_state:
        return PartialState()
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu, timeout=_TIMEOUT)
    if state.num_processes > 1:
        atexit.register(_leave)
    return state


def _leave() -> None:
    if dist.is_initialized():
        _handle_of.cache_clear()  # what still holds a group, as models that were split do, keeps its threads alive
        gc.collect()
        with contextlib.suppress(Exception):  # too late to say anything useful
            dist.destroy_process_group()


def launched_for_fsdp() -> bool:
    """Whether accelerate's launcher was told that models are split over the processes.

    Raises:
        InputError: by FSDP1.
    """
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise InputError(
            "fsdp_version is not 2", value=version, allowed="2", remedy="launch with scripts/accelerate/fsdp.yaml"
        )
    return True


_is_alone = contextvars.ContextVar("is_alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works by itself, whoever runs beside it: each may be at another job."""
    token = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(token)


_BUCKET = 2**20
"""Tensors of fewer elements are summed together in one message."""

_SLAB = 2**26
"""Elements of each process in one message, where a split tensor is put together or cut up."""

Spans = Sequence[tuple[int, int]]
"""Where the stretches that a process holds of a long vector begin and end, in order."""


class Group:
    """Processes that step the same chains together, each with its share of every batch, and perhaps of the weights.

    Every process of a group takes the same steps in the same order, so what depends on a clock, a signal or a file must
    be agreed: see `largest` and `from_leader`.

    Args:
        ranks: of its processes; None: this process by itself.
        device: on which messages travel.
    """

    def __init__(self, ranks: Sequence[int] | None = None, device: torch.device | None = None) -> None:
        self.size = 1 if ranks is None else len(ranks)
        self._handle = None if ranks is None else _handle_of(tuple(ranks))
        self._leader = 0 if ranks is None else ranks[0]
        self.index = 0 if ranks is None else ranks.index(dist.get_rank())
        self.device = device or torch.device("cpu")

    @property
    def leads(self) -> bool:
        """True in the one process of the group that writes files and reports."""
        return self.index == 0

    def share(self, size: int) -> tuple[int, int]:
        """Where this process's part of `size` items begins and ends: parts differ by one at most, and may be empty."""
        return self.index * size // self.size, (self.index + 1) * size // self.size

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Put into each (contiguous) tensor its sum over the group, in place, the same bits on every process."""
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

    def largest(self, *values: int) -> list[int]:
        """The largest of each value over the group."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.int64, device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self._handle)
        return found.tolist()

    def from_leader(
        self,
        read: Callable[[], Mapping[str, Tensor]],
        split: Callable[[str], Sequence[Spans] | None] = lambda name: None,
    ) -> Mapping[str, Tensor]:
        """What `read` gives the leader, on every process; only the leader need be able to read it.

        Args:
            read: tensors by name.
            split: for a name the spans of every process in the last axis, of which each gets its own; None: all of it.
        """
        if self.size == 1:
            return read()
        mine = read() if self.leads else {}
        names: list[Any] = [[(name, x.shape, x.dtype) for name, x in mine.items()]]
        dist.broadcast_object_list(names, src=self._leader, group=self._handle, device=self.device)
        found = {}
        for name, shape, dtype in names[0]:
            spans = split(name)
            if spans is not None:
                found[name] = self._scatter(mine.get(name), shape[0], dtype, spans)
                continue
            here = mine[name].to(self.device) if self.leads else torch.empty(shape, dtype=dtype, device=self.device)
            dist.broadcast(here, src=self._leader, group=self._handle)
            found[name] = here
        return found

    def _scatter(self, whole: Tensor | None, rows: int, dtype: torch.dtype, spans: Sequence[Spans]) -> Tensor:
        """The leader's `whole [row, element]` cut up: to each process its spans, one after the other."""
        sizes = [_length(each) for each in spans]
        own = torch.empty(rows, sizes[self.index], dtype=dtype, device=self.device)
        for start in range(0, max(sizes), _SLAB):
            stop = min(start + _SLAB, max(sizes))
            parts = None
            if whole is not None:
                parts = [torch.zeros(rows, stop - start, dtype=dtype) for _ in spans]
                for part, each in zip(parts, spans, strict=True):
                    for inside, outside in _overlaps(each, start, stop):
                        part[:, inside] = whole[:, outside]
                parts = [part.to(self.device) for part in parts]
            here = torch.empty(rows, stop - start, dtype=dtype, device=self.device)
            dist.scatter(here, parts, src=self._leader, group=self._handle)
            own[:, start:stop] = here[:, : max(0, sizes[self.index] - start)]
        return own

    def to_leader(self, own: Tensor, spans: Sequence[Spans]) -> Tensor:
        """The inverse: the whole `[row, element]` on the leader, on the host; nothing of use elsewhere."""
        if self.size == 1:
            return own
        sizes = [_length(each) for each in spans]
        whole = torch.empty(len(own), sum(sizes) if self.leads else 0, dtype=own.dtype)
        for start in range(0, max(sizes), _SLAB):
            stop = min(start + _SLAB, max(sizes))
            here = own.new_zeros(len(own), stop - start)
            mine = own[:, start:stop]
            here[:, : mine.shape[1]] = mine
            parts = [torch.empty_like(here) for _ in spans] if self.leads else None
            dist.gather(here, parts, dst=self._leader, group=self._handle)
            for part, each in zip(parts or [], spans, strict=self.leads):
                for inside, outside in _overlaps(each, start, stop):
                    whole[:, outside] = part[:, inside].cpu()
        return whole

    def exchange(self, value: T) -> list[T]:
        """The value of every process of the group, in order, on all of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._handle)
        return values

    def over(self, x: Tensor, *, largest: bool = False) -> Tensor:
        """The sum (or the largest) of a small tensor over the group, a new one."""
        if self.size == 1:
            return x
        found = x.clone()
        dist.all_reduce(found, op=dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group=self._handle)
        return found

    def mesh(self) -> DeviceMesh:
        """The group as torch's sharding takes it."""
        assert self._handle is not None
        return DeviceMesh.from_group(self._handle, self.device.type)

    def is_mesh(self, mesh: DeviceMesh) -> bool:
        """Whether a mesh is of these processes, in this order."""
        return mesh.mesh.flatten().tolist() == list(range(self._leader, self._leader + self.size))


def _length(spans: Spans) -> int:
    return sum(end - begin for begin, end in spans)


def _overlaps(spans: Spans, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
    """Of columns `start … stop` of the spans put one after the other: where each lies in them, and in the whole."""
    at = 0
    for begin, end in spans:
        low, high = max(at, start), min(at + end - begin, stop)
        if low < high:
            yield slice(low - start, high - start), slice(begin + low - at, begin + high - at)
        at += end - begin


@functools.cache
def _handle_of(ranks: tuple[int, ...]) -> Any:
    """torch's handle of the group with these ranks. All processes of the run ask, for the groups of all."""
    found = None
    for start in range(0, dist.get_world_size(), len(ranks)):
        theirs = list(range(start, start + len(ranks)))
        handle = dist.new_group(theirs, timeout=_TIMEOUT)
        found = handle if theirs == list(ranks) else found
    return found


class Processes:
    """The processes of this run and their shares of the work; only this one inside `alone`.

    Args:
        data_parallel: processes in a group that steps the same chains, each with its share of every batch.
        parameter_parallel: the same where each also holds only its share of the weights.

    Raises:
        InputError: the processes cannot be put into groups of that size.
    """

    def __init__(self, data_parallel: int = 1, *, parameter_parallel: int = 1) -> None:
        self.state = process_state()
        self._is_alone = _is_alone.get()
        for name, size in (("data_parallel", data_parallel), ("parameter_parallel", parameter_parallel)):
            if self.count % size:
                raise InputError(
                    f"{name} does not divide the {self.count} processes of this run",
                    value=size,
                    allowed=", ".join(str(k) for k in range(1, self.count + 1) if self.count % k == 0),
                    remedy=f"launch as many processes as {name}, or a multiple",
                )
        size = max(data_parallel, parameter_parallel)
        first = self._index // size * size
        self.group = Group(range(first, first + size), self.device) if size > 1 else Group()

    @property
    def _index(self) -> int:
        return 0 if self._is_alone else self.state.process_index

    @property
    def count(self) -> int:
        """Number of processes."""
        return 1 if self._is_alone else self.state.num_processes

    @property
    def is_main(self) -> bool:
        """True in the one process that writes and prints."""
        return self._is_alone or self.state.is_main_process

    @property
    def device(self) -> torch.device:
        """This process's own device."""
        return torch.device(self.state.device or "cpu")

    def share(self, items: Sequence[T]) -> list[T]:
        """The part of `items` of this process's group: every one of as many as there are groups."""
        return list(items[self._index // self.group.size :: self.count // self.group.size])

    def gather(self, mine: list[Any]) -> list[Any]:
        """The lists of all groups, one after the other, on every process."""
        return gather_object(mine if self.group.leads else []) if self.count > 1 else mine

    def main_does(self, work: Callable[[], T]) -> T:
        """Run `work` on the main process and hand its result (or its exception) to all."""
        return self._hand_on(work, self.is_main, Exception)

    def main_group_does(self, work: Callable[[], T]) -> T:
        """Run `work` on the processes of the main one's group, together, and hand the main one's result to all.

        A refusal, which all of them meet, is handed on. Any other exception ends the process that meets it, and the
        launcher then ends the rest: the others of the group may be waiting for it in the middle of the work.
        """
        caught = Exception if self.group.size == 1 else InputError
        return self._hand_on(work, self._index < self.group.size, caught)

    def _hand_on(self, work: Callable[[], T], works: bool, caught: type[Exception]) -> T:
        if self.count == 1:
            return work()
        outcome: list[Any] = [None, None]
        if works:
            try:
                outcome[0] = work()
            except caught as error:  # handed on: the others would wait for ever
                outcome[1] = error
        outcome = broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


def chain_batches(num_chains: int, size: int) -> list[list[int]]:
    """Chain numbers in batches; the same batches whatever the number of processes."""
    return [list(range(start, min(start + size, num_chains))) for start in range(0, num_chains, size)]
