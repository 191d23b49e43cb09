"""The clock of the step, memory and GPU benchmarks, and the posterior that all contenders of them sample."""

from __future__ import annotations

import contextlib
import io
import itertools
import time
import warnings
from collections.abc import Callable, Iterator

import torch

NBETA, GAMMA, EPS = 10.0, 1.0, 1e-9
"""nβ, γ and ε: of no consequence for the time of a step, and so small an ε that no loss diverges."""


Runner = Callable[[int], float]
"""Runs that many steps; returns seconds a chain-step."""


def timed(step: Callable[[int], object], chains: int = 1) -> Runner:
    """A runner of `step(t)`, t = 0, 1 … over all its calls; one step is a chain-step of each of the `chains`."""
    counter = itertools.count()

    def run(steps: int) -> float:
        wait()
        begun = time.perf_counter()
        for _ in range(steps):
            step(next(counter))
        wait()
        return (time.perf_counter() - begun) / (steps * chains)

    return run


def wait() -> None:
    """Wait until the GPU, if one is in use, has done its work."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed and no warning shown: the peers have much to say."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
