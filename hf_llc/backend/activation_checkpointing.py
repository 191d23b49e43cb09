"""What a forward pass keeps for its backward pass: how much that is, and how to keep less (arXiv 1604.06174)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hf_llc.errors import InputError

_MARK = "GradientCheckpointingLayer"
"""transformers' base class of layers that may be computed twice. Its own switch works in train mode only."""


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The layers to compute twice: those that transformers marks, else the members of the outermost module lists.

    Raises:
        InputError: the model has neither.
    """
    marked = [m for m in model.modules() if any(c.__name__ == _MARK for c in type(m).__mro__)]
    found = marked or list(dict.fromkeys(_members(model)))
    if not found:
        raise InputError(
            "the model has no repeated layers to checkpoint",
            value=type(model).__name__,
            allowed="layers of transformers' GradientCheckpointingLayer, or in an nn.ModuleList or nn.Sequential",
            remedy="leave gradient_checkpointing out",
        )
    return found


def _members(module: nn.Module) -> Iterator[nn.Module]:
    """Members of the outermost lists, each once."""
    for child in module if isinstance(module, (nn.ModuleList, nn.Sequential)) else ():
        yield child
    if not isinstance(module, (nn.ModuleList, nn.Sequential)):
        for child in module.children():
            yield from _members(child)


@contextlib.contextmanager
def checkpointed(layers: Sequence[nn.Module]) -> Iterator[None]:
    """A forward pass inside keeps only the inputs of `layers`; its backward pass computes the rest of them again.

    Needed around the forward pass alone. Gradients are those without it: the same operations on the same numbers.
    """
    own = [(layer, vars(layer).get("forward")) for layer in layers]
    try:
        for layer, _ in own:
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
        yield
    finally:
        for layer, forward in own:
            del layer.forward
            if forward is not None:  # someone's own patch of this instance
                layer.forward = forward


def kept_bytes(forward: Callable[[], Tensor], weights: Iterable[Tensor], layers: Sequence[nn.Module] = ()) -> int:
    """Bytes of the tensors that `forward` keeps for its backward pass, each storage once and `weights` left out.

    With `layers` (see `checkpointed`): what is kept all along, and an average layer's while it is computed again.
    What operations need for themselves meanwhile is not counted.
    """
    own = {w.untyped_storage()._cdata for w in weights}
    whole = _kept(forward, own)
    if not layers:
        return whole
    with checkpointed(layers):
        outside = _kept(forward, own)
    return outside + (whole - outside) // len(layers)


def _kept(forward: Callable[[], Tensor], own: set[int]) -> int:
    sizes: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        sizes[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        return x

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        kept = forward()  # alive, and its graph with it, until all were seen: an address stands for one tensor
    del kept
    return sum(size for address, size in sizes.items() if address not in own)
