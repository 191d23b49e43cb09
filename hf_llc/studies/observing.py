"""What studies of observed losses share: how often the chains are looked at, and what a reader sees of a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.judging.covariances import fewest_draws
from hf_llc.problem import Problem

_RECORDS = 50
"""Of each chain, at least, where the chains have as many steps."""

_BEFORE = 8
"""Tokens that stand before a token in its text."""


def observing(sample: SampleConfig, names: Mapping[str, Any], *, level: str, study: str, instead: str) -> SampleConfig:
    """The settings with what is to be observed, often enough for errors.

    Args:
        sample: the settings asked for.
        names: what to observe, as the setting `observe`.
        level: "example" or "token".
        study: that decides what is observed.
        instead: what its user gives in place of `observe`.

    Raises:
        InputError: `observe` is given too, or the chains are too short.
    """
    if sample.observe is not None:
        raise InputError(f"observe is decided by {study}", value=sample.observe, remedy=f"give {instead} instead")
    if level not in ("example", "token"):
        raise InputError("level is unknown", value=level, allowed="example, token")
    kept = sample.num_draws * sample.num_steps_between_draws
    needed = fewest_draws(sample.num_chains)
    if kept < needed:
        raise InputError(
            f"the chains are too short for errors of {study}",
            value=f"{kept} steps",
            allowed=f"{needed} or more",
            remedy="raise num_draws",
        )
    every = min(sample.observe_every, max(1, kept // max(_RECORDS, needed)))
    return replace(sample, observe=dict(names), observe_loss=level, observe_every=every)


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
