"""Noise on a GPU, drawn in the kernel that uses it: each number is a function of (seed, chain, step, element).

Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): one counter gives four uniform
numbers, and Box and Muller's transform four normal ones. Elements are counted over all parameters, so a draw does not
depend on segments or shards. A step is one launch for all chains of a segment: it reads weights, gradient and w* once
and writes the weights once.

This module needs Triton, which comes with torch for CUDA and ROCm.
"""

# pyright: reportIndexIssue=false
# (a jitted function takes its grid in brackets)

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

_QUARTER = 256
"""Counters of a block, which has four times as many elements: number i of a counter goes to the i-th quarter, so that
neighbouring lanes write side by side. Another value would give other noise."""

_VALUES = ["seed", "step", "start", "size", "w_row", "g_row", "p_row"]
"""Arguments whose values Triton must not compile in."""


@triton.jit
def _normal(seed, chain, step, block, QUARTER: tl.constexpr):
    """Four normal numbers for each lane of a block."""
    lane = tl.arange(0, QUARTER)
    counter = block.to(tl.int64) * QUARTER + lane
    same = lane * 0
    low, high = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    r0, r1, r2, r3 = tl.philox(seed, low, high, (same + chain).to(tl.uint32), (same + step).to(tl.uint32))
    n0, n1 = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(r0), tl.uint_to_uniform_float(r1))
    n2, n3 = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(r2), tl.uint_to_uniform_float(r3))
    return n0, n1, n2, n3


@triton.jit
def _block(start, QUARTER: tl.constexpr):
    """This program's block, counted over all parameters, and its lanes' elements, from the segment's start."""
    block = start // (4 * QUARTER) + tl.program_id(0)
    return block, block.to(tl.int64) * 4 * QUARTER - start + tl.arange(0, QUARTER)


@triton.jit(do_not_specialize=_VALUES)
def _fill(w, chains, w_row, seed, step, start, size, QUARTER: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    block, at = _block(start, QUARTER)
    noise = _normal(seed, tl.load(chains + row), step, block, QUARTER)
    for i in tl.static_range(4):
        lane = at + i * QUARTER
        tl.store(w + row * w_row + lane, noise[i].to(w.dtype.element_ty), mask=(lane >= 0) & (lane < size))


@triton.jit(do_not_specialize=_VALUES)
def _diffuse(
    w, g, anchor, chains, w_row, g_row, seed, step, start, size, pull, push, spread, QUARTER: tl.constexpr
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    block, at = _block(start, QUARTER)
    noise = _normal(seed, tl.load(chains + row), step, block, QUARTER)
    for i in tl.static_range(4):
        lane = at + i * QUARTER
        inside = (lane >= 0) & (lane < size)
        x = tl.load(w + row * w_row + lane, mask=inside)
        x += pull * (tl.load(anchor + lane, mask=inside).to(tl.float32) - x)
        x -= push * tl.load(g + row * g_row + lane, mask=inside)
        tl.store(w + row * w_row + lane, x + spread * noise[i], mask=inside)


@triton.jit(do_not_specialize=_VALUES)
def _baoab(
    w, p, g, anchor, chains, times, w_row, p_row, g_row, seed, step, start, size, nbeta, localization, keep, spread,
    QUARTER: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    block, at = _block(start, QUARTER)
    noise = _normal(seed, tl.load(chains + row), step, block, QUARTER)
    h = tl.load(times + row)
    for i in tl.static_range(4):
        lane = at + i * QUARTER
        inside = (lane >= 0) & (lane < size)
        x = tl.load(w + row * w_row + lane, mask=inside)
        force = nbeta * tl.load(g + row * g_row + lane, mask=inside)
        force += localization * (x - tl.load(anchor + lane, mask=inside).to(tl.float32))
        q = tl.load(p + row * p_row + lane, mask=inside) - h * force
        x += 0.5 * h * q
        q = keep * q + spread * noise[i]
        tl.store(p + row * p_row + lane, q, mask=inside)
        tl.store(w + row * w_row + lane, x + 0.5 * h * q, mask=inside)


class Philox:
    """Noise of a batch of chains, and steps that use it.

    Args:
        seed: the stream's key, below 2⁶³.
        chains: chain numbers.
        device: a GPU.
    """

    def __init__(self, seed: int, chains: Sequence[int], device: torch.device) -> None:
        self.seed, self.device = seed, device
        self.chains = torch.tensor(list(chains), dtype=torch.int64, device=device)

    def _grid(self, start: int, size: int) -> tuple[int, int]:
        return -(-(start + size) // (4 * _QUARTER)) - start // (4 * _QUARTER), len(self.chains)

    def fill(self, out: Tensor, *, step: int, start: int) -> Tensor:
        """Overwrite `out`, `[chain, size]`, with the noise of `size` elements from `start` on."""
        size = out.shape[1]
        if size:
            with torch.cuda.device(self.device):
                _fill[self._grid(start, size)](
                    out, self.chains, out.stride(0), self.seed, step, start, size, QUARTER=_QUARTER
                )
        return out

    def diffuse(
        self, w: Tensor, grad: Tensor, anchor: Tensor, *, step: int, start: int, pull: float, push: float, spread: float
    ) -> None:
        """w ← w − pull·(w − w*) − push·grad + spread·ξ, in place; w and grad float32 `[chain, k]`, w* `[k]`."""
        size = w.shape[1]
        if size:
            with torch.cuda.device(self.device):
                _diffuse[self._grid(start, size)](
                    w, grad, anchor, self.chains, w.stride(0), grad.stride(0), self.seed, step, start, size, pull, push,
                    spread, QUARTER=_QUARTER,
                )  # fmt: skip

    def baoab(
        self, w: Tensor, momentum: Tensor, grad: Tensor, anchor: Tensor, h: Tensor, *, step: int, start: int,
        nbeta: float, localization: float, keep: float, spread: float,
    ) -> None:  # fmt: skip
        """One step of `hf_llc.samplers.baoab`, in place; all float32 `[chain, k]`, w* `[k]`, h `[chain, 1]`."""
        size = w.shape[1]
        if size:
            with torch.cuda.device(self.device):
                _baoab[self._grid(start, size)](
                    w, momentum, grad, anchor, self.chains, h, w.stride(0), momentum.stride(0), grad.stride(0),
                    self.seed, step, start, size, nbeta, localization, keep, spread, QUARTER=_QUARTER,
                )  # fmt: skip
