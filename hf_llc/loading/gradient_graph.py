"""The graph behind a loss: operations whose gradients are sparse, or are not those of the loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hf_llc.errors import InputError

_SIGNS = {
    "_saved_sparse": ("the forward pass gives sparse gradients", "set sparse to False: the loss is the same"),
    "_saved_sparse_grad": ("the forward pass gives sparse gradients", "set sparse_grad to False: the loss is the same"),
    "_saved_scale_grad_by_freq": (
        "the gradient is not that of the loss: it is divided by how often a row occurs",
        "set scale_grad_by_freq to False: the loss is the same",
    ),
}
"""What the nodes of autograd remember of such operations."""


def refuse_other_gradients(loss: Tensor) -> None:
    """Refuse a loss whose graph has an operation with gradients that cannot be used.

    Raises:
        InputError: it has.
    """
    seen: set[Any] = set()
    left: list[Any] = [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for sign, (what, remedy) in _SIGNS.items():
            if getattr(node, sign, False) is True:
                name = type(node).__name__.removesuffix("Backward0")
                raise InputError(what, value=name, remedy=remedy)
        left += [following for following, _ in node.next_functions]
