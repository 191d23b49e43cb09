"""Metrics for `evaluate`, each a folder that is also a Space of the Hub, and the function that they compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_llc.errors import InputError

if TYPE_CHECKING:
    from hf_llc.records.findings import Estimate

Array = np.ndarray
Losses = Array | Sequence[Sequence[float]]
"""`[chain][draw]`."""


def metric_path() -> str:
    """Folder of the `llc` metric: `evaluate.load(hf_llc.metric_path())` needs no network."""
    return str(Path(__file__).parent / "llc")


def estimate_from_losses(
    losses: Losses,
    init_losses: Losses | Sequence[float],
    *,
    nbeta: float | None,
    burnin: int = 0,
    num_steps_between_draws: int = 1,
    trivial_loss: float | None = None,
) -> Estimate:
    """λ̂ = nβ·mean[L(w) − L(w*)] of losses that a sampler has left behind, with its error and a verdict.

    This name, its arguments and the fields `llc`, `llc_se`, `r_hat`, `ess` and `verdict` of what it returns are stable:
    published copies of the metric call it, whatever version of hf_llc is installed beside them.

    Args:
        losses: of the draws, `[chain][draw]`, in nats an example (or a token).
        init_losses: L_n(w*), one number a chain; or the loss at w* on the minibatch of each draw, `[chain][draw]`.
        nbeta: inverse temperature times n.
        burnin: draws dropped at the start of each chain.
        num_steps_between_draws: losses averaged into one draw.
        trivial_loss: L_n of the best constant predictor; with it the verdict sees a model that has been destroyed.

    Returns:
        The estimate. What needs more than losses is NaN in it, and checks that need it are not made.

    Raises:
        InputError: a setting is missing or out of range, or the chains differ in length.
    """
    from hf_llc.judging.estimator import estimate
    from hf_llc.records.trace import Trace

    if nbeta is None or not nbeta > 0:
        raise InputError("nbeta is missing or out of range", value=nbeta, allowed="a number above 0, e.g. n / ln n")
    lengths = sorted({len(chain) for chain in losses})
    if len(lengths) > 1:
        raise InputError("the chains differ in length", value=lengths, remedy="give as many draws of each")
    if not 0 <= burnin < lengths[0]:
        raise InputError("burnin is out of range", value=burnin, allowed=f"0 … {lengths[0] - 1}")
    kept = lengths[0] - burnin
    if not 1 <= num_steps_between_draws <= kept:
        allowed = f"1 … {kept}"
        raise InputError("num_steps_between_draws is out of range", value=num_steps_between_draws, allowed=allowed)
    loss = np.array(losses, dtype=np.float64)
    init_loss = _paired(init_losses, loss.shape[1])
    unknown = np.full(loss.shape, np.nan)
    return estimate(
        Trace(loss=loss, init_loss=init_loss, accept_prob=unknown, sq_distance=unknown, grad_dot=unknown),
        nbeta=nbeta,
        init_loss=float(init_loss.mean()),
        localization=float("nan"),
        step_size=float("nan"),
        is_exact=False,
        num_burnin_steps=burnin,
        num_steps_between_draws=num_steps_between_draws,
        trivial_loss=trivial_loss,
    )


def _paired(init_losses: Losses | Sequence[float], num_draws: int) -> Array:
    """The loss at w* beside each draw, float64 `[chain, draw]`."""
    if np.ndim(init_losses[0]) == 0:
        return np.repeat(np.array(init_losses, dtype=np.float64)[:, None], num_draws, axis=1)
    lengths = [len(row) for row in init_losses]  # type: ignore[arg-type]
    if any(length != num_draws for length in lengths):
        raise InputError(
            "paired references differ in length from the draws",
            value=lengths,
            allowed=f"{num_draws} a chain, or one number a chain",
        )
    return np.array(init_losses, dtype=np.float64)
