"""Records observables of chains while they run.

An observable sees the model at the weights w_t of one chain, *before* the step t whose number the record carries, as
the loss in the trace does. Noise and minibatches come from counters and the record moves no weight: the draws are the
same with and without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from hf_llc.errors import InputError
from hf_llc.observables.draw_store import DrawStore
from hf_llc.posterior.chain_buffer import ChainBuffer
from hf_llc.records.observations import Observations

Observable = Callable[[nn.Module], Tensor]
"""The model at a chain's weights → a real tensor, of the same shape at every call."""


class Observer:
    """Looks at a batch of chains on every `every`-th step, and keeps what it saw beside their states.

    Args:
        observables: by name.
        every: steps from one record to the next; the first is at step 0.
        store: where the records are kept.
        chains: chain numbers.
    """

    def __init__(
        self, observables: Mapping[str, Observable], *, every: int, store: DrawStore, chains: Sequence[int]
    ) -> None:
        self.observables, self.every, self.store, self.chains = observables, every, store, chains
        self._steps: list[int] = []
        self._known = 0
        self._values: dict[str, list[Tensor]] = {name: [] for name in observables}

    @torch.no_grad()
    def look(self, buffer: ChainBuffer, w: Tensor, step: int) -> None:
        """Record the chains `w [chain, parameter]` if a record is due at this step.

        Raises:
            InputError: an observable returned no tensor of real numbers, or changed its shape.
        """
        if step % self.every:
            return
        seen: dict[str, list[Tensor]] = {name: [] for name in self.observables}
        for row in [w] if len(w) == 1 else w.split(1):
            buffer.attach(row)
            for name, observable in self.observables.items():
                seen[name].append(checked(name, observable(buffer.model)))
        buffer.attach(w)
        for name, values in seen.items():
            stacked = torch.stack(values)
            before = self._values[name]
            if before and before[-1].shape != stacked.shape:
                raise InputError(f"the observable {name} changed its shape", value=tuple(stacked.shape[1:]))
            before.append(stacked)
        self._steps.append(step)
        self._known += 1

    def save(self) -> None:
        """Write the records since the last save. The state of the chains is saved after this, never before."""
        if self._steps:
            values = {name: torch.stack(records, dim=1) for name, records in self._values.items()}
            self.store.append(self.chains, self._steps, values)
        self._steps = []
        for records in self._values.values():
            records.clear()

    def check(self, done: int) -> None:
        """Check that the records of the first `done` steps are on disk.

        Raises:
            InputError: some are gone.
        """
        self.store.check(self.chains, range(0, done, self.every))
        self._known = len(range(0, done, self.every))

    def observations(self, until: int) -> Observations:
        """All records of steps before `until`; NaN where a chain ended before.

        Raises:
            InputError: some that were written are gone.
        """
        return self.store.read(self.chains, list(range(0, until, self.every)), known=self._known)


def checked(name: str, value: object) -> Tensor:
    """What an observable returned, on the host in float32.

    Raises:
        InputError: it is no tensor of real numbers.
    """
    if not isinstance(value, Tensor) or value.is_complex():
        kind = "a complex tensor" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"the observable {name} does not return a tensor of real numbers", value=kind)
    return value.detach().to("cpu", torch.float32, copy=True)
