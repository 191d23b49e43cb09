"""A model's weights: which are sampled, in what type, and how the model is left as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from hf_llc.errors import InputError
from hf_llc.parallel.sharding import is_shard, local_shard_of, reshard


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model in eval mode; at the end restore its weights, buffers, gradients, modes and requires_grad flags."""
    reshard(model)
    shards = [(local_shard_of(p), local_shard_of(p).to("cpu", copy=True)) for p in model.parameters() if is_shard(p)]
    modes = [(module, module.training) for module in model.modules()]
    weights = [(p, p.data, p.grad, p.requires_grad) for p in model.parameters()]
    buffers = [(b, b.clone()) for b in model.buffers()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
        reshard(model)
        for shard, values in shards:
            shard.copy_(values)
        for parameter, data, grad, requires_grad in weights:
            if not is_shard(parameter):
                parameter.data = data
            parameter.grad = grad
            parameter.requires_grad_(requires_grad)
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.data.copy_(value)


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
