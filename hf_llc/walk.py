"""The moving weights of a batch of chains, cut so that a kernel can update them while they are in cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_llc.posterior import Posterior
from hf_llc.streams import BatchStream, NoiseStream


@dataclass(frozen=True)
class Segment:
    """A stretch of parameters that lies in one noise chunk and one gradient piece. All tensors are views.

    Attributes:
        w: current weights, `[chain, k]`.
        w_star: anchor, `[k]`.
        noise: where this chunk's noise is put, `[chain, k]`.
        piece: which gradient piece, and `inner`: where in it.
    """

    w: Tensor
    w_star: Tensor
    noise: Tensor
    piece: int
    inner: slice

    def of(self, pieces: Sequence[Tensor]) -> Tensor:
        """This stretch of a list of pieces (a gradient), `[chain, k]`."""
        return pieces[self.piece][:, self.inner]


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
        chains: chain numbers.
        seed: of noise and batch order.
        batch_size: examples a step.
        w: where the chains are; None: at w*.
        gradient: "plain" or "control-variate"; see `gradient`.
    """

    def __init__(
        self,
        posterior: Posterior,
        chains: Sequence[int],
        *,
        seed: int,
        batch_size: int,
        w: Tensor | None = None,
        gradient: str = "plain",
    ) -> None:
        self.posterior, self.chains, self.seed = posterior, list(chains), seed
        self.w = posterior.start(len(self.chains)) if w is None else w
        self.noise = NoiseStream(seed, chains, posterior.device)
        self.batches = BatchStream(
            seed, chains, num_examples=posterior.num_examples, batch_size=batch_size, device=posterior.device
        )
        self.chunks = self._cut()
        is_controlled = gradient == "control-variate" and not self.batches.is_full
        self._w_star = posterior.start(len(self.chains)) if is_controlled else None

    def _cut(self) -> list[tuple[int, Tensor, list[Segment]]]:
        """Number, noise buffer and segments of each chunk that meets the parameters here."""
        total, size = self.posterior.num_parameters, self.noise.chunk_size
        buffer = torch.empty(len(self.chains), min(size, total), dtype=self.w.dtype, device=self.w.device)
        chunks: dict[int, list[Segment]] = {}
        columns = torch.split(self.w, self.posterior.pieces, dim=1)
        for piece, (anchor, start) in enumerate(zip(self.posterior.anchor, self.posterior.starts, strict=True)):
            at, stop = start, start + len(anchor)
            while at < stop:
                chunk = at // size
                end = min(stop, (chunk + 1) * size)
                noise = buffer[:, at - chunk * size : end - chunk * size]
                inner = slice(at - start, end - start)
                segment = Segment(columns[piece][:, inner], anchor[inner], noise, piece, inner)
                chunks.setdefault(chunk, []).append(segment)
                at = end
        return [(chunk, buffer[:, : total - chunk * size], segments) for chunk, segments in chunks.items()]

    def segments(self) -> Iterator[Segment]:
        """Every segment; the noise in them is whatever was drawn last."""
        for _, _, segments in self.chunks:
            yield from segments

    def noisy_segments(self, step: int) -> Iterator[Segment]:
        """Every segment with this step's noise in it. Use each before asking for the next."""
        for chunk, buffer, segments in self.chunks:
            self.noise.fill(buffer, step=step, chunk=chunk)
            yield from segments

    def gradient(self, indices: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradient at the current weights, as `Posterior.gradient` gives them.

        With "control-variate" those of L_B(w) − ⟨∇L_B(w*) − ∇L_n(w*), w − w*⟩, for one more gradient a step: the same
        mean over batches, and no gradient noise at w* (Baker et al. 2019; Brosse et al. 2018, SGLD-FP). A full batch
        needs none.
        """
        loss, grad = self.posterior.gradient(self.w, indices)
        if self._w_star is None:
            return loss, grad
        _, noise = self.posterior.gradient(self._w_star, indices)
        for part, mean in zip(noise, self.posterior.init_gradient, strict=True):
            part.sub_(mean)
        gained = torch.zeros_like(loss)
        for s in self.segments():
            off = s.of(noise)
            s.of(grad).sub_(off)
            gained += (off * (s.w - s.w_star)).sum(dim=1, dtype=torch.float64)
        return loss - self.posterior.over_shards(gained), grad

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
        return self.posterior.over_shards(total) * (self.posterior.nbeta**2 / 2)

    def sq_distance(self) -> Tensor:
        """‖w − w*‖², float64 `[chain]`."""
        total = torch.zeros(len(self.chains), dtype=torch.float64, device=self.w.device)
        for s in self.segments():
            total += (s.w - s.w_star).square_().sum(dim=1, dtype=torch.float64)
        return self.posterior.over_shards(total)
