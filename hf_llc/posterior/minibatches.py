"""The examples, and how a minibatch of them is shared out and cut into forward passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from hf_llc.parallel.group import Group
from hf_llc.problem import Problem

_RESIDENT_BYTES = 2 * 2**30
"""Examples up to this size are kept on the model's device; on a GPU, up to a quarter of what is free there."""

_MICRO_TOKENS, _MICRO_EXAMPLES = 2**14, 1024


_MOST_LOGITS = 2**27
"""Logits of a forward pass at most: half a GiB of float32, of which a loss makes two more copies. With a vocabulary of
50,000 that is 2,700 tokens, still above the 2,048 of a minibatch."""


def auto_micro_batch_size(num_positions: int, num_logits: int = 1) -> int:
    """Examples of a forward pass at most, of so many tokens (1: not a sequence) with so many logits each."""
    if num_positions == 1:
        return _MICRO_EXAMPLES
    return max(1, min(_MICRO_TOKENS, _MOST_LOGITS // num_logits) // num_positions)


def logits_per_token(model: nn.Module) -> int:
    """Width of the layer that predicts tokens; 1 if the model has none."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if callable(find) else None
    weight = getattr(head, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) and weight.dim() == 2 else 1


class Minibatches:
    """The examples of a problem and the micro-batches, the batches of a forward pass, that minibatches are cut into.

    A minibatch is a tensor of indices, int64 `[chain, m]`; None stands for all examples. In a group of processes each
    takes its share of the examples of every minibatch.

    Args:
        problem: the examples.
        device: of the model.
        group: the processes that share every minibatch.
        micro_batch_size: examples of a forward pass at most; None: what suits the kind of data.

    Attributes:
        examples: by name; on the device if they fit there.
        is_resident: whether they are.
    """

    def __init__(
        self, problem: Problem, device: torch.device, group: Group, *, micro_batch_size: int | None = None
    ) -> None:
        self.num_examples = problem.num_examples
        self.device, self.group = device, group
        suited = auto_micro_batch_size(problem.num_positions, logits_per_token(problem.model))
        self.micro_batch_size = micro_batch_size or suited
        self.examples = self._placed(problem.examples)
        self.is_resident = all(x.device == device for x in self.examples.values())

    def _placed(self, examples: Mapping[str, Tensor]) -> dict[str, Tensor]:
        size, limit = sum(x.nbytes for x in examples.values()), _RESIDENT_BYTES
        if self.device.type == "cuda":
            limit = torch.cuda.mem_get_info(self.device)[0] // 4
        return {k: x.to(self.device) if size <= limit else x for k, x in examples.items()}

    def size(self, indices: Tensor | None) -> int:
        """Examples of a minibatch of one chain, over all processes."""
        return self.num_examples if indices is None else indices.shape[1]

    def gather(self, part: Tensor | slice) -> dict[str, Tensor]:
        """These examples on the device; indices give the batch their shape."""
        if isinstance(part, slice):
            return {k: x[part].to(self.device) for k, x in self.examples.items()}
        flat, shape = part.flatten(), part.shape  # index_select copies whole rows: faster than x[part]
        return {
            k: x.index_select(0, flat.to(x.device)).unflatten(0, shape).to(self.device)
            for k, x in self.examples.items()
        }

    def parts(
        self, indices: Tensor | None, num_chains: int, *, start: int = 0, most: int | None = None
    ) -> Iterator[Tensor | slice]:
        """This process's share of a minibatch, but for the first `start`, as what `gather` takes for each forward pass.

        Indices of one chain come as `[m]`, without the chain axis. A pass has `most` examples at most.
        """
        size, step = self.size(indices), min(self.micro_batch_size, most or self.micro_batch_size)
        first, last = self.group.share(size)
        for at in range(first + start, last, step):
            span = slice(at, min(at + step, last))
            if indices is None:
                yield span
            else:
                yield indices[0, span] if num_chains == 1 else indices[:, span]

    def micro_batches(
        self, indices: Tensor | None, num_chains: int, *, start: int = 0, most: int | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """The examples of `parts`, with the chain axis in front if there are several chains."""
        for part in self.parts(indices, num_chains, start=start, most=most):
            batch = self.gather(part)
            is_shared = indices is None and num_chains > 1
            yield {k: x.expand(num_chains, *x.shape) for k, x in batch.items()} if is_shared else batch

    def in_step(self, indices: Tensor | None) -> Iterator[tuple[dict[str, Tensor], bool]]:
        """The same micro-batches of one chain, as many on every process of the group, and whether each counts.

        A process whose share is used up gets an example that does not count.
        """
        size, step = self.size(indices), self.micro_batch_size
        first, last = self.group.share(size)
        for begin in range(first, first + -(-size // self.group.size), step):
            counts = begin < last
            part = slice(begin, min(begin + step, last)) if counts else slice(0, 1)
            yield self.gather(part if indices is None else indices[0, part]), counts
