"""A model's weights: which are sampled, in what type, and how the model is left as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hf_llc.errors import InputError
from hf_llc.parallel.sharding import is_shard, local_shard_of, reshard

_COPIED_BYTES = 2**28
"""Weights up to this size are copied, so that a forward pass that writes them leaves no trace. A copy of larger ones
might not fit; `hf_llc.loading.probe` refuses such a forward pass."""


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model in eval mode; at the end restore its weights, buffers, gradients, modes and requires_grad flags.

    Values come back as well as tensors: weights and buffers that were reassigned, added or written in place.
    """
    reshard(model)
    shards = [(local_shard_of(p), local_shard_of(p).to("cpu", copy=True)) for p in model.parameters() if is_shard(p)]
    modes = [(module, module.training) for module in model.modules()]
    stores: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (store, dict(store)) for module in model.modules() for store in (module._parameters, module._buffers)
    ]
    weights = [(p, p.data, p.grad, p.requires_grad) for p in model.parameters()]
    whole = [data for p, data, _, _ in weights if not is_shard(p)]
    copies = [x.clone() for x in whole] if sum(x.nbytes for x in whole) <= _COPIED_BYTES else []
    buffers = [(b, b.clone()) for b in model.buffers()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
        reshard(model)
        for store, entries in stores:
            if list(store) != list(entries) or any(store[name] is not entries[name] for name in entries):
                store.clear()
                store.update(entries)
        for shard, values in shards:
            shard.copy_(values)
        for parameter, data, grad, requires_grad in weights:
            if not is_shard(parameter):
                parameter.data = data
            parameter.grad = grad
            parameter.requires_grad_(requires_grad)
        for tensor, values in zip(whole, copies, strict=bool(copies)):
            _set_values(tensor, values)
        for buffer, values in buffers:
            _set_values(buffer, values)


def _set_values(tensor: Tensor, values: Tensor) -> None:
    """Give a tensor these values, in its own storage; nothing is written where it has them."""
    if tensor.shape != values.shape:
        tensor.data = values
    elif not torch.equal(tensor, values):
        tensor.data.copy_(values)


def sampled_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The sampled parameters by name: those with requires_grad, tied ones once.

    Raises:
        InputError: there is none, or they are on several devices or of types that cannot be sampled.
    """
    sampled = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not sampled:
        raise InputError("the model has no parameter to sample", remedy="set requires_grad on those that should move")
    chain_dtype(sampled.values())
    devices = {str(p.device) for p in sampled.values()}
    if len(devices) > 1:
        raise InputError(
            "the model is spread over several devices",
            value=", ".join(sorted(devices)),
            allowed="one, or shards on processes of their own",
            remedy="load it without device_map, or launch more processes and give parameter_parallel",
        )
    return sampled


def chain_dtype(parameters: Iterable[Tensor]) -> torch.dtype:
    """The type of chains around these weights: float64 or float32. Steps would be lost in the rounding of 16 bits.

    Raises:
        InputError: weights of other types, or float64 among others.
    """
    kinds = {p.dtype for p in parameters}
    if kinds == {torch.float64}:
        return torch.float64
    if not kinds <= {torch.float32, torch.bfloat16, torch.float16}:
        raise InputError(
            "parameters cannot be sampled in this type",
            value=", ".join(sorted(str(k) for k in kinds)),
            allowed="all torch.float32 or all torch.float64",
            remedy="use dtype float32, with mixed_precision bf16 for speed",
        )
    return torch.float32


def put(w: Tensor, model: nn.Module) -> None:
    """Make a point `[1, parameter]` the model's weights, a new tensor for each sampled parameter."""
    start = 0
    for parameter in sampled_parameters(model).values():
        values = w[0, start : start + parameter.numel()].to(parameter.device)
        parameter.data = values.view(parameter.shape).clone()
        start += parameter.numel()
