"""Metrics for `evaluate`, each a folder that is also a Space of the Hub, and the function that they compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_llc.errors import InputError
from hf_llc.files import plain_value

if TYPE_CHECKING:
    from hf_llc.records.findings import Estimate

Array = np.ndarray
Losses = Array | Sequence[Sequence[float]]
"""`[chain][draw]`."""


def metric_path() -> str:
    """Folder of the `llc` metric: `evaluate.load(hf_llc.metric_path())` needs no network."""
    return str(Path(__file__).parent / "llc")


def checked_losses(losses: Any, init_losses: Any) -> tuple[list[Array], list[Any]]:
    """Losses and references as numbers, row by row. The name and the arguments are stable, as below.

    Args:
        losses: of the draws, `[chain][draw]`: lists, arrays or tensors.
        init_losses: one number a chain, or `[chain][draw]`.

    Returns:
        A float64 array for each chain, and for each its reference: a number or an array.

    Raises:
        InputError: they are missing, of other shapes, not numbers, or a reference is not finite.
    """
    rows = _rows("predictions", losses, "a list of losses for each chain, [chain][draw]")
    if not rows:
        raise InputError("predictions hold no chain", allowed="[chain][draw]")
    for number, row in enumerate(rows):
        if row.ndim != 1:
            raise InputError(
                "predictions are not a table of losses",
                value=f"chain {number} of shape {row.shape}",
                allowed="[chain][draw]",
                remedy="give [losses] for a single chain" if row.ndim == 0 else "",
            )
        if not len(row):
            raise InputError("a chain has no draws", value=f"chain {number}", allowed="one draw or more for each chain")
    references = _rows("references", init_losses, "one number for each chain, or [chain][draw]")
    if len(references) != len(rows):
        allowed = f"{len(rows)}, one for each chain"
        raise InputError("there are not as many references as chains", value=len(references), allowed=allowed)
    if len({row.ndim for row in references}) > 1 or references[0].ndim > 1:
        raise InputError("references have the wrong form", allowed="one number for each chain, or [chain][draw]")
    for number, (reference, row) in enumerate(zip(references, rows, strict=True)):
        is_drawn = np.isfinite(row) if reference.shape == row.shape else True  # a chain that diverged has neither
        if not np.all(np.isfinite(reference) | ~np.asarray(is_drawn)):
            raise InputError("a reference is not a finite number", value=f"chain {number}", allowed="L_n(w*), in nats")
    return rows, [reference if reference.ndim else float(reference) for reference in references]


def _rows(name: str, values: Any, allowed: str) -> list[Array]:
    """The rows of a table, each a float64 array of its own shape."""
    if values is None:
        raise InputError(f"{name} are missing", allowed=allowed)
    try:
        rows = [np.asarray(_on_host(row)) for row in _on_host(values)]
        if not all(row.dtype.kind in "fiu" for row in rows):
            raise TypeError("texts, None, …")
    except (TypeError, ValueError) as error:  # a scalar, ragged rows
        raise InputError(f"{name} are not numbers in a table", value=values, allowed=allowed) from error
    return [row.astype(np.float64) for row in rows]


def _on_host(values: Any) -> Any:
    """A tensor as an array; anything else as it is."""
    return values.detach().cpu().double().numpy() if hasattr(values, "detach") else values


def _number(name: str, value: Any, *, whole: bool = False) -> Any:
    """A setting as a plain number."""
    value = plain_value(value)
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        raise InputError(f"{name} is not a number", value=value, allowed="a whole number" if whole else "a number")
    return value


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
        InputError: a setting is missing or out of range, losses are missing or no numbers, or the chains differ in
            length.
    """
    from hf_llc.judging.estimator import estimate
    from hf_llc.records.trace import Trace

    nbeta = None if nbeta is None else _number("nbeta", nbeta)
    if nbeta is None or not nbeta > 0:
        raise InputError("nbeta is missing or out of range", value=nbeta, allowed="a number above 0, e.g. n / ln n")
    burnin = _number("burnin", burnin, whole=True)
    num_steps_between_draws = _number("num_steps_between_draws", num_steps_between_draws, whole=True)
    trivial_loss = None if trivial_loss is None else _number("trivial_loss", trivial_loss)
    rows, init_losses = checked_losses(losses, init_losses)
    lengths = sorted({len(chain) for chain in rows})
    if len(lengths) > 1:
        raise InputError(
            "the chains differ in length", value=lengths, remedy="give the same number of draws for each chain"
        )
    if not 0 <= burnin < lengths[0]:
        raise InputError("burnin is out of range", value=burnin, allowed=f"0 … {lengths[0] - 1}")
    kept = lengths[0] - burnin
    if not 1 <= num_steps_between_draws <= kept:
        allowed = f"1 … {kept}"
        raise InputError("num_steps_between_draws is out of range", value=num_steps_between_draws, allowed=allowed)
    loss = np.stack(rows)
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
            allowed=f"{num_draws} for each chain, or one number for each chain",
        )
    return np.array(init_losses, dtype=np.float64)
