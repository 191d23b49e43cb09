"""Runs chains up to a step, keeps what each step left behind, and saves and restores their state."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from hf_llc.distributed import Group, Spans
from hf_llc.files import write_atomically
from hf_llc.kernels import Kernel
from hf_llc.result import Trace
from hf_llc.walk import Walk

MEASURE_EVERY = 20
"""Acceptance and distances are measured on every 20th step ([L], appendix H.1, at a tenth of the cost)."""

_FLUSH_STEPS, _FLUSH_SECONDS = 50, 0.5


@dataclass
class Progress:
    """What a batch of chains has done: reported while it runs."""

    chains: list[int]
    step: int
    new_steps: int
    trace: Trace


class Recorder:
    """The trace of some chains, grown in blocks; only a block's end waits for the device."""

    def __init__(self, trace: Trace) -> None:
        self.blocks = [trace]
        self.pending: dict[str, list[torch.Tensor | None]] = {item.name: [] for item in fields(Trace)}

    def add(self, **values: torch.Tensor | None) -> None:
        for name, value in values.items():
            self.pending[name].append(value)

    @property
    def num_pending(self) -> int:
        return len(self.pending["loss"])

    def flush(self) -> None:
        """Move the pending steps to the host."""
        if not self.num_pending:
            return
        empty = torch.full_like(next(x for x in self.pending["loss"] if x is not None), torch.nan)
        columns = {
            name: torch.stack([empty if x is None else x for x in values], dim=1).cpu().numpy()
            for name, values in self.pending.items()
        }
        self.blocks.append(Trace(**columns))
        for values in self.pending.values():
            values.clear()

    def trace(self) -> Trace:
        """Everything flushed so far."""
        if len(self.blocks) > 1:
            self.blocks = [join_steps(self.blocks)]
        return self.blocks[0]


def join_steps(traces: Sequence[Trace]) -> Trace:
    """One trace after the other, same chains."""
    return Trace(**{f.name: np.concatenate([getattr(t, f.name) for t in traces], axis=1) for f in fields(Trace)})


def join_chains(traces: Sequence[Trace]) -> Trace:
    """One trace below the other, all of the same number of steps."""
    return Trace(**{f.name: np.concatenate([getattr(t, f.name) for t in traces]) for f in fields(Trace)})


def first_steps(trace: Trace, steps: int) -> Trace:
    """The trace up to a step."""
    return Trace(**{f.name: getattr(trace, f.name)[:, :steps] for f in fields(Trace)})


def padded(trace: Trace, steps: int) -> Trace:
    """The trace of chains that stopped early, with NaN up to `steps`."""
    missing = ((0, 0), (0, steps - trace.shape[1]))
    return Trace(**{f.name: np.pad(getattr(trace, f.name), missing, constant_values=np.nan) for f in fields(Trace)})


def empty_trace(num_chains: int) -> Trace:
    """No steps yet."""
    return Trace(**{f.name: np.empty((num_chains, 0)) for f in fields(Trace)})


class ChainStore:
    """The states of chains in a folder, one file a batch of chains, each whole or absent."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, chains: Sequence[int]) -> Path:
        """The file of these chains."""
        return self.folder / f"chains-{chains[0]:05d}-{chains[-1]:05d}.safetensors"

    def save(self, chains: Sequence[int], w: torch.Tensor, trace: Trace, kernel: dict[str, torch.Tensor]) -> None:
        """Replace the saved state by weights `[chain, parameter]`, the trace that led there and the kernel's state."""
        tensors = {
            f"trace.{f.name}": torch.from_numpy(np.ascontiguousarray(getattr(trace, f.name))) for f in fields(Trace)
        }
        tensors |= {f"kernel.{name}": value.detach().cpu().contiguous() for name, value in kernel.items()}
        tensors["w"] = w.detach().cpu()
        write_atomically(self.path(chains), lambda temporary: save_file(tensors, temporary))

    def load(
        self,
        chains: Sequence[int],
        device: torch.device,
        group: Group | None = None,
        split: Callable[[str], Sequence[Spans] | None] = lambda name: None,
    ) -> tuple[torch.Tensor | None, Trace, dict[str, torch.Tensor]]:
        """The saved weights (on the host), trace and state of the kernel; or None, an empty trace and no state.

        In a group the leader reads for all: the others may not see its files, or see them late. `split` says which of
        the tensors are cut up, and how.
        """
        saved = (group or Group()).from_leader(lambda: self._read(chains), split)
        if not saved:
            return None, empty_trace(len(chains)), {}
        trace = Trace(**{f.name: saved[f"trace.{f.name}"].cpu().numpy() for f in fields(Trace)})
        kernel = {
            name.removeprefix("kernel."): value.to(device)
            for name, value in saved.items()
            if name.startswith("kernel.")
        }
        return saved["w"], trace, kernel

    def _read(self, chains: Sequence[int]) -> dict[str, torch.Tensor]:
        path = self.path(chains)
        return load_file(path) if path.exists() else {}


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C (or a polite kill) asks; the step under way ends first. A second one is not deferred.

    Yields a function that says whether it was asked. Outside the main thread signals are left as they are.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(signum: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    old = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Looks:
    """When a loop looks up from its steps, for the clock, for Ctrl-C, for what the device has done.

    A process by itself looks after 50 steps or half a second, or when it was asked to stop. Processes of a group cannot
    each go by their own clock: at each look they agree on the next, some half a second later.
    """

    def __init__(self, group: Group, step: int) -> None:
        self.group, self.step, self.time = group, step, time.monotonic()
        self.next = step + 1

    def is_due(self, step: int, is_asked: Callable[[], bool]) -> bool:
        """Whether to look after this step."""
        if self.group.size > 1:
            return step >= self.next
        late = time.monotonic() - self.time > _FLUSH_SECONDS
        return late or step - self.step >= _FLUSH_STEPS or is_asked()

    def agree(self, step: int, *, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether to stop and to save, as any of the group wants; and begin to wait for the next look."""
        now = time.monotonic()
        each = (now - self.time) / max(step - self.step, 1)
        ahead = min(max(int(_FLUSH_SECONDS / max(each, 1e-9)), 1), _FLUSH_STEPS)
        stops, saves, ahead = self.group.largest(stop, save, ahead)
        self.step, self.time, self.next = step, now, step + ahead
        return bool(stops), bool(saves)


def run_chains(
    make_walk: Callable[[], Walk],
    kernel: Kernel,
    chains: Sequence[int],
    *,
    until: int,
    store: ChainStore,
    origin: ChainStore | None = None,
    save_seconds: float = 20.0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Trace:
    """Take a batch of chains from where the store has them to step `until`.

    A chain whose loss is not finite moves no more (with several in the batch, it is carried along); its trace is NaN
    from there on, and `diagnostics` names chain and step. The end state is in the store, so that a longer run goes on
    from it.

    Args:
        make_walk: the walk of these chains, at w*.
        kernel: a fresh kernel.
        chains: chain numbers.
        until: steps in all.
        store: where states are kept.
        origin: where fresh chains begin: at the weights and momenta kept there; None: at w*.
        save_seconds: the state goes to disk this often; a kill costs at most that much of the work.
        report: called with the progress at least every 50 steps.

    Returns:
        The trace of all steps, `[chain, until]`.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with the state saved. In a group: at any of its processes.
    """
    walk = make_walk()
    posterior, group = walk.posterior, walk.posterior.group

    def split(name: str) -> Sequence[Spans] | None:
        is_whole = name.startswith("trace.") or name.removeprefix("kernel.") in kernel.PER_CHAIN
        return None if is_whole else posterior.split()

    w, trace, state = store.load(chains, walk.w.device, group, split)
    if w is None and origin is not None:
        w, _, state = origin.load(chains, walk.w.device, group, split)
    if trace.shape[1] >= until:
        return first_steps(trace, until)
    if w is not None:
        walk.w.copy_(w)
        kernel.load_state_dict(state)
    del w, state  # they would live as long as the chain
    recorder, step = Recorder(trace), trace.shape[1]
    alive = _is_alive(trace)
    saved, looks = time.monotonic(), Looks(group, step)

    def save() -> None:
        w, state = posterior.whole(walk.w), kernel.state_dict()
        state = {name: x if name in kernel.PER_CHAIN else posterior.whole(x) for name, x in state.items()}
        if group.leads:
            store.save(chains, w, recorder.trace(), state)

    with deferred_interrupt() as is_asked:
        while step < until and alive:
            take_step(walk, kernel, recorder, step)
            step += 1
            if step == until or looks.is_due(step, is_asked):
                new = recorder.num_pending
                recorder.flush()
                alive = _is_alive(recorder.blocks[-1])
                report(Progress(list(chains), step, new, recorder.trace()))
                late = time.monotonic() - saved > save_seconds
                stops, saves = looks.agree(step, stop=is_asked(), save=late)
                if stops or saves:
                    save()
                    saved = time.monotonic()
                if stops:
                    raise KeyboardInterrupt
    save()
    return padded(recorder.trace(), until)


def _is_alive(trace: Trace) -> bool:
    return trace.shape[1] == 0 or bool(np.isfinite(trace.loss[:, -1]).any())


def take_step(walk: Walk, kernel: Kernel, recorder: Recorder, step: int) -> None:
    """One step, and what it left behind."""
    measure = step % MEASURE_EVERY == 0
    indices = walk.batches.indices(step)
    distance = walk.sq_distance() if measure else None
    info = kernel.step(walk, indices, step=step, measure=measure)
    recorder.add(
        loss=info.loss,
        init_loss=walk.init_loss(step),
        accept_prob=info.accept_prob,
        sq_distance=distance,
        grad_dot=info.grad_dot,
        kinetic_temperature=info.kinetic_temperature,
        heat=info.heat,
        step_size=info.step_size,
    )
