"""The processes of a run: which chains each runs, and how results come together. Ranks: only here and in `group`."""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import gc
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

from hf_llc.errors import InputError
from hf_llc.parallel.group import TIMEOUT, Group, handle_of
from hf_llc.parallel.group_size import check_group

T = TypeVar("T")

_UNHEEDED: dict[str, tuple[str, tuple[str, ...]]] = {
    "ACCELERATE_DYNAMO_BACKEND": ("a dynamo backend (give compile)", ("no",)),
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed (give parameter_parallel)", ("false", "0")),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM (give parameter_parallel)", ("false", "0")),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("gradient accumulation (give micro_batch_size)", ("1",)),
}
"""By environment variable of the launcher: what it asks for, and the values that ask for nothing."""


def process_state() -> PartialState:
    """accelerate's state of this run's processes, whoever started them (accelerate, torchrun, a notebook, Trainer)."""
    if PartialState._shared_state:
        return PartialState()
    # on a machine without accelerator each process believes it is alone, unless it is told that CPUs are meant
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu, timeout=TIMEOUT)
    if state.num_processes > 1:
        atexit.register(_leave)
    return state


def _leave() -> None:
    """End torch's process group before Python exits: otherwise gloo's threads abort the process now and then."""
    if dist.is_initialized():
        handle_of.cache_clear()  # a reference to a group, as in a sharded model, keeps its threads alive
        gc.collect()
        with contextlib.suppress(Exception):  # too late to say anything useful
            dist.destroy_process_group()


def launched_for_fsdp() -> bool:
    """Whether accelerate's launcher was told to shard models over the processes (FSDP2).

    Raises:
        InputError: it was told to use FSDP1.
    """
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise InputError(
            "fsdp_version is not 2", value=version, allowed="2", remedy="launch with scripts/accelerate/fsdp.yaml"
        )
    return True


def unheeded(mixed_precision: str) -> list[str]:
    """What accelerate's launcher was asked for, by flag or file, and hf_llc does not take from it."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    found = [] if precision in ("no", mixed_precision) else [f"mixed precision {precision} (give mixed_precision)"]
    for name, (what, neutral) in _UNHEEDED.items():
        if os.environ.get(name, "").lower() not in ("", *neutral):
            found.append(what)
    return found


_is_alone = contextvars.ContextVar("is_alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within, `Processes` is this process alone: each process of a run may work on a job of its own."""
    token = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(token)


_outlives_faults = contextvars.ContextVar("outlives_faults", default=False)


@contextlib.contextmanager
def outliving_faults() -> Iterator[None]:
    """Within, a fault in one process's chains is raised by all, once theirs have ended, for a host that goes on.

    Elsewhere such a fault ends the process at once, and the launcher ends the rest: none runs on for hours in vain.
    """
    token = _outlives_faults.set(True)
    try:
        yield
    finally:
        _outlives_faults.reset(token)


class Processes:
    """The processes of this run in groups, and their shares of the work; only this process within `alone`.

    Args:
        data_parallel: processes of a group. All step the same chains, each with its share of every batch.
        parameter_parallel: the same, if each also holds only a shard of the weights.

    Raises:
        InputError: the number of processes is not a multiple of a group's.
    """

    def __init__(self, data_parallel: int = 1, *, parameter_parallel: int = 1) -> None:
        self.state = process_state()
        self._is_alone = _is_alone.get()
        for name, size in (("data_parallel", data_parallel), ("parameter_parallel", parameter_parallel)):
            check_group(name, size, self.count)
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
        """The `items` of this process's group: with k groups, every k-th."""
        return list(items[self._index // self.group.size :: self.count // self.group.size])

    def gather(self, mine: list[Any]) -> list[Any]:
        """The lists of all groups joined, on every process."""
        return gather_object(mine if self.group.leads else []) if self.count > 1 else mine

    def main_does(self, work: Callable[[], T]) -> T:
        """Run `work` on the main process; its result (or its exception) goes to all."""
        return self._broadcast(work, self.is_main, Exception)

    def main_group_does(self, work: Callable[[], T]) -> T:
        """Run `work` on the processes of the main group together; the main process's result goes to all.

        An InputError, which all of them meet, also goes to all. Any other exception ends the process that meets it, and
        the launcher then ends the rest: the others of the group may be waiting for it in the middle of the work.
        """
        caught = Exception if self.group.size == 1 else InputError
        return self._broadcast(work, self._index < self.group.size, caught)

    def all_do(self, work: Callable[[], T], *, is_long: bool = False) -> T:
        """Run `work` on every process; if it fails on one, all raise. None waits for another that has given up.

        Args:
            work: may not wait for other processes. So where groups work together, nothing is agreed.
            is_long: agree within `outliving_faults` only.
        """
        if self.count == 1 or self.group.size > 1 or (is_long and not _outlives_faults.get()):
            return work()
        result, fault = None, None
        try:
            result = work()
        except Exception as error:
            fault = error
        found = gather_object([None if fault is None else _sendable(fault)])
        if fault is not None:
            raise fault
        for error in found:
            if error is not None:
                raise error
        return cast(T, result)

    def _broadcast(self, work: Callable[[], T], works: bool, caught: type[Exception]) -> T:
        if self.count == 1:
            return work()
        outcome: list[Any] = [None, None]
        fault = None
        if works:
            try:
                outcome[0] = work()
            except caught as error:  # raised by all below: they would otherwise wait for ever
                fault = error
                outcome[1] = _sendable(error)
        outcome = broadcast_object_list(outcome)
        if fault is not None:
            raise fault
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


def _sendable(error: Exception) -> Exception:
    """The error, or one that says the same, as another process can read it."""
    try:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except Exception:  # an exception with arguments of its own, such as those of HTTP
        copy = None
    return error if type(copy) is type(error) else RuntimeError(f"{type(error).__name__}: {error}")


def chain_batches(num_chains: int, size: int) -> list[list[int]]:
    """Chain numbers in batches of `size`; the same whatever the number of processes."""
    return [list(range(start, min(start + size, num_chains))) for start in range(0, num_chains, size)]
