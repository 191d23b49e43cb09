"""`weights=…` → what is sampled of a model's weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from hf_llc.components.catalog import Catalog
from hf_llc.components.masks import Masks, union, without
from hf_llc.errors import InputError
from hf_llc.files import plain_value
from hf_llc.problem import Part
from hf_llc.weights_setting import weights_name

_GLOB = "*?["


def part_of(model: nn.Module, weights: str | Mapping[str, Any]) -> Part | None:
    """The weights that `weights` names; None for "all": the parameters with `requires_grad`.

    Args:
        model: the model.
        weights: a sum `a+b` of components (see `Catalog`), parameters and globs of these, each as it is or as its
            complement `~a`; or a mapping from a parameter's name to True, a boolean mask of its shape, or a slice.

    Raises:
        InputError: they are not there, or there are none.
    """
    if weights == "all":
        return None
    parameters = dict(model.named_parameters())
    if isinstance(weights, str):
        catalog = Catalog(model)
        masks = union(_term(catalog, term.strip()) for term in weights.split("+"))
    else:
        masks = _given(parameters, weights)
    if not masks:
        raise InputError("weights names no weight at all", value=weights_name(weights))
    for name in masks:
        if not parameters[name].is_floating_point():
            raise InputError(f"{name} cannot be sampled", value=str(parameters[name].dtype), allowed="floating point")
    return Part(weights_name(weights), {name: masks[name] for name in parameters if name in masks})


def _term(catalog: Catalog, term: str) -> Masks:
    """The weights of one term of a sum."""
    if term.startswith("~"):
        return without(catalog.everything, _term(catalog, term[1:].strip()))
    if term == "all":
        return catalog.everything
    if term in catalog.parameters:
        return {term: None}
    names = catalog.expand(term)
    if names is not None:
        return union(catalog.masks(name) for name in names)
    if any(char in term for char in _GLOB):
        found: dict[str, Tensor | None] = {name: None for name in catalog.parameters if fnmatchcase(name, term)}
        if found:
            return found
    raise _unknown(catalog, term)


def _unknown(catalog: Catalog, term: str) -> InputError:
    """The refusal of a term that names nothing, with what there is."""
    tied = catalog.tied.get(term)
    if tied is not None:
        return InputError(f"{term} is the same tensor as {tied}", remedy=f"name {tied}")
    inside = next((name for name in catalog.parameters if term and name.startswith(f"{term}.")), None)
    near = difflib.get_close_matches(term, [*catalog.names(), *catalog.parameters], n=1)
    if inside is not None:
        remedy = f"did you mean '{term}.*'?"
    elif "," in term:
        remedy = "join names with +"
    else:
        remedy = f"did you mean {near[0]!r}?" if near else ""
    return InputError("the model has no such weights", value=term, allowed=catalog.summary(), remedy=remedy)


def _given(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Any]) -> Masks:
    """The masks of a mapping; empty ones are left out."""
    masks: dict[str, Tensor | None] = {}
    for name, where in weights.items():
        if name not in parameters:
            near = difflib.get_close_matches(str(name), parameters, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else "see model.named_parameters()"
            raise InputError("the model has no parameter of this name", value=name, remedy=remedy)
        mask = _mask(str(name), where, parameters[name].shape)
        if bool(mask.any()):
            masks[name] = None if bool(mask.all()) else mask
    return masks


def _mask(name: str, where: Any, shape: torch.Size) -> Tensor:
    """A boolean mask of `shape` from a mask, a slice (or number, or tuple of these), True or False."""
    where = plain_value(where)
    if hasattr(where, "shape"):
        mask = torch.as_tensor(where).cpu()
        if mask.dtype != torch.bool or mask.shape != shape:
            raise InputError(
                f"the mask of {name} does not fit",
                value=f"{str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}",
                allowed=f"bool of shape {tuple(shape)}",
            )
        return mask
    if isinstance(where, bool):
        return torch.full(shape, where)
    mask, parts = torch.zeros(shape, dtype=torch.bool), where if isinstance(where, tuple) else (where,)
    try:
        if not all(isinstance(part, slice | int) or part is Ellipsis for part in parts):
            raise TypeError
        mask[where] = True
    except (TypeError, IndexError, ValueError) as error:
        raise InputError(
            f"the index of {name} does not fit its shape",
            value=where,
            allowed=f"True, a boolean mask or a slice of shape {tuple(shape)}",
        ) from error
    return mask
