"""`Walk`: the weights of some chains while they move, and all that a sampler may touch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_llc.backend.random_streams import BatchStream, NoiseStream
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.samplers.segment import Segment, Update


class Walk:
    """The weights of some chains, with their gradients, noise and minibatches.

    A sampler moves the weights segment by segment, in `sweep`: the gradient is then used while it is in cache, and need
    not exist for all parameters at once. It also has `gradient`, `segments` and `noisy_segments`; `pieces_of`, to cut
    its state; and `sum_over_shards`, since a process may hold only a part of the parameters.

    Args:
        posterior: losses and gradients.
        law: nβ and γ.
        chains: chain numbers, which with the seed decide noise and minibatches.
        seed: of noise and minibatches.
        batch_size: examples a step.
        w: positions to start at, `[chain, parameter]`; None: w*.
        gradient: "plain" or "control-variate"; see the method `gradient`.
        batch_order: "random" or "in-turn"; see `BatchStream`.
        full_loss_every: steps from one L_n(w) to the next; 0: losses are those of minibatches.

    Attributes:
        w: positions, `[chain, parameter]`.
        num_parameters: d, those held by other processes included.
        steps_in_backward: `sweep` runs inside the backward pass, and gradients never exist at once.
        philox: fused updates with their noise, on a GPU in float32; else None.
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
        batch_order: str = "random",
        full_loss_every: int = 0,
    ) -> None:
        self.posterior, self.law, self.chains, self.seed = posterior, law, list(chains), seed
        self.num_parameters, self._buffer = posterior.num_parameters, posterior.buffer
        self.w = posterior.start(len(self.chains)) if w is None else w
        self.noise = NoiseStream(seed, chains, posterior.device)
        self.batches = BatchStream(
            seed,
            chains,
            num_examples=posterior.num_examples,
            batch_size=batch_size,
            device=posterior.device,
            order=batch_order,
        )
        self.full_loss_every = 0 if self.batches.is_full else full_loss_every  # a full batch's loss is L_n
        self._chunks = self._cut_into_segments()
        self._segments_of_piece: list[list[int]] = [[] for _ in self._buffer.anchor]
        for i, s in enumerate(self.segments()):
            self._segments_of_piece[s.piece].append(i)
        is_controlled = gradient == "control-variate" and not self.batches.is_full
        self._w_star = posterior.start(len(self.chains)) if is_controlled else None
        # a control variate changes the whole gradient before the step
        may_step = posterior.steps_in_backward(num_chains=len(self.chains), batch_size=batch_size)
        self.steps_in_backward = may_step and not is_controlled
        self._block, self._init_losses = torch.empty(0), torch.empty(0)
        self.philox: Any = self.noise.philox if posterior.dtype == torch.float32 else None

    def _cut_into_segments(self) -> list[tuple[int, Tensor, list[Segment]]]:
        """Number, noise buffer and segments of each noise chunk that meets the parameters of this process."""
        total, size = self.num_parameters, self.noise.chunk_size
        buffer = torch.empty(len(self.chains), min(size, total), dtype=self.w.dtype, device=self.w.device)
        chunks: dict[int, list[Segment]] = {}
        columns = torch.split(self.w, self._buffer.pieces, dim=1)
        for piece, (anchor, start) in enumerate(zip(self._buffer.anchor, self._buffer.starts, strict=True)):
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
        """Every segment, in order, without fresh noise in them."""
        for _, _, segments in self._chunks:
            yield from segments

    def noisy_segments(self, step: int | None) -> Iterator[Segment]:
        """Every segment, in order, with the noise of `step` in it (None: without fresh noise).

        Use a segment before asking for the next one: chunks share the memory of their noise.
        """
        for chunk, buffer, segments in self._chunks:
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
        """Call `update(segment, gradient)` once for every segment, with ∇L_B(w) at the w before any of them moved.

        Without `steps_in_backward` the gradient is computed first, and the segments come in order. With it they come
        inside the backward pass, in the order in which that makes their gradients, and each gradient is freed after
        its call. Both give the same bits.

        Args:
            indices: the minibatch, int64 `[chain, batch_size]`; None for all examples.
            update: moves a segment; it may use the segment's noise.
            noise: the step whose noise the segments shall have; None: no noise.
            known: loss and gradient, if they have been computed already.
            sums: add up what `update` returns.

        Returns:
            L_B(w) before the move, `[chain]`, and with `sums` the sum over all segments of all processes, else None.
        """
        if known is None and self.steps_in_backward:
            loss, parts = self._sweep_in_backward(indices, update, noise)
        else:
            loss, grad = self.gradient(indices) if known is None else known
            parts = [update(s, s.of(grad)) for s in self.noisy_segments(noise)]
        return loss, self._total(parts) if sums else None

    def _total(self, parts: Iterable[Tensor | None]) -> Tensor:
        """The sum over all segments of all processes, float64 `[chain]`."""
        total = torch.zeros(len(self.chains), dtype=torch.float64, device=self.w.device)
        for part in parts:
            assert part is not None
            total = total + part
        return self.sum_over_shards(total)

    def _sweep_in_backward(
        self, indices: Tensor | None, update: Update, noise: int | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Loss, and what `update` returned for each segment, in the order of segments.

        Gradients come in any order, so the noise of a chunk is drawn at its first segment and kept until its last.
        """
        segments = list(self.segments())
        buffers = {chunk: buffer for chunk, buffer, _ in self._chunks}
        num_waiting = {chunk: len(of_chunk) for chunk, _, of_chunk in self._chunks}
        drawn: dict[int, Tensor] = {}
        returned: list[Tensor | None] = [None] * len(segments)

        def consume(piece: int, grad: Tensor) -> None:
            for i in self._segments_of_piece[piece]:
                s = segments[i]
                if noise is not None:
                    if s.chunk not in drawn:
                        drawn[s.chunk] = self.noise.fill(torch.empty_like(buffers[s.chunk]), step=noise, chunk=s.chunk)
                    s = replace(s, noise=drawn[s.chunk][:, s.outer])
                returned[i] = update(s, s.of_piece(grad))
                num_waiting[s.chunk] -= 1
                if not num_waiting[s.chunk]:
                    drawn.pop(s.chunk, None)

        loss = self.posterior.gradient_in_backward(self.w, indices, consume)
        return loss, returned

    def whole_gradient(self, indices: Tensor | None) -> tuple[Tensor, list[Tensor]] | None:
        """`gradient`, or None with `steps_in_backward`, where gradients never exist at once."""
        return None if self.steps_in_backward else self.gradient(indices)

    def gradient(self, indices: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """L_B(w), `[chain]`, and ∇L_B(w), in pieces `[chain, size of the piece]`, as `Posterior.gradient` returns them.

        With "control-variate" they are those of

            L_B(w) − ⟨∇L_B(w*) − ∇L_n(w*), w − w*⟩,

        which has the same mean over minibatches and no gradient noise at w* (Baker et al. 2019; Brosse et al. 2018,
        SGLD-FP). It takes one more gradient, ∇L_B(w*), unless the gradients of all examples at w* are kept. A full
        batch needs no control variate.
        """
        loss, grad = self.posterior.gradient(self.w, indices)
        if self._w_star is None:
            return loss, grad
        noise = self.posterior.anchor_gradients.of(indices, self._w_star)
        for part, mean in zip(noise, self.posterior.anchor_gradients.mean, strict=True):
            part.sub_(mean)
        slope = torch.zeros_like(loss)
        for s in self.segments():
            noise_at_w_star = s.of(noise)
            s.of(grad).sub_(noise_at_w_star)
            slope += (noise_at_w_star * (s.w - s.w_star)).sum(dim=1, dtype=torch.float64)
        return loss - self.sum_over_shards(slope), grad

    def full_loss(self) -> Tensor:
        """L_n(w), float64 `[chain]`."""
        rows = self.w.split(1) if len(self.chains) > 1 else [self.w]
        return torch.stack([self.posterior.example_losses(row).mean() for row in rows])

    def init_loss(self, step: int) -> Tensor:
        """L_B(w*) on the minibatches of `step`, or L_n(w*) where draws are L_n; float64 `[chain]`."""
        block_and_row = None if self.full_loss_every else self.batches.block(step)
        if block_and_row is None:
            return self.posterior.paired_loss(None, len(self.chains))
        block, row = block_and_row  # minibatches of many steps are drawn at once, so their losses are computed at once
        if block is not self._block:
            self._block = block
            self._init_losses = self.posterior.paired_loss(block.flatten(0, 1), len(self.chains)).view(block.shape[:2])
        return self._init_losses[row]

    def gradient_noise(self, grad: list[Tensor], step: int) -> Tensor:
        """Power of the gradient noise, Q = E‖nβ(∇L_B − ∇L_n)‖², estimated by ½‖nβ(∇L_B − ∇L_B′)‖²; float64 `[chain]`.

        Half the squared difference of two independent unbiased gradients has the variance of either as its mean.

        Args:
            grad: ∇L_B(w) on the minibatch of `step`, in pieces.
            step: number of the step; B′ is the minibatch of the next one.
        """
        total = torch.zeros(len(self.chains), dtype=torch.float64, device=self.w.device)
        if self.batches.is_full:
            return total
        _, other = self.gradient(self.batches.indices(step + 1))
        for one, two in zip(grad, other, strict=True):
            total += (one - two).square_().sum(dim=1, dtype=torch.float64)
        return self.sum_over_shards(total) * (self.law.nbeta**2 / 2)

    def pieces_of(self, flat: Tensor) -> list[Tensor]:
        """Views of a state `[chain, parameter]`, cut as gradients are, for `Segment.of`."""
        return list(torch.split(flat, self._buffer.pieces, dim=1))

    def sum_over_shards(self, x: Tensor) -> Tensor:
        """The sum over all parameters, from the sum `x` over those that this process holds."""
        return self._buffer.sum_over_shards(x)

    def max_over_shards(self, x: Tensor) -> Tensor:
        """The maximum over all parameters, from the maximum `x` over those that this process holds."""
        return self._buffer.max_over_shards(x)

    def sq_distance(self) -> Tensor:
        """‖w − w*‖², float64 `[chain]`."""
        total = torch.zeros(len(self.chains), dtype=torch.float64, device=self.w.device)
        for s in self.segments():
            total += (s.w - s.w_star).square_().sum(dim=1, dtype=torch.float64)
        return self.sum_over_shards(total)
