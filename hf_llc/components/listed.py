"""Lists of components: which a text means, and whether they are a partition of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_llc.components.catalog import Catalog
from hf_llc.components.masks import Masks, overlap, union, without
from hf_llc.components.part_of import part_of
from hf_llc.errors import InputError
from hf_llc.weights_setting import WHOLE, component_words

_SETS = {"heads": "l*h*", "layers": "l*"}
"""Words for globs. "partition" is a word too."""


def components_named(model: Any, components: str) -> list[str]:
    """The components that a list of words, names and globs means, in order, each once.

    A glob means each of those that match it; a sum `a+b` and a complement `~a` are one component.

    Raises:
        InputError: one of them is not there.
    """
    catalog = Catalog(model)
    names: list[str] = []
    for word in component_words(components):
        term = _SETS.get(word, word)
        if word == "partition":
            names += catalog.partition()
        elif "+" not in term and not term.startswith("~") and (expanded := catalog.expand(term)) is not None:
            names += expanded
        else:
            part = part_of(model, term)
            is_glob = part is not None and term not in catalog.parameters and "+" not in term and "~" not in term
            names += list(part.masks) if part is not None and is_glob else [term]
    names = [name for name in dict.fromkeys(names) if name != WHOLE]  # which is measured anyway
    if not names:
        raise InputError("no component is named", value=components, allowed=catalog.summary())
    for name in names:
        part_of(model, name)
    return names


def check_partition(model: Any, names: Sequence[str], *, is_asked: bool) -> bool:
    """Whether the components share no weight and leave none out; with `is_asked`, refuse them if not.

    Raises:
        InputError: they are no partition.
    """
    catalog, seen, owners = Catalog(model), dict[str, Any](), dict[str, list[tuple[str, Masks]]]()
    for name in names:
        part = part_of(model, name)
        assert part is not None
        where = overlap(part.masks, seen)
        if where is not None:
            if not is_asked:
                return False
            other = next(n for n, masks in owners[where] if overlap({where: part.masks[where]}, masks))
            raise InputError(
                f"{name} overlaps {other}", value=where, remedy="leave one out, or do not ask for a partition"
            )
        seen = union([seen, part.masks])
        for key in part.masks:
            owners.setdefault(key, []).append((name, part.masks))
    left = without(catalog.everything, seen)
    if left and is_asked:
        raise InputError(
            f"the components leave out {len(left)} tensors",
            value=next(iter(left)),
            remedy="take --components partition",
        )
    return not left
