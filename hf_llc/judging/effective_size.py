"""How many independent draws chains amount to. Arrays only."""

from __future__ import annotations

import numpy as np
from arviz_stats.base import array_stats

Array = np.ndarray

_BLOCKS, _OSCILLATES, _FEWEST_BLOCKS = (2, 4), 1.15, 25
"""Draws averaged to see whether they oscillate; by what that must widen the error; and the fewest blocks of a chain.

Geyer's sequence, by which the ESS is counted, takes correlations for falling. Momentum makes losses oscillate: their
correlation falls to zero and rises again, and errors were a third too small (isotropic quadratics, friction 0.05)."""


def block_means(values: Array, size: int) -> Array:
    """Means over `size` consecutive steps, `[chain, step]` → `[chain, step // size]`.

    Steps at the beginning that do not fill a block are dropped.
    """
    count = values.shape[1] // size
    return values[:, values.shape[1] - count * size :].reshape(len(values), count, size).mean(axis=2)


def ess(draws: Array) -> float:
    """Effective sample size of the mean (Vehtari et al. 2021); 0 for constant, non-finite or fewer than 4 draws.

    Where averages of two or four successive draws tell of a clearly larger error of the mean, theirs counts.
    """
    size = _monotone_ess(draws)
    if size <= 0:
        return size
    spread = float(draws.var(ddof=1))
    least = size
    for count in _BLOCKS:
        blocks = block_means(draws, count)
        of_blocks = _monotone_ess(blocks) if blocks.shape[1] >= _FEWEST_BLOCKS else 0.0
        if of_blocks > 0:
            least = min(least, of_blocks * spread / float(blocks.var(ddof=1)))
    return least if size > _OSCILLATES**2 * least else size


def _monotone_ess(draws: Array) -> float:
    if draws.shape[1] < 4 or not np.isfinite(draws).all() or np.ptp(draws) == 0:
        return 0.0
    return float(np.asarray(array_stats.ess(draws, chain_axis=0, draw_axis=1, method="mean")))
