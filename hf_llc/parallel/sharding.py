"""Weights split over processes by torch's FSDP2: how a model is split, and what a process holds of it."""

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
    """Whether this process holds but a part of it."""
    return isinstance(tensor, DTensor)


def local_shard_of(tensor: Tensor) -> Tensor:
    """The part that this process holds; what is written into it is the model's."""
    found = tensor.detach()
    assert isinstance(found, DTensor)
    return found.to_local()


def full_tensor_of(tensor: Tensor) -> Tensor:
    """All of it. All processes that hold a part must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def hash_of(tensors: Iterable[Tensor]) -> str:
    """A hash of the values, 16 hexadecimal digits, however they are split. All processes that hold a part must ask."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(full_tensor_of(tensor.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def module_of(model: Any) -> nn.Module | None:
    """The module itself, or that of a pipeline; None: there is only a name as yet."""
    inner = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    return inner if isinstance(inner, nn.Module) else None


def is_sharded(model: Any) -> bool:
    """Whether what was given to be measured is split over processes."""
    module = module_of(model)
    return module is not None and any(is_shard(p) for p in module.parameters())


def reshard(model: nn.Module) -> None:
    """Give back the weights that a forward pass has gathered, so that those held here are the model's again."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def mesh_of(model: nn.Module) -> DeviceMesh | None:
    """The processes over which a model is split; None: it is whole.

    Raises:
        InputError: split in another way than `fully_shard` over one group of processes does it.
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
        raise InputError("a weight is not split as the others", value=f"{name}: {how}", allowed=allowed)
    return mesh


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Split a model over the processes of a mesh, block by block as accelerate does, and move it to their devices.

    A block (`_no_split_modules` of transformers) is gathered as a whole when it is its turn; what is in none is
    gathered once, for the whole pass.

    Raises:
        InputError: it cannot be split.
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
