"""Gradients at w*, which a control variate subtracts: of all examples, and of each minibatch."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from hf_llc.clock import TimeIsUp
from hf_llc.posterior.chain_buffer import ChainBuffer
from hf_llc.posterior.stage_files import KeptTensors
from hf_llc.problem import Problem
from hf_llc.progress import watch

_KEPT_BYTES = 2 * 2**30
"""Gradients of all examples up to this size are kept, by each process. The limit does not depend on what is free: the
two ways differ in rounding, and a resumed run has to take the same."""

_LONG = 16
"""Tokens of an example from which on its gradient is worth keeping. A row is 4·P bytes to read, a gradient 6·P FLOPs a
token (P parameters): for shorter examples it is as quick to compute the gradient again."""


class AnchorGradients:
    """∇L_n(w*) and ∇L_B(w*), computed when first asked for.

    If the gradients of all examples fit in memory they are kept, and that of a minibatch is the mean of its rows: a
    step with a control variate then costs one gradient, not two.

    Args:
        problem: its examples.
        buffer: its w*.
        gradient: L_B(w) and ∇L_B(w) from w and indices, as `Posterior.gradient`.

    Attributes:
        kept: where gradients at w* are kept for a resumed run; by default nowhere.
    """

    def __init__(
        self,
        problem: Problem,
        buffer: ChainBuffer,
        gradient: Callable[[Tensor, Tensor | None], tuple[Tensor, list[Tensor]]],
    ) -> None:
        self.num_examples, self.num_positions = problem.num_examples, problem.num_positions
        self.buffer, self._gradient = buffer, gradient
        self.kept = KeptTensors(buffer.group, buffer.device)

    @functools.cached_property
    def are_kept(self) -> bool:
        """Whether the gradients of all examples are in memory, or will be."""
        buffer = self.buffer
        is_one_process = buffer.group.size == 1 and buffer.shard_spans() is None
        return is_one_process and self.num_positions >= _LONG and self._size <= _KEPT_BYTES

    @property
    def _size(self) -> int:
        """Bytes of the gradients of all examples."""
        return self.num_examples * self.buffer.num_parameters * self.buffer.dtype.itemsize

    @property
    def kept_bytes(self) -> int:
        """Bytes of the gradients of all examples, if they are kept once they are needed; else 0."""
        return self._size if self.are_kept else 0

    def forget_examples(self) -> None:
        """Free the gradients of single examples. Who asks for them again pays for them again."""
        vars(self).pop("_rows", None)

    @property
    def is_mean_known(self) -> bool:
        """Whether `mean` has been computed already."""
        return "mean" in vars(self)

    def per_gradient(self, gradient: str) -> int:
        """Evaluations that one gradient of a batch takes, "plain" or "control-variate"."""
        return 2 if gradient == "control-variate" and not self.are_kept else 1

    @functools.cached_property
    def _rows(self) -> Tensor:
        """∇ℓ_i(w*), `[example, parameter]`."""
        buffer, w = self.buffer, self.buffer.start(1)
        rows = torch.empty(self.num_examples, buffer.num_parameters, dtype=buffer.dtype, device=buffer.device)
        first = self._read_rows(rows)
        done, last_save = first, time.monotonic()
        try:
            for i in range(first, self.num_examples):
                watch().check()
                pieces = self._gradient(w, torch.tensor([[i]], device=buffer.device))[1]
                torch.cat(pieces, dim=1, out=rows[i : i + 1])
                done = i + 1
                if self.kept.is_due(last_save):
                    self.kept.write(_name(first), [rows[first:done]])
                    first, last_save = done, time.monotonic()
        except TimeIsUp:
            self._write_last_rows(rows, first, done)
            raise
        self._write_last_rows(rows, first, done)
        return rows

    def _read_rows(self, rows: Tensor) -> int:
        """Take over the rows that are kept; returns how many."""
        done = 0
        while (part := self.kept.read(_name(done))) is not None:
            rows[done : done + len(part[0])] = part[0]
            done += len(part[0])
        return done

    def _write_last_rows(self, rows: Tensor, first: int, done: int) -> None:
        """Keep the rest of the rows where some are kept already."""
        if 0 < first < done:
            self.kept.write(_name(first), [rows[first:done]])

    @functools.cached_property
    def mean(self) -> list[Tensor]:
        """∇L_n(w*), in flat pieces `[1, size of the piece]`."""
        if self.are_kept:
            return list(torch.split(self._rows.mean(0, keepdim=True), self.buffer.pieces, dim=1))
        return self.kept.once("mean", lambda: self._gradient(self.buffer.start(1), None)[1])

    def of(self, indices: Tensor | None, w_star: Tensor) -> list[Tensor]:
        """∇L_B(w*) on each chain's minibatch, in flat pieces `[chain, size of the piece]`.

        Args:
            indices: int64 `[chain, m]`, or None for all examples.
            w_star: chains at w*, `[chain, parameter]`.
        """
        if indices is None or not self.are_kept:
            return self._gradient(w_star, indices)[1]
        return list(torch.split(embedding_bag(indices, self._rows, mode="mean"), self.buffer.pieces, dim=1))


def _name(first: int) -> str:
    """Of the file of rows from this one on."""
    return f"rows-{first:08d}"
