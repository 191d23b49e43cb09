"""The process's own random numbers: torch's on every device, numpy's and Python's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """The state of each global generator, by name."""
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - it is the global one that is meant
        "random": random.getstate(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["torch.cuda"] = torch.cuda.get_rng_state_all()
    return states


def moved_generators(before: dict[str, Any]) -> list[str]:
    """Names of the generators that are no longer in the states of `before`."""
    now = random_states()
    return [name for name in now if name in before and _plain(now[name]) != _plain(before[name])]


def _plain(state: Any) -> Any:
    """A state as what == compares."""
    if isinstance(state, torch.Tensor):
        return state.numpy().tobytes()
    if isinstance(state, np.ndarray):
        return state.tobytes()
    return [_plain(part) for part in state] if isinstance(state, (tuple, list)) and len(state) < 100 else state


@contextlib.contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Whatever is drawn inside, the global generators go on as before."""
    states = random_states()
    try:
        yield
    finally:
        torch.set_rng_state(states["torch"])
        np.random.set_state(states["numpy"])  # noqa: NPY002
        random.setstate(states["random"])
        if "torch.cuda" in states:
            torch.cuda.set_rng_state_all(states["torch.cuda"])
