"""The setting `weights`: which weights of a model move. And lists of components, each of which is such weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from hf_llc.errors import InputError

WHOLE = "all"
"""The name of all weights."""

MASKS = "masks of"
"""How the name of weights begins that were given as masks or slices."""


def spelled(weights: str) -> str:
    """The expression in one spelling, for one run.

    Raises:
        InputError: a term of it has no name.
    """
    terms = _terms(weights)
    if "" in terms:
        allowed = "all, or names joined by +, each with or without ~"
        raise InputError("weights has a term without a name", value=weights, allowed=allowed)
    return "+".join(terms)


def component_words(components: str) -> list[str]:
    """The words of a list of components, each of which names one or more.

    Raises:
        InputError: a word, or a term of it, has no name.
    """
    words = [" ".join(word.split()) for word in components.split(",")]
    if any("" in _terms(word) for word in words):
        allowed = "heads, layers, partition, names and globs, separated by commas"
        raise InputError("components has a term without a name", value=components, allowed=allowed)
    return words


def _terms(weights: str) -> list[str]:
    """The terms of a sum; "" for one without a name."""
    terms = (term.strip().replace("~ ", "~") for term in " ".join(weights.split()).split("+"))
    return [term if term.strip("~") else "" for term in terms]


def weights_name(weights: str | Mapping[str, Any]) -> str:
    """What a part of the weights is called: the expression for it, or a hash of the masks and slices given."""
    if isinstance(weights, str):
        return weights
    digest = hashlib.sha256()
    for name, where in sorted(weights.items(), key=lambda item: str(item[0])):
        known = (name, where.tolist() if hasattr(where, "tolist") else where)
        digest.update(repr(known).encode())
    return f"{MASKS} {len(weights)} tensors, {digest.hexdigest()[:16]}"
