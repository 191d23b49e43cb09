"""Sampling a part of the weights (refined LLC, arXiv 2410.02984): the others stay where they are.

Whatever is sampled is a parameter with `requires_grad`. A part of a tensor W becomes a small parameter v of its own:
the module then reads W with v in its place, and the gradient that reaches v has the size of v. So state, noise and
gradients exist for the part alone, and everything above this file works as it does for whole models. Autograd makes no
gradient of weights that do not require one, and stops below the first module that holds some that do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from hf_llc.errors import InputError
from hf_llc.parallel.sharding import is_sharded
from hf_llc.posterior.weights import chain_dtype
from hf_llc.problem import Part

_SUFFIX = "__part"


@contextlib.contextmanager
def restricted(model: nn.Module, part: Part | None) -> Iterator[None]:
    """Within, `part` is all that is sampled of the model; None: the parameters with `requires_grad`.

    Use it inside `preserved`, which puts flags, types and values back.

    Raises:
        InputError: the part cuts a tensor that this model does not read as an attribute, or that is sharded.
    """
    if part is None:
        yield
        return
    parameters = dict(model.named_parameters())
    _check_cuts(model, part)
    dtype = chain_dtype(parameters[name] for name in part.masks)
    for parameter in parameters.values():
        parameter.requires_grad_(False)
        if parameter.is_floating_point() and parameter.dtype != dtype and not is_sharded(model):
            parameter.data = parameter.data.to(dtype)  # chains are in this type, and layers take one
    with contextlib.ExitStack() as kept:
        for name, mask in part.masks.items():
            if mask is None:
                parameters[name].requires_grad_()
            else:
                kept.enter_context(_spliced(model, parameters[name], mask))
        yield


def _check_cuts(model: nn.Module, part: Part) -> None:
    """Refuse a cut through a tensor that cannot be spliced."""
    cut = next((name for name, mask in part.masks.items() if mask is not None), None)
    if cut is None:
        return
    if is_sharded(model):
        raise InputError(
            f"weights {part.name!r} cuts {cut}, which is sharded over processes",
            remedy="take whole tensors, or leave out parameter_parallel",
        )
    for path, module in model.named_modules():
        if isinstance(module, nn.RNNBase):  # it keeps a list of its weights
            inside = [name for name, mask in part.masks.items() if mask is not None and name.startswith(f"{path}.")]
            if inside:
                raise InputError(f"weights cuts {inside[0]} of an {type(module).__name__}", remedy="take whole tensors")


@contextlib.contextmanager
def _spliced(model: nn.Module, whole: nn.Parameter, mask: Tensor) -> Iterator[None]:
    """Within, every module that holds `whole` reads it with a new parameter in the places of `mask`."""
    index = mask.to(whole.device).flatten().nonzero()[:, 0]
    values = nn.Parameter(whole.detach().flatten()[index])
    places = [(module, name) for module in model.modules() for name, p in module._parameters.items() if p is whole]
    classes = [(module, type(module)) for module, _ in places]
    for module, name in places:
        module.register_parameter(name + _SUFFIX, values)
        kind = type(module)
        module.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, name: _property(name, index)})
    try:
        yield
    finally:
        for module, kind in reversed(classes):
            module.__class__ = kind
        for module, name in places:
            del module._parameters[name + _SUFFIX]


def _property(name: str, index: Tensor) -> property:
    """W with v in the places `index` of the flat tensor."""

    def read(module: nn.Module) -> Tensor:
        whole, values = module._parameters[name], module._parameters[name + _SUFFIX]
        assert whole is not None and values is not None
        return whole.detach().flatten().index_copy(0, index, values).view(whole.shape)

    return property(read)


def num_parameters_of(model: nn.Module) -> int:
    """All parameters of a model, whether restricted or not."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.endswith(_SUFFIX))


def whole_weights(model: nn.Module) -> Iterator[Tensor]:
    """The values of `model.parameters()`, with what is sampled of a tensor in its place."""
    for name, parameter in model.named_parameters():
        if not name.endswith(_SUFFIX):
            path, _, leaf = name.rpartition(".")
            module = model.get_submodule(path)
            yield getattr(module, leaf) if leaf + _SUFFIX in module._parameters else parameter
