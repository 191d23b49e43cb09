"""Quantised models, however they are made: refused, because what would be sampled is not all of their weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from hf_llc.errors import InputError

_REMEDY = "load it dequantised, or give the model that it was made from"
_PACKAGES = (
    *("torchao", "bitsandbytes", "auto_gptq", "gptqmodel", "awq", "hqq", "quanto", "optimum.quanto", "eetq", "aqlm"),
    *("vptq", "compressed_tensors", "torch.ao.nn", "torch.ao.quantization", "torch.nn.quantized", "torch.nn.intrinsic"),
)
"""Packages whose modules hold, or imitate, quantised weights."""
_SHARES = ("weight", "qzeros", "packed")
"""Parts of the names of integer tensors that hold weights."""
_NARROW = (torch.int8, torch.int16, torch.int32)


def check_checkpoint_config(settings: Any, name: str | None) -> None:
    """Check that a checkpoint's config does not say that it is quantised.

    Raises:
        InputError: it does.
    """
    inner = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    for each in (settings, inner):
        found = getattr(each, "quantization_config", None)
        if found:
            method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
            raise _refusal(f"quantization_config ({getattr(method, 'value', method) or 'no method'})", name)


def check_not_quantized(model: torch.nn.Module) -> None:
    """Check that all of a model's weights are floating-point parameters that its forward pass uses as they are.

    Raises:
        InputError: they are not.
    """
    name = type(model).__name__
    for sign in ("is_quantized", "hf_quantizer"):
        if getattr(model, sign, None):
            raise _refusal(sign, name)
    if getattr(model, "config", None) is not None:
        check_checkpoint_config(model.config, name)
    for where, module in model.named_modules():
        package = type(module).__module__
        if package.startswith(tuple(f"{each}." for each in _PACKAGES)) or hasattr(module, "_packed_params"):
            raise _refusal(f"{where or 'the module'}: {type(module).__name__} of {package.split('.')[0]}", name)
    for where, tensor in _tensors(model):
        if _is_wrapped(tensor):
            raise _refusal(f"{where}: {type(tensor).__name__}, a tensor subclass", name)
        if tensor.is_quantized or str(tensor.dtype).startswith(("torch.float8", "torch.float4")):
            raise _refusal(f"{where}: {tensor.dtype}", name)
        if not isinstance(tensor, torch.nn.Parameter) and not tensor.is_meta and _holds_weights(where, tensor):
            raise _refusal(f"{where}: weights in {tensor.dtype}", name)


def _refusal(sign: str, name: str | None) -> InputError:
    return InputError(f"the model is quantised ({sign})", value=name, remedy=_REMEDY)


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers, and tensors that are plain attributes of modules, by name."""
    yield from model.named_parameters()
    yield from model.named_buffers()
    for where, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{where}.{name}".lstrip("."), value


def _is_wrapped(tensor: Tensor) -> bool:
    """Whether operations on the tensor do other things than on its values: torchao's tensors, masked ones."""
    kind = type(tensor)
    if isinstance(tensor, DTensor):
        return False
    usual = (torch.Tensor, torch.nn.Parameter)
    return any(
        all(_hook(kind, name) is not _hook(each, name) for each in usual)
        for name in ("__torch_dispatch__", "__torch_function__")
    )


def _hook(kind: type, name: str) -> Any:
    """What a tensor's class does with operations."""
    hook = getattr(kind, name)
    return getattr(hook, "__func__", hook)


def _holds_weights(name: str, tensor: Tensor) -> bool:
    """Whether an integer tensor is one of weights, not of positions, indices or a mask."""
    if tensor.dtype == torch.bool or tensor.is_floating_point() or tensor.is_complex() or tensor.numel() == 0:
        return False
    is_named = any(part in name.rpartition(".")[2].lower() for part in _SHARES)
    if tensor.dim() < 2 or is_named:  # weights of classes are one row, in whatever type
        return is_named and (tensor.dim() >= 2 or tensor.dtype in (torch.int8, torch.uint8))
    if tensor.dtype == torch.uint8:  # masks are of 0 and 1
        return int(tensor.max()) > 1
    return tensor.dtype in _NARROW and int(tensor.min()) < 0  # indices are not negative
