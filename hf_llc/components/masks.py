"""Sets of weights: by name of the parameter a boolean mask of its shape, or None for all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Masks = Mapping[str, Tensor | None]


def union(sets: Iterable[Masks]) -> dict[str, Tensor | None]:
    """The weights that are in any of the sets."""
    total: dict[str, Tensor | None] = {}
    for masks in sets:
        for name, mask in masks.items():
            known = total.get(name, mask)
            total[name] = None if known is None or mask is None else known | mask
    return {name: None if mask is None or bool(mask.all()) else mask for name, mask in total.items()}


def without(masks: Masks, others: Masks) -> dict[str, Tensor | None]:
    """The weights of `masks` that are not in `others`."""
    left: dict[str, Tensor | None] = {}
    for name, mask in masks.items():
        if name not in others:
            left[name] = mask
            continue
        other = others[name]
        if other is not None:
            rest = ~other if mask is None else mask & ~other
            if bool(rest.any()):
                left[name] = rest
    return left


def overlap(masks: Masks, others: Masks) -> str | None:
    """The first parameter of which both hold some weights; None: the two sets are apart."""
    for name, mask in masks.items():
        if name in others:
            other = others[name]
            if mask is None or other is None or bool((mask & other).any()):
                return name
    return None


def span(shape: torch.Size, axis: int, ranges: Iterable[tuple[int, int]]) -> Tensor:
    """A mask of these ranges along one axis."""
    mask = torch.zeros(shape, dtype=torch.bool)
    for begin, end in ranges:
        mask.narrow(axis, begin, end - begin).fill_(True)
    return mask
