"""The activations that a forward pass keeps for its backward pass: their size, and checkpointing (arXiv 1604.06174)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hf_llc.errors import InputError

_MARK = "GradientCheckpointingLayer"
"""transformers' base class of layers that may be checkpointed. Its own switch works in train mode only."""


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The layers to checkpoint: those that transformers marks, else the members of the outermost module lists.

    Raises:
        InputError: the model has no such layers.
    """
    marked = [m for m in model.modules() if any(c.__name__ == _MARK for c in type(m).__mro__)]
    layers = marked or list(dict.fromkeys(_members(model)))
    if not layers:
        raise InputError(
            "the model has no repeated layers to checkpoint",
            value=type(model).__name__,
            allowed="layers of transformers' GradientCheckpointingLayer, or in an nn.ModuleList or nn.Sequential",
            remedy="leave gradient_checkpointing out",
        )
    return layers


def _members(module: nn.Module) -> Iterator[nn.Module]:
    """Members of the outermost module lists."""
    for child in module if isinstance(module, (nn.ModuleList, nn.Sequential)) else ():
        yield child
    if not isinstance(module, (nn.ModuleList, nn.Sequential)):
        for child in module.children():
            yield from _members(child)


@contextlib.contextmanager
def checkpointed(layers: Sequence[nn.Module]) -> Iterator[None]:
    """A forward pass inside keeps only the inputs of `layers`; its backward pass computes their activations again.

    Needed around the forward pass only. The gradients are the same bits: the same operations on the same numbers.
    """
    patched = [(layer, vars(layer).get("forward")) for layer in layers]
    try:
        for layer, _ in patched:
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
        yield
    finally:
        for layer, forward in patched:
            del layer.forward
            if forward is not None:  # this instance had a forward of its own
                layer.forward = forward


def kept_bytes(forward: Callable[[], Tensor], weights: Iterable[Tensor], layers: Sequence[nn.Module] = ()) -> int:
    """Bytes of the tensors that `forward` keeps for its backward pass: each storage once, `weights` left out.

    With `layers` (see `checkpointed`): what is kept throughout, and the activations of an average layer, which exist
    while that layer is computed again. The working memory of single operations is not counted.
    """
    of_weights = {w.untyped_storage()._cdata for w in weights}
    without = _kept(forward, of_weights)
    if not layers:
        return without
    with checkpointed(layers):
        throughout = _kept(forward, of_weights)
    return throughout + (without - throughout) // len(layers)


def _kept(forward: Callable[[], Tensor], of_weights: set[int]) -> int:
    sizes: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        sizes[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        return x

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = forward()  # keeps the graph alive, so that no address stands for two tensors
    del loss
    return sum(size for address, size in sizes.items() if address not in of_weights)
