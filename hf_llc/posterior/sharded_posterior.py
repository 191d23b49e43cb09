"""The posterior of a model whose weights are split over a group of processes: each steps its own part."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hf_llc.parallel.processes import Spans
from hf_llc.parallel.sharding import local_of, reshard
from hf_llc.posterior.posterior import Posterior


class ShardedPosterior(Posterior):
    """`Posterior` for a model under `fully_shard`, one chain at a time.

    Buffers, gradients, noise and anchor are those of the parameters held here: for each parameter a stretch of its
    rows, at `starts` among all parameters. FSDP gathers a layer's weights for its passes and scatters its gradient, so
    all processes of the group run the model equally often: one whose share of a batch is used up runs an example that
    does not count. What a kernel sums over parameters goes through `over_shards`.

    FSDP keeps its weights where it wants them: those of a chain are copied there before each gradient, for 4 bytes more
    a parameter held.
    """

    def _lay_out(self) -> None:
        self._held = [local_of(p) for p in self.parameters.values()]
        self.anchor = [held.reshape(-1).clone() for held in self._held]
        self.pieces = self.sizes = [len(a) for a in self.anchor]
        self.is_flat = False
        offsets = [0, *itertools.accumulate(p.numel() for p in self.parameters.values())][:-1]
        self.spans: list[list[tuple[int, int]]] = []
        at = list(offsets)
        for sizes in self.group.exchange(self.sizes):
            self.spans.append([(begin, begin + size) for begin, size in zip(at, sizes, strict=True)])
            at = [end for _, end in self.spans[-1]]
        self.starts = [begin for begin, _ in self.spans[self.group.index]]

    def over_shards(self, x: Tensor, *, largest: bool = False) -> Tensor:
        return self.group.over(x, largest=largest)

    def norm(self, w: Tensor) -> Tensor:
        here = torch.linalg.vector_norm(w, dim=1, keepdim=True, dtype=torch.float64)
        return self.over_shards(here.square()).sqrt().to(w.dtype)

    def own(self, whole: Tensor) -> Tensor:
        return torch.cat([whole[..., begin:end] for begin, end in self.spans[self.group.index]], dim=-1)

    def whole(self, w: Tensor) -> Tensor:
        return self.group.to_leader(w, self.spans)

    def split(self) -> Sequence[Spans] | None:
        return self.spans

    def attach(self, w: Tensor) -> None:
        """Put the chain's weights where FSDP has the model's."""
        reshard(self.model)
        with torch.no_grad():
            for held, column in zip(self._held, torch.split(w[0], self.sizes), strict=True):
                held.copy_(column.view_as(held))

    def release(self) -> None:
        """Put w* there."""
        self.attach(torch.cat(self.anchor)[None])

    def _rounds(self, indices: Tensor | None) -> Iterator[tuple[dict[str, Tensor], bool]]:
        """As many batches on every process, and whether they count."""
        size, step = (self.num_examples if indices is None else indices.shape[1]), self.micro_batch_size
        first, last = self.group.share(size)
        for begin in range(first, first + -(-size // self.group.size), step):
            counts = begin < last
            part = slice(begin, min(begin + step, last)) if counts else slice(0, 1)
            yield self._batch(part if indices is None else indices[0, part]), counts

    def gradient(self, w: Tensor, indices: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """`Posterior.gradient`, of which each process gets its own part of the gradient."""
        self.attach(w)
        size = self.num_examples if indices is None else indices.shape[1]
        loss = torch.zeros(1, dtype=torch.float64, device=self.device)
        for batch, counts in self._rounds(indices):
            with torch.enable_grad(), self._autocast():
                losses = self.problem.losses(self.model, batch)
                # the mean over the processes, which FSDP takes, is then the sum
                total = losses.sum() * (self.group.size / size if counts else 0.0)
            total.backward()
            if counts:
                loss = loss + losses.detach().sum(-1, dtype=torch.float64)
        self.group.sum_([loss])
        pieces = []
        for parameter, held in zip(self.parameters.values(), self._held, strict=True):
            grad = parameter.grad
            pieces.append((torch.zeros_like(held) if grad is None else local_of(grad)).reshape(1, -1))
            parameter.grad = None
        return loss / size, pieces

    def can_batch_chains(self) -> bool:
        """FSDP's hooks do not run under vmap."""
        return False

    @torch.no_grad()
    def example_losses(self, w: Tensor) -> Tensor:
        """`Posterior.example_losses`, each process running the model equally often."""
        self.attach(w)
        losses = torch.zeros(self.num_examples, dtype=torch.float64, device=self.device)
        at, _ = self.group.share(self.num_examples)
        for batch, counts in self._rounds(None):
            with self._autocast():
                part = self.problem.losses(self.model, batch)
            if counts:
                losses[at : at + len(part)] = part.double()
                at += len(part)
        self.group.sum_([losses])
        return losses
