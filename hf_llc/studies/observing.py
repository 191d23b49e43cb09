"""What a reader of a study of observed losses sees of an example or a token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_llc.errors import InputError
from hf_llc.problem import Problem

_BEFORE = 8
"""Tokens that stand before a token in its text."""


def check_level(level: str, problem: Problem) -> None:
    """Refuse losses by token of a model whose examples have one loss.

    Raises:
        InputError: it is one.
    """
    if level == "token" and problem.token_losses is None:
        remedy = "give the level example"
        raise InputError("level is token, but an example has one loss", value=problem.task, remedy=remedy)


def texts_of(problem: Problem, init: np.ndarray, ids: np.ndarray | None) -> Sequence[str]:
    """What a reader sees of each example, or of each token with some before it."""
    decode = getattr(problem.processor, "decode", None)
    if ids is None or decode is None:
        return [f"example {', position '.join(map(str, place))}" for place in np.ndindex(init.shape)]
    if init.ndim == 1:
        return [decode(row.tolist(), skip_special_tokens=True) for row in ids]
    shift = ids.shape[1] - init.shape[1]  # a decoder's loss at p is of token p + 1
    return [
        f"{decode(row[max(0, p + shift - _BEFORE) : p + shift].tolist())} ⟦{decode([int(row[p + shift])])}⟧"
        for row in ids
        for p in range(init.shape[1])
    ]


def pieces_of(problem: Problem, init: np.ndarray, ids: np.ndarray | None) -> list[str]:
    """The token of each loss alone, with the blank before it; of losses by example, the example."""
    decode = getattr(problem.processor, "decode", None)
    if init.ndim == 1 or ids is None or decode is None:
        return list(texts_of(problem, init, ids))
    shift = ids.shape[1] - init.shape[1]
    known = {token: decode([token, token])[len(decode([token])) :] for token in np.unique(ids).tolist()}
    return [known[token] for row in ids[:, shift:].tolist() for token in row]
