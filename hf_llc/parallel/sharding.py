"""Weights sharded over processes by torch's FSDP2: how a model is sharded, and the shard that a process holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Shard

from hf_llc.errors import InputError


def is_shard(tensor: Tensor) -> bool:
    """Whether this process holds only a shard of it."""
    return isinstance(tensor, DTensor)


def local_shard_of(tensor: Tensor) -> Tensor:
    """The shard that this process holds: a view of the model's own storage."""
    sharded = tensor.detach()
    assert isinstance(sharded, DTensor)
    return sharded.to_local()


def full_tensor_of(tensor: Tensor) -> Tensor:
    """The full tensor. All processes that hold a shard must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def hash_of(tensors: Iterable[Tensor]) -> str:
    """A hash of the full tensors, 16 hexadecimal digits. All processes that hold a shard must ask."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(full_tensor_of(tensor.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def module_of(model: Any) -> nn.Module | None:
    """The given module or that of a pipeline; None if only a name was given."""
    inner = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    return inner if isinstance(inner, nn.Module) else None


def is_sharded(model: Any) -> bool:
    """Whether the given module (or pipeline) is sharded over processes."""
    module = module_of(model)
    return module is not None and any(is_shard(p) for p in module.parameters())


def reshard(model: nn.Module) -> None:
    """Free the full weights that a forward pass has gathered, so that the model has its shards again."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def mesh_of(model: nn.Module) -> DeviceMesh | None:
    """The processes over which a model is sharded; None if it is not.

    Raises:
        InputError: it is sharded otherwise than by `fully_shard` over one group of processes.
    """
    allowed = "torch.distributed.fsdp.fully_shard (FSDP2) over one group of processes, along the first axis"
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise InputError("the model is wrapped by FSDP1", value=type(model).__name__, allowed=allowed)
    reshard(model)
    parameters = dict(model.named_parameters())
    meshes = {p.device_mesh for p in parameters.values() if isinstance(p, DTensor)}
    if not meshes:
        return None
    mesh = next(iter(meshes))
    for name, p in parameters.items():
        if not isinstance(p, DTensor):
            how = "not split"
        elif p.device_mesh != mesh or mesh.ndim != 1:
            how = f"on {p.device_mesh}"
        elif tuple(p.placements) != (Shard(0),):
            how = f"split as {tuple(p.placements)}"
        elif local_shard_of(p).device.type != mesh.device_type:
            how = f"offloaded to {local_shard_of(p).device}"
        else:
            continue
        raise InputError("a weight is split in another way than the others", value=f"{name}: {how}", allowed=allowed)
    return mesh


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a model over the processes of a mesh, block by block as accelerate does, and move it to their devices.

    A forward or backward pass gathers a block (`_no_split_modules` of transformers) when it comes to it. Weights in no
    block are gathered once for the pass.

    Raises:
        InputError: it cannot be sharded.
    """
    blocks = set(getattr(model, "_no_split_modules", None) or ())
    try:
        for module in reversed(list(model.modules())):
            if type(module).__name__ in blocks and module is not model:
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
    except (ValueError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(
            "the model cannot be split over processes",
            value=" ".join(str(error).split())[:200],
            remedy="leave parameter_parallel out",
        ) from error
