"""How the weights of chains lie in memory, and how they get into the model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hf_llc.parallel.group import Group
from hf_llc.parallel.shard_spans import Spans
from hf_llc.parallel.sharding import local_shard_of, reshard
from hf_llc.posterior.weights import chain_dtype, sampled_parameters

_FLAT_LIMIT, _GPU_FLAT_LIMIT = 2**15, 2**24
"""Up to this many parameters a gradient is one flat tensor, which takes fewer and larger operations a step."""


class ChainBuffer:
    """The layout of chains in a buffer `w [chain, parameter]`, w* in that layout, and the chain that is attached.

    `attach` makes a buffer the storage of the model's parameters, until another one is attached or `release` puts w*
    back. With one chain the parameters themselves become views of its row. With several there are `leaves` instead,
    which `torch.vmap` puts into the model row by row.

    Args:
        model: at w*.
        group: the processes that step these chains together.
        may_be_flat: whether gradients of a small model may be gathered into one piece.

    Attributes:
        parameters: the sampled parameters by name.
        num_parameters: their elements, those held by other processes included.
        device: of buffers and gradients.
        dtype: of buffers and gradients.
        sizes: elements of each parameter that this process holds.
        pieces: elements of each tensor in which a gradient comes: one for a small model, one a parameter for a large.
        starts: where each piece begins among all parameters, those held by other processes included.
        is_flat: whether a gradient is one piece.
        anchor: w*, one flat tensor a piece, in the model's own type; of a large model, the model's own storage.
        leaves: what a loss is differentiated by: the parameters of the attached chains.
    """

    def __init__(self, model: nn.Module, group: Group, *, may_be_flat: bool) -> None:
        self.model, self.group = model, group
        self.parameters = sampled_parameters(model)
        self.num_parameters = sum(p.numel() for p in self.parameters.values())
        self.device = next(iter(self.parameters.values())).device
        self.dtype = chain_dtype(self.parameters.values())
        self._attached: Tensor | None = None
        self.leaves: list[Tensor] = list(self.parameters.values())
        self._lay_out(may_be_flat=may_be_flat)

    def _lay_out(self, *, may_be_flat: bool) -> None:
        self.sizes = [p.numel() for p in self.parameters.values()]
        self._shapes = [p.shape for p in self.parameters.values()]
        self._home = [p.data for p in self.parameters.values()]
        flat = [x.reshape(-1) for x in self._home]
        limit = _GPU_FLAT_LIMIT if self.device.type == "cuda" else _FLAT_LIMIT
        self.is_flat = may_be_flat and self.num_parameters <= limit
        self.anchor = [torch.cat([x.to(self.dtype) for x in flat])] if self.is_flat else flat
        self.pieces = [len(a) for a in self.anchor]
        self.starts = [0, *itertools.accumulate(self.pieces)][:-1]

    def start(self, num_chains: int) -> Tensor:
        """A new buffer `[chain, parameter]` with every chain at w*. Releases the attached one."""
        self.release()
        w = torch.empty(num_chains, sum(self.pieces), dtype=self.dtype, device=self.device)
        for part, anchor in zip(torch.split(w, self.pieces, dim=1), self.anchor, strict=True):
            part.copy_(anchor)
        return w

    def attach(self, w: Tensor) -> None:
        """Make `w` the storage of the model's parameters (one chain) or of `leaves` (several)."""
        if self._attached is w:
            return
        views = self.views(w)
        if len(w) == 1:
            for parameter, view in zip(self.parameters.values(), views, strict=True):
                parameter.data = view
            self.leaves = list(self.parameters.values())
        else:
            self.leaves = [view.detach().requires_grad_() for view in views]
        self._attached = w

    def release(self) -> None:
        """Put the model back to w*, in its own storage and type."""
        for parameter, home in zip(self.parameters.values(), self._home, strict=True):
            parameter.data = home
        self.leaves, self._attached = list(self.parameters.values()), None

    def views(self, w: Tensor) -> list[Tensor]:
        """The rows of `w` in the shapes of the parameters; several chains have their axis in front."""
        columns = zip(torch.split(w, self.sizes, dim=1), self._shapes, strict=True)
        if len(w) == 1:
            return [column[0].view(shape) for column, shape in columns]
        return [column.unflatten(1, shape) if shape else column[:, 0] for column, shape in columns]

    def in_pieces(self, grads: Sequence[Tensor], num_chains: int) -> list[Tensor]:
        """Gradients in the shapes of the parameters as flat pieces, `[chain, size of the piece]`."""
        flat = [grad.reshape(num_chains, -1) for grad in grads]
        return [torch.cat(flat, dim=1)] if self.is_flat else flat

    def norm(self, w: Tensor) -> Tensor:
        """‖w‖ over all parameters of each chain, `[chain, 1]`."""
        return w.norm(dim=1, keepdim=True)

    def sum_over_shards(self, x: Tensor) -> Tensor:
        """The sum over all parameters, from the sum `x` over those that this process holds."""
        return x

    def max_over_shards(self, x: Tensor) -> Tensor:
        """The maximum over all parameters, from the maximum `x` over those that this process holds."""
        return x

    def shard_spans(self) -> Sequence[Spans] | None:
        """Which of all parameters each process of the group holds; None if each holds all."""
        return None

    def local_shard(self, full: Tensor) -> Tensor:
        """What this process holds of a vector `[…, all parameters]`."""
        return full

    def gather_shards(self, w: Tensor) -> Tensor:
        """All parameters `[chain, parameter]` on the group's leader, from what each process holds."""
        return w


class ShardedChainBuffer(ChainBuffer):
    """`ChainBuffer` of a model under `fully_shard`, for one chain at a time.

    A process holds a stretch of the rows of each parameter. FSDP keeps the model's weights in storage of its own: those
    of a chain are copied there, for 4 bytes more a parameter held.
    """

    def _lay_out(self, *, may_be_flat: bool) -> None:
        self._held = [local_shard_of(p) for p in self.parameters.values()]
        self.anchor = [held.reshape(-1).clone() for held in self._held]
        self.pieces = self.sizes = [len(a) for a in self.anchor]
        self.is_flat = False
        ends = [0, *itertools.accumulate(p.numel() for p in self.parameters.values())][:-1]
        self._spans: list[list[tuple[int, int]]] = []  # of each process, those of each parameter
        for sizes in self.group.all_gather(self.sizes):
            self._spans.append([(end, end + size) for end, size in zip(ends, sizes, strict=True)])
            ends = [end for _, end in self._spans[-1]]
        self.starts = [begin for begin, _ in self._spans[self.group.index]]

    def attach(self, w: Tensor) -> None:
        """Copy the chain's weights to where FSDP keeps the model's."""
        reshard(self.model)
        with torch.no_grad():
            for held, column in zip(self._held, torch.split(w[0], self.sizes), strict=True):
                held.copy_(column.view_as(held))

    def release(self) -> None:
        """Copy w* there."""
        self.attach(torch.cat(self.anchor)[None])

    def local_gradients(self) -> list[Tensor]:
        """Take the gradient that the backward pass left at the parameters: what this process holds of it, in pieces."""
        pieces = []
        for parameter, held in zip(self.parameters.values(), self._held, strict=True):
            grad = parameter.grad
            pieces.append((torch.zeros_like(held) if grad is None else local_shard_of(grad)).reshape(1, -1))
            parameter.grad = None
        return pieces

    def norm(self, w: Tensor) -> Tensor:
        local = torch.linalg.vector_norm(w, dim=1, keepdim=True, dtype=torch.float64)
        return self.sum_over_shards(local.square()).sqrt().to(w.dtype)

    def sum_over_shards(self, x: Tensor) -> Tensor:
        return self.group.all_reduce(x)

    def max_over_shards(self, x: Tensor) -> Tensor:
        return self.group.all_reduce(x, largest=True)

    def shard_spans(self) -> Sequence[Spans] | None:
        return self._spans

    def local_shard(self, full: Tensor) -> Tensor:
        return torch.cat([full[..., begin:end] for begin, end in self._spans[self.group.index]], dim=-1)

    def gather_shards(self, w: Tensor) -> Tensor:
        return self.group.to_leader(w, self._spans)
