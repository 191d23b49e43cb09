"""Gradients handed over while the backward pass makes them, so that a step needs no whole gradient in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_llc.backend.onednn_products import suspended
from hf_llc.errors import InputError


@contextlib.contextmanager
def gradients_handed_over(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    consume: Callable[[int, Tensor], None],
    *,
    products: contextlib.AbstractContextManager[Any],
) -> Iterator[None]:
    """Within, a backward pass calls `consume(number, gradient [1, size])` for each parameter as its gradient is made.

    When `consume` is called, nothing in the rest of the backward pass reads that parameter any more: it may move it.
    Parameters that the loss does not use come at the end, with zeros.

    Args:
        model: named in a refusal.
        parameters: of the model, numbered in this order.
        consume: called once for each parameter.
        products: the context of matrix products that the pass runs in; `consume` runs out of it.

    Raises:
        InputError: the model reads a weight beside its gradient, so that it may not move yet.
    """
    waiting = {p: i for i, p in enumerate(parameters)}

    @torch.no_grad()
    def hand_over(parameter: Any) -> None:
        grad, parameter.grad = parameter.grad, None
        assert grad is not None
        with suspended(products):
            consume(waiting.pop(parameter), grad.reshape(1, -1))
        torch.autograd.graph.increment_version(parameter)  # autograd then refuses to read what has moved

    for parameter in waiting:
        parameter.grad = None
    hooks = [p.register_post_accumulate_grad_hook(hand_over) for p in waiting]
    try:
        yield
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise InputError(
            "the model reads a weight beside its gradient, which step_in_backward has moved by then",
            value=type(model).__name__,
            remedy="set step_in_backward false",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    for parameter, number in list(waiting.items()):
        consume(number, torch.zeros_like(parameter).reshape(1, -1))
