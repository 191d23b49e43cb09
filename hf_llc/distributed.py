"""Which process runs which chains, and how results come together. Only this module knows ranks."""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from torch import Tensor

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
        with contextlib.suppress(Exception):  # too late to say anything useful
            dist.destroy_process_group()


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


class Group:
    """Processes that step the same chains together, each with its share of every batch. As built: a group of one.

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

    def from_leader(self, read: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """What `read` gives the leader, on every process; only the leader need be able to read it."""
        if self.size == 1:
            return read()
        mine = read() if self.leads else {}
        names: list[Any] = [[(name, x.shape, x.dtype) for name, x in mine.items()]]
        dist.broadcast_object_list(names, src=self._leader, group=self._handle, device=self.device)
        found = {}
        for name, shape, dtype in names[0]:
            here = mine[name].to(self.device) if self.leads else torch.empty(shape, dtype=dtype, device=self.device)
            dist.broadcast(here, src=self._leader, group=self._handle)
            found[name] = here
        return found


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

    Raises:
        InputError: the processes cannot be put into groups of that size.
    """

    def __init__(self, data_parallel: int = 1) -> None:
        self.state = process_state()
        self._is_alone = _is_alone.get()
        if self.count % data_parallel:
            sizes = ", ".join(str(k) for k in range(1, self.count + 1) if self.count % k == 0)
            raise InputError(
                f"data_parallel does not divide the {self.count} processes of this run",
                value=data_parallel,
                allowed=sizes,
                remedy="launch as many processes as data_parallel, or a multiple",
            )
        first = self._index // data_parallel * data_parallel
        self.group = Group(range(first, first + data_parallel), self.device) if data_parallel > 1 else Group()

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
