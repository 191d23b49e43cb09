"""The posterior of a model whose weights are sharded over a group of processes, each of which steps its own shard."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hf_llc.posterior.chain_buffer import ChainBuffer, ShardedChainBuffer
from hf_llc.posterior.kept_losses import KeptLosses
from hf_llc.posterior.posterior import Posterior
from hf_llc.progress import watch


class ShardedPosterior(Posterior):
    """`Posterior` for a model under `fully_shard`, one chain at a time.

    Buffers, gradients, noise and anchor are those of the shard that this process holds. What a sampler sums over
    parameters is then summed over the shards (`ChainBuffer.sum_over_shards`). FSDP gathers a layer's weights for each
    pass and scatters its gradient, so all processes of the group must run the model equally often: one whose share of a
    batch is used up runs an example that does not count.
    """

    _BUFFER: ClassVar[type[ChainBuffer]] = ShardedChainBuffer
    buffer: ShardedChainBuffer

    def gradient(self, w: Tensor, indices: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """`Posterior.gradient`; each process gets its shard of the gradient."""
        self.buffer.attach(w)
        size = self.minibatches.size(indices)
        watch().spend(size / self.group.size)
        loss = torch.zeros(1, dtype=torch.float64, device=self.device)
        for batch, counts in self.minibatches.in_step(indices):
            with torch.enable_grad(), self.one_pass.autocast():
                losses = self.problem.losses(self.model, batch)
                # FSDP takes the mean over the processes: with this factor it is their sum
                total = losses.sum() * (self.group.size / size if counts else 0.0)
            total.backward()
            if counts:
                loss = loss + losses.detach().sum(-1, dtype=torch.float64)
        self.group.sum_([loss])
        return loss / size, self.buffer.local_gradients()

    def can_batch_chains(self) -> bool:
        """False: FSDP's hooks do not run under vmap."""
        return False

    @torch.no_grad()
    def example_losses(self, w: Tensor, *, kept: KeptLosses | None = None) -> Tensor:
        """`Posterior.example_losses`; each process runs the model equally often."""
        self.buffer.attach(w)
        losses = torch.zeros(self.num_examples, dtype=torch.float64, device=self.device)
        at, _ = self.group.share(self.num_examples)
        for batch, counts in self.minibatches.in_step(None):
            with self.one_pass.autocast():
                part = self.problem.losses(self.model, batch)
            if counts:
                losses[at : at + len(part)] = part.double()
                at += len(part)
        self.group.sum_([losses])
        return losses
