"""Which process runs which chains, and how results come together. Only this module knows ranks."""

from __future__ import annotations

import atexit
import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

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
    if torch.distributed.is_initialized():
        with contextlib.suppress(Exception):  # too late to say anything useful
            torch.distributed.destroy_process_group()


_is_alone = contextvars.ContextVar("is_alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works by itself, whoever runs beside it: each may be at another job."""
    token = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(token)


class Processes:
    """The processes of this run and their shares of the work; only this one inside `alone`."""

    def __init__(self) -> None:
        self.state = process_state()
        self._is_alone = _is_alone.get()

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
        """This process's part of `items`: every count-th one."""
        return list(items[0 if self._is_alone else self.state.process_index :: self.count])

    def gather(self, mine: list[Any]) -> list[Any]:
        """All processes' lists, one after the other, on every process."""
        return gather_object(mine) if self.count > 1 else mine

    def main_does(self, work: Callable[[], T]) -> T:
        """Run `work` on the main process and hand its result (or its exception) to all."""
        if self.count == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except Exception as error:  # handed on: the others would wait for ever
                outcome[1] = error
        outcome = broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


def chain_batches(num_chains: int, size: int) -> list[list[int]]:
    """Chain numbers in batches; the same batches whatever the number of processes."""
    return [list(range(start, min(start + size, num_chains))) for start in range(0, num_chains, size)]
