"""The moving weights of a batch of chains, cut so that a kernel can update them while they are in cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hf_llc.backend.random_streams import BatchStream, NoiseStream
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior


@dataclass(frozen=True)
class Segment:
    """A stretch of parameters that lies in one noise chunk and one gradient piece. All tensors are views.

    Attributes:
        w: current weights, `[chain, k]`.
        anchor: w* in the model's own type, `[k]`.
        noise: where this chunk's noise is put, `[chain, k]`.
        piece: which gradient piece, and `inner`: where in it.
        chunk: which noise chunk, and `outer`: where in it.
        start: where it begins among all parameters, those of other processes included.
    """

    w: Tensor
    anchor: Tensor
    noise: Tensor
    piece: int
    inner: slice
    chunk: int
    outer: slice
    start: int

    @property
    def w_star(self) -> Tensor:
        """w* in the type of w: exact, and gone after use where the model keeps it in fewer bytes."""
        return self.anchor if self.anchor.dtype == self.w.dtype else self.anchor.to(self.w.dtype)

    def of(self, pieces: Sequence[Tensor]) -> Tensor:
        """This stretch of a list of pieces (a gradient), `[chain, k]`."""
        return self.of_piece(pieces[self.piece])

    def of_piece(self, piece: Tensor) -> Tensor:
        """This stretch of its own piece, `[chain, k]`."""
        return piece if piece.shape == self.w.shape else piece[:, self.inner]


Update = Callable[[Segment, Tensor], Tensor | None]
"""Moves the weights of a segment by the gradient `[chain, k]` there; may return a float64 `[chain]` to be added up."""


@dataclass
class Step:
    """What a kernel reports of one step, each `[chain]`: L_B(w_t) before the move, and diagnostics where measured."""

    loss: Tensor
    accept_prob: Tensor | None = None
    grad_dot: Tensor | None = None
    kinetic_temperature: Tensor | None = None
    heat: Tensor | None = None
    step_size: Tensor | None = None


class Walk:
    """Weights `w [chain, parameter]` of some chains with their noise and their minibatches.

    Args:
        posterior: losses and gradients.
        law: nβ and γ of what is sampled.
        chains: chain numbers.
        seed: of noise and batch order.
        batch_size: examples a step.
        w: where the chains are; None: at w*.
        gradient: "plain" or "control-variate"; see `gradient`.
    """

    def __init__(
        self,
        posterior: Posterior,
        law: Law,
        chains: Sequence[int],
        *,
        seed: int,
        batch_size: int,
        w: Tensor | None = None,
        gradient: str = "plain",
    ) -> None:
        self.posterior, self.law, self.chains, self.seed = posterior, law, list(chains), seed
        self.buffer = posterior.buffer
        self.w = posterior.start(len(self.chains)) if w is None else w
        self.noise = NoiseStream(seed, chains, posterior.device)
        self.batches = BatchStream(
            seed, chains, num_examples=posterior.num_examples, batch_size=batch_size, device=posterior.device
        )
        self.chunks = self._cut()
        self._of_piece: list[list[int]] = [[] for _ in self.buffer.anchor]
        for i, s in enumerate(self.segments()):
            self._of_piece[s.piece].append(i)
        is_controlled = gradient == "control-variate" and not self.batches.is_full
        self._w_star = posterior.start(len(self.chains)) if is_controlled else None
        can_stream = posterior.steps_in_backward(num_chains=len(self.chains), batch_size=batch_size)
        self.steps_in_backward = can_stream and not is_controlled
        self._block, self._init_losses = torch.empty(0), torch.empty(0)
        self.philox: Any = self.noise.philox if posterior.dtype == torch.float32 else None

    def _cut(self) -> list[tuple[int, Tensor, list[Segment]]]:
        """Number, noise buffer and segments of each chunk that meets the parameters here."""
        total, size = self.posterior.num_parameters, self.noise.chunk_size
        buffer = torch.empty(len(self.chains), min(size, total), dtype=self.w.dtype, device=self.w.device)
        chunks: dict[int, list[Segment]] = {}
        columns = torch.split(self.w, self.buffer.pieces, dim=1)
        for piece, (anchor, start) in enumerate(zip(self.buffer.anchor, self.buffer.starts, strict=True)):
            at, stop = start, start + len(anchor)
            while at < stop:
                chunk = at // size
                end = min(stop, (chunk + 1) * size)
                inner, outer = slice(at - start, end - start), slice(at - chunk * size, end - chunk * size)
                where = (columns[piece][:, inner], anchor[inner], buffer[:, outer], piece, inner, chunk, outer, at)
                chunks.setdefault(chunk, []).append(Segment(*where))
                at = end
        return [(chunk, buffer[:, : total - chunk * size], segments) for chunk, segments in chunks.items()]

    def segments(self) -> Iterator[Segment]:
        """Every segment; the noise in them is whatever was drawn last."""
        for _, _, segments in self.chunks:
            yield from segments

    def noisy_segments(self, step: int | None) -> Iterator[Segment]:
        """Every segment with this step's noise in it (None: with none). Use each before asking for the next."""
        for chunk, buffer, segments in self.chunks:
            if step is not None:
                self.noise.fill(buffer, step=step, chunk=chunk)
            yield from segments

    @torch.no_grad()
    def sweep(
        self,
        indices: Tensor | None,
        update: Update,
        *,
        noise: int | None,
        known: tuple[Tensor, list[Tensor]] | None = None,
        sums: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Call `update(segment, ∇L_B there)` once for every segment, the gradient taken before any of them moved.

        Either the gradient is finished first and the segments come in order, or, with `steps_in_backward`, they come
        inside the backward pass as it makes their gradients, none of which outlives its call. The numbers are the same
        bits.

        Args:
            indices: minibatch, as `gradient`.
            update: what to do; it may use the segment's noise.
            noise: the step whose noise is in the segments; None: none is needed.
            known: loss and gradient, where they have been computed already.
            sums: add up what `update` returns.

        Returns:
            L_B(w) before the moves, and the sum over all parameters of what `update` returned (None: not asked for);
            `[chain]`.
        """
        if known is None and self.steps_in_backward:
            loss, parts = self._sweep_in_backward(indices, update, noise)
        else:
            loss, grad = self.gradient(indices) if known is None else known
            parts = [update(s, s.of(grad)) for s in self.noisy_segments(noise)]
        return loss, self._total(parts) if sums else None

    def _total(self, parts: Iterable[Tensor | None]) -> Tensor:
        """In the order of the segments, whatever the order in which they were served, and over all shards."""
        total = torch.zeros(len(self.chains), dtype=torch.float64, device=self.w.device)
        for part in parts:
            assert part is not None
            total = total + part
        return self.buffer.sum_over_shards(total)

    def _sweep_in_backward(
        self, indices: Tensor | None, update: Update, noise: int | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Gradients come in any order: a chunk's noise is drawn at its first segment and kept until its last."""
        segments = list(self.segments())
        buffers = {chunk: buffer for chunk, buffer, _ in self.chunks}
        waiting = {chunk: len(mine) for chunk, _, mine in self.chunks}
        open_chunks: dict[int, Tensor] = {}
        found: list[Tensor | None] = [None] * len(segments)

        def consume(piece: int, grad: Tensor) -> None:
            for i in self._of_piece[piece]:
                s = segments[i]
                if noise is not None:
                    if s.chunk not in open_chunks:
                        buffer = torch.empty_like(buffers[s.chunk])
                        open_chunks[s.chunk] = self.noise.fill(buffer, step=noise, chunk=s.chunk)
                    s = replace(s, noise=open_chunks[s.chunk][:, s.outer])
                found[i] = update(s, s.of_piece(grad))
                waiting[s.chunk] -= 1
                if not waiting[s.chunk]:
                    open_chunks.pop(s.chunk, None)

        loss = self.posterior.gradient_in_backward(self.w, indices, consume)
        return loss, found

    def whole_gradient(self, indices: Tensor | None) -> tuple[Tensor, list[Tensor]] | None:
        """Loss and gradient, as `gradient`; None where gradients never exist at once (`steps_in_backward`)."""
        return None if self.steps_in_backward else self.gradient(indices)

    def gradient(self, indices: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradient at the current weights, as `Posterior.gradient` gives them.

        With "control-variate" those of L_B(w) − ⟨∇L_B(w*) − ∇L_n(w*), w − w*⟩, for one more gradient a step where
        ∇L_B(w*) is not at hand: the same mean over batches, and no gradient noise at w* (Baker et al. 2019; Brosse et
        al. 2018, SGLD-FP). A full batch needs none.
        """
        loss, grad = self.posterior.gradient(self.w, indices)
        if self._w_star is None:
            return loss, grad
        noise = self.posterior.anchor_gradients.of(indices, self._w_star)
        for part, mean in zip(noise, self.posterior.anchor_gradients.mean, strict=True):
            part.sub_(mean)
        gained = torch.zeros_like(loss)
        for s in self.segments():
            off = s.of(noise)
            s.of(grad).sub_(off)
            gained += (off * (s.w - s.w_star)).sum(dim=1, dtype=torch.float64)
        return loss - self.buffer.sum_over_shards(gained), grad

    def init_loss(self, step: int) -> Tensor:
        """L_B(w*) on this step's batches, float64 `[chain]`; those of batches drawn together are found together."""
        found = self.batches.block(step)
        if found is None:
            return self.posterior.paired_loss(None, len(self.chains))
        block, at = found
        if block is not self._block:
            self._block = block
            self._init_losses = self.posterior.paired_loss(block.flatten(0, 1), len(self.chains)).view(block.shape[:2])
        return self._init_losses[at]

    def gradient_noise(self, grad: list[Tensor], step: int) -> Tensor:
        """½‖nβ(∇L_B − ∇L_B′)‖², float64 `[chain]`, for this step's gradient and one more, on the next step's batch.

        Half the squared difference of two independent unbiased gradients estimates the variance of either.
        """
        total = torch.zeros(len(self.chains), dtype=torch.float64, device=self.w.device)
        if self.batches.is_full:
            return total
        _, other = self.gradient(self.batches.indices(step + 1))
        for one, two in zip(grad, other, strict=True):
            total += (one - two).square_().sum(dim=1, dtype=torch.float64)
        return self.buffer.sum_over_shards(total) * (self.law.nbeta**2 / 2)

    def sq_distance(self) -> Tensor:
        """‖w − w*‖², float64 `[chain]`."""
        total = torch.zeros(len(self.chains), dtype=torch.float64, device=self.w.device)
        for s in self.segments():
            total += (s.w - s.w_star).square_().sum(dim=1, dtype=torch.float64)
        return self.buffer.sum_over_shards(total)
