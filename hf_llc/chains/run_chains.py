"""Take a batch of chains to a step, record every step, and save and restore their state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from hf_llc.chains.chain_store import ChainStore
from hf_llc.errors import OutOfTime
from hf_llc.observables.observable import Observer
from hf_llc.parallel.pacing import Pacer, deferred_interrupt
from hf_llc.parallel.shard_spans import Spans
from hf_llc.progress import watch
from hf_llc.records.trace import Trace, first_steps, join_steps, padded
from hf_llc.samplers import Kernel
from hf_llc.samplers.walk import Walk

MEASURE_EVERY = 20
"""Acceptance, distances and the like are measured on every 20th step ([L], appendix H.1): a tenth of the cost."""


@dataclass
class Progress:
    """What a batch of chains has done so far; `new_steps` of it since the last report."""

    chains: list[int]
    new_steps: int
    trace: Trace


class Recorder:
    """The trace of a batch of chains, which grows in blocks: only `flush` waits for the device."""

    def __init__(self, trace: Trace) -> None:
        self.blocks = [trace]
        self.pending: dict[str, list[torch.Tensor | None]] = {item.name: [] for item in fields(Trace)}

    def add(self, **values: torch.Tensor | None) -> None:
        """Take the values of one step, `[chain]` each; None if they were not measured."""
        for name, value in values.items():
            self.pending[name].append(value)

    @property
    def num_pending(self) -> int:
        """Steps since the last `flush`."""
        return len(self.pending["loss"])

    def last_loss(self, device: torch.device) -> torch.Tensor:
        """The loss of the step before, `[chain]`."""
        pending = self.pending["loss"]
        if pending and pending[-1] is not None:
            return pending[-1]
        return torch.from_numpy(self.blocks[-1].loss[:, -1].copy()).to(device)

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


def run_chains(
    make_walk: Callable[[], Walk],
    kernel: Kernel,
    chains: Sequence[int],
    *,
    until: int,
    store: ChainStore,
    origin: ChainStore | None = None,
    observer: Observer | None = None,
    save_seconds: float = 20.0,
    ends_at: float = math.inf,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Trace:
    """Take a batch of chains from the state in the store to step `until`, and leave the end state there.

    A chain whose loss is not finite stops; others of the batch go on. Its trace is NaN from there on, and the verdict
    names chain and step.

    Args:
        make_walk: makes the walk of these chains, at w*.
        kernel: a fresh kernel.
        chains: chain numbers.
        until: steps in all, those in the store included.
        store: holds the states of chains.
        origin: holds the weights and kernel states at which chains that are not in `store` begin; None: at w*.
        observer: records observables of these chains; None: nothing is recorded.
        save_seconds: seconds between two saves; a kill costs at most that much work.
        ends_at: `time.monotonic()` at which the chains stop where they are, once they have a step.
        report: called with the progress at least every 50 steps.

    Returns:
        The trace of all steps, `[chain, until]`; of fewer if the time was up.

    Raises:
        KeyboardInterrupt: after Ctrl-C (at any process of a group), with the state saved.
    """
    walk = make_walk()
    trace = _restore(walk, kernel, chains, store, origin)
    if observer is not None:
        observer.check(trace.shape[1])
    if trace.shape[1] >= until:
        return first_steps(trace, until)
    recorder = Recorder(trace)

    def save() -> None:
        gather, state = walk.posterior.buffer.gather_shards, kernel.state_dict()
        w, state = gather(walk.w), {name: x if name in kernel.per_chain else gather(x) for name, x in state.items()}
        if walk.posterior.group.leads:
            if observer is not None:
                observer.save()
            store.save(chains, w, recorder.trace(), state)

    _advance(
        walk,
        kernel,
        recorder,
        until=until,
        observer=observer,
        save=save,
        save_seconds=save_seconds,
        ends_at=ends_at,
        report=lambda new_steps: report(Progress(list(chains), new_steps, recorder.trace())),
    )
    save()
    trace = recorder.trace()
    return trace if _is_alive(trace) else padded(trace, until)


def _restore(walk: Walk, kernel: Kernel, chains: Sequence[int], store: ChainStore, origin: ChainStore | None) -> Trace:
    """Bring walk and kernel to the state in `store`, or else to that in `origin`; the trace in `store`."""
    posterior = walk.posterior

    def spans_of(name: str) -> Sequence[Spans] | None:
        is_on_every_process = name.startswith("trace.") or name.removeprefix("kernel.") in kernel.per_chain
        return None if is_on_every_process else posterior.buffer.shard_spans()

    w, trace, state = store.load(chains, walk.w.device, posterior.group, spans_of)
    if w is None and origin is not None:
        w, _, state = origin.load(chains, walk.w.device, posterior.group, spans_of, is_needed=True)
    if w is not None:
        walk.w.copy_(w)
        kernel.load_state_dict(state)
    return trace


def _advance(
    walk: Walk,
    kernel: Kernel,
    recorder: Recorder,
    *,
    until: int,
    observer: Observer | None,
    save: Callable[[], None],
    save_seconds: float,
    ends_at: float,
    report: Callable[[int], None],
) -> None:
    """Take steps until there are `until`, no chain has a finite loss, or the time is up; save on the way."""
    step = recorder.trace().shape[1]
    is_alive = _is_alive(recorder.trace())
    last_save, pacer = time.monotonic(), Pacer(walk.posterior.group, step)
    with deferred_interrupt() as is_interrupted:
        while step < until and is_alive:
            if observer is not None:
                observer.look(walk.posterior.buffer, walk.w, step)
            try:
                with watch().until("sample"):
                    full_loss = _full_loss(walk, recorder, step)  # before the step, as L_B is
            except OutOfTime:
                recorder.flush()
                return
            take_step(walk, kernel, recorder, step, full_loss)
            step += 1
            if step == until or pacer.is_due(step, is_interrupted):
                new_steps = recorder.num_pending
                recorder.flush()
                is_alive = _is_alive(recorder.blocks[-1])
                report(new_steps)
                is_save_due = time.monotonic() - last_save > save_seconds
                stops, saves, is_late = pacer.agree(
                    step, stop=is_interrupted(), save=is_save_due, end=time.monotonic() > ends_at
                )
                if stops or saves:
                    save()
                    last_save = time.monotonic()
                if stops:
                    raise KeyboardInterrupt
                if is_late:
                    return


def _is_alive(trace: Trace) -> bool:
    """At least one chain had a finite loss at the last step."""
    return trace.shape[1] == 0 or bool(np.isfinite(trace.loss[:, -1]).any())


def _full_loss(walk: Walk, recorder: Recorder, step: int) -> torch.Tensor | None:
    """L_n(w) of this step, or the last one if it is not due; None where minibatch losses are recorded."""
    if not walk.full_loss_every:
        return None
    return recorder.last_loss(walk.w.device) if step % walk.full_loss_every else walk.full_loss()


def take_step(walk: Walk, kernel: Kernel, recorder: Recorder, step: int, full_loss: torch.Tensor | None = None) -> None:
    """Take one step and record it, with L_n(w) before it if that is what the draws are of."""
    measure = step % MEASURE_EVERY == 0
    indices = walk.batches.indices(step)
    distance = walk.sq_distance() if measure else None
    info = kernel.step(walk, indices, step=step, measure=measure)
    recorder.add(
        loss=info.loss if full_loss is None else full_loss,
        init_loss=walk.init_loss(step),
        accept_prob=info.accept_prob,
        sq_distance=distance,
        grad_dot=info.grad_dot,
        kinetic_temperature=info.kinetic_temperature,
        heat=info.heat,
        step_size=info.step_size,
    )
