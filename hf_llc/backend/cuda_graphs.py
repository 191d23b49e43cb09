"""CUDA graphs: the hundreds of small GPU kernels of a gradient, recorded once and started by one launch.

A GPU runs the kernels of a small model faster than Python can launch them. A recording works on buffers of its own:
weights and indices are copied in, loss and gradient are copied out, so it serves any chain.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_MOST = 2**26
"""Elements of w, all chains together, up to which gradients are recorded: buffers take memory, and launches of larger
models weigh less."""

_LOG = logging.getLogger(__name__)

Gradient = Callable[[Tensor, Tensor | None], tuple[Tensor, list[Tensor]]]
"""(weights `[chain, parameter]`, indices of the batch `[chain, m]` or None) → losses and gradient in pieces."""


@dataclass
class _Recording:
    graph: torch.cuda.CUDAGraph
    w: Tensor
    indices: Tensor | None
    losses: Tensor
    pieces: list[Tensor]

    def replay(self, w: Tensor, indices: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        self.w.copy_(w)
        if self.indices is not None and indices is not None:
            self.indices.copy_(indices)
        self.graph.replay()
        return self.losses.clone(), [piece.clone() for piece in self.pieces]


class GradientGraphs:
    """Recordings of a gradient, one for each shape of its arguments, made when that shape first comes.

    A model that cannot be recorded (its code waits for the device) runs without.
    """

    def __init__(self) -> None:
        self._recordings: dict[Hashable, _Recording] = {}
        self._pool: Any = None
        self._is_possible = True

    def gradient(self, work: Gradient, w: Tensor, indices: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """`work(w, indices)`, which must depend on nothing else that changes between calls."""
        if not self._is_possible or w.numel() > _MOST:
            return work(w, indices)
        key = (w.shape, None if indices is None else indices.shape)
        if key not in self._recordings:
            recording = self._record(work, w, indices)
            if recording is None:
                self._is_possible = False
                self._recordings.clear()
                return work(w, indices)
            self._recordings[key] = recording
        return self._recordings[key].replay(w, indices)

    def _record(self, work: Gradient, w: Tensor, indices: Tensor | None) -> _Recording | None:
        """A recording, or None if the model cannot be recorded. Errors of `work` itself are raised as they are."""
        w, indices = w.clone(), None if indices is None else indices.clone()
        current, side = torch.cuda.current_stream(w.device), torch.cuda.Stream(w.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):  # warm-up: libraries initialize, which cannot be recorded
            for _ in range(2):
                work(w, indices)
        current.wait_stream(side)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                losses, pieces = work(w, indices)
        except RuntimeError as error:
            _LOG.info("no CUDA graph of this model: %s", str(error).splitlines()[0] if str(error) else error)
            torch.cuda.synchronize(w.device)
            return None
        return _Recording(graph, w, indices, losses, pieces)
