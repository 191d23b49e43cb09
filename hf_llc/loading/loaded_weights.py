"""A model's weights just after loading: checked, and kept in 16 bits if that loses nothing."""

from __future__ import annotations

import torch
from torch.nn.parameter import is_lazy

from hf_llc.backend.memory import return_freed_memory
from hf_llc.errors import InputError
from hf_llc.loading.quantization import check_not_quantized
from hf_llc.parallel.sharding import full_tensor_of


def narrow_if_lossless(model: torch.nn.Module) -> None:
    """Keep float32 weights in 16 bits, in place, if their values allow: those of a bfloat16 or float16 checkpoint.

    All weights or none, so that other checkpoints stay of one type. The chains are float32 all the same (see
    `hf_llc.posterior.posterior`); the model then costs two bytes a parameter beside them.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    for dtype in (torch.bfloat16, torch.float16):
        if all(p.dtype == torch.float32 and torch.equal(p.data.to(dtype).float(), p.data) for p in parameters):
            for parameter in parameters:
                parameter.data = parameter.data.to(dtype)
            return_freed_memory()  # large chains come in one piece and could not use the pieces
            return


def check_weights(model: torch.nn.Module) -> None:
    """Check that the weights are plain tensors of finite values in 32 bits or more, which can move.

    Raises:
        InputError: the first that is not so.
    """
    if next(model.parameters(), None) is None:
        check_not_quantized(model)  # where every layer is quantised, there are no parameters
        raise InputError("the model has no weights", value=type(model).__name__)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        _check_values(name, tensor)
    check_not_quantized(model)
    for name, module in model.named_modules():
        if getattr(module, "sparse", False) is True and isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
            raise InputError(
                "a module gives sparse gradients",
                value=f"{name}: {type(module).__name__}(sparse=True)".lstrip(": "),
                remedy="set its sparse to False: the loss is the same",
            )
    for name, parameter in model.named_parameters():
        _check_parameter(name, parameter)


def _check_values(name: str, tensor: torch.Tensor) -> None:
    """Check that a parameter or buffer has values that may be read and moved."""
    if is_lazy(tensor):
        raise InputError(
            "a weight has no values and no shape yet (a lazy module)",
            value=name,
            remedy="run the model once on some inputs first",
        )
    if tensor.is_meta:
        raise InputError("a weight has no values (device meta)", value=name, remedy="load the weights first")
    if tensor.is_inference():
        raise InputError(
            "a weight was made under torch.inference_mode and cannot be differentiated",
            value=name,
            remedy="load the model outside of inference_mode",
        )
    if tensor.layout != torch.strided:
        raise InputError(
            "a weight is a sparse tensor", value=f"{name}: {tensor.layout}", remedy="make it dense (to_dense)"
        )


def _check_parameter(name: str, parameter: torch.nn.Parameter) -> None:
    """Check the type and the values of a parameter."""
    if parameter.is_complex() and parameter.requires_grad:
        raise InputError(
            "a weight is complex: its learning coefficient is not defined here",
            value=f"{name}: {parameter.dtype}",
            allowed="real weights",
            remedy="hold real and imaginary parts as two parameters (torch.view_as_real)",
        )
    if not (parameter.is_floating_point() or parameter.is_complex()):
        raise InputError(
            "a weight is an integer, as in quantised models",
            value=f"{name}: {parameter.dtype}",
            allowed="floating point",
            remedy="load it dequantised",
        )
    if parameter.dtype in (torch.bfloat16, torch.float16):
        raise InputError(
            "parameters cannot be sampled in this type",
            value=str(parameter.dtype),
            allowed="all torch.float32 or all torch.float64 (a step is far below bfloat16's spacing)",
            remedy="use dtype float32, with mixed_precision bf16 for speed",
        )
    if not bool(torch.isfinite(full_tensor_of(parameter.detach())).all()):
        raise InputError("a weight is NaN or infinite", value=name, remedy="use a sound checkpoint")
