"""What a forward pass must leave alone: a model's weights and buffers, as numbers that are cheap to compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_llc.parallel.sharding import is_shard, local_shard_of, reshard

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_WEIGHTED = 2**20
"""Up to so many elements a sum is weighted by place, so that an exchange of values is seen too."""


def model_state(model: nn.Module) -> dict[str, Any]:
    """A sum over the bits of each weight and buffer, by kind and name.

    Weights also have their identity: a parameter that is replaced by another is no longer the one that is sampled.
    """
    reshard(model)
    caches = {
        f"{prefix}.{name}".lstrip(".") for prefix, m in model.named_modules() for name in m._non_persistent_buffers_set
    }
    state: dict[str, Any] = {}
    for name, p in model.named_parameters():
        state[f"weight {name}"] = (id(p), _bits(local_shard_of(p) if is_shard(p) else p))
    for name, b in model.named_buffers():
        state[f"{'cache' if name in caches else 'buffer'} {name}"] = _bits(b)
    return state


def changed_part(
    before: Mapping[str, Any], settled: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[str, str] | None:
    """(kind, name) of the first weight or buffer that a pass has changed; None if there is none.

    A buffer that is no part of a checkpoint is a cache: it may be filled by the first pass, and has to stay then.

    Args:
        before: the state before any pass.
        settled: after the first.
        after: after the last.
    """
    for key in dict.fromkeys([*before, *after]):
        kind, name = key.split(" ", 1)
        then = settled if kind == "cache" else before
        if then.get(key) != after.get(key):
            return ("buffer" if kind == "cache" else kind), name
    return None


def _bits(tensor: Tensor) -> tuple[int, ...]:
    """The sum of a tensor's elements, read as integers."""
    x = tensor.detach()
    x = torch.view_as_real(x) if x.is_complex() else x
    x = x.contiguous().flatten().view(_INTEGERS[x.element_size()])
    weighted = x.long() * torch.arange(1, len(x) + 1, device=x.device) if len(x) <= _WEIGHTED else x
    return (*tensor.shape, int(weighted.sum(dtype=torch.int64)))
