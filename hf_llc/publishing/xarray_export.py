"""The chains of a result as an xarray tree and as zarr, with the names and the layout of devinterp 2.

`init_loss (chain, token_pos)`, `sampling_loss (chain, draw, batch, token_pos)`, `loss_NAME (chain, draw, batch_NAME,
token_pos)`, `input_ids_NAME (batch_NAME, token)`; a callable's values have its own name. A draw is a record after
burn-in. Losses of examples are absolute here, in nats; by example they are sums over tokens, and `token_pos` is 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_llc.errors import InputError

if TYPE_CHECKING:
    from hf_llc.records.record import Record

_SAMPLER = ("step_size", "localization", "nbeta", "num_chains", "num_draws", "num_burnin_steps", "batch_size", "seed")


TASKS = ("train", "sources")
"""What commands call the observed examples of the data that are sampled on."""


def to_xarray(result: Record, *, sampling_task: str | None = None) -> Any:
    """An `xarray.DataTree`; needs the extra `hf_llc[xarray]`.

    Args:
        result: with its trace.
        sampling_task: see `named_arrays`.

    Raises:
        InputError: xarray is not installed, the result has no trace, or nothing of that name was observed.
    """
    xarray = _imported("xarray")
    named, steps, of = named_arrays(result, sampling_task=sampling_task)
    tree = xarray.DataTree(xarray.Dataset(named, coords={"step": ("draw", steps)}))
    settings = {name: getattr(result, name) for name in _SAMPLER} | {"sampler": result.sampler}
    about = {
        "config": {"sampler": settings},
        "n": result.n,
        "unit": result.unit,
        "init_loss_of": of,
        "made_by": "hf_llc",
    }
    tree.attrs |= {"metadata": about, "completed": 1}
    return tree


def named_arrays(
    result: Record, *, sampling_task: str | None = None
) -> tuple[dict[str, tuple[Any, np.ndarray]], np.ndarray, str]:
    """The arrays of the tree.

    Args:
        result: with its trace.
        sampling_task: name, in `observe`, of examples of the data that are sampled on. `init_loss` is then the mean
            loss of those at w*, which devinterp's `compute_susceptibilities` takes off theirs along the chains; without
            it, L_n(w*) of all data. None: the first of `TASKS` that was observed.

    Returns:
        Dimensions and values by name; the step of each draw; what `init_loss` is of.

    Raises:
        InputError: the result has no trace, or nothing of that name was observed.
    """
    seen, trace = result.observations, result.trace
    inputs = {} if seen is None else seen.inputs
    if trace is None:
        raise InputError("the result has no trace", remedy="load a folder with trace.safetensors")
    steps = np.arange(trace.shape[1]) if seen is None else seen.steps
    kept = steps >= result.num_burnin_steps
    losses = {} if seen is None else {name: seen.values[name][:, kept] + init for name, init in seen.init.items()}
    widths = [x.shape[3] if x.ndim == 4 else 1 for x in losses.values()]
    width = max(widths, default=1)
    task = next((name for name in TASKS if name in losses), None) if sampling_task is None else sampling_task
    if seen is None or task not in seen.init:
        if sampling_task is not None:
            raise InputError("no losses of that name were observed", value=task, allowed=", ".join(losses) or "none")
        init = result.init_loss
    else:
        init = float(seen.init[task].mean())
    named: dict[str, Any] = {"init_loss": (("chain", "token_pos"), np.full((len(trace.loss), width), init))}
    sampled = np.broadcast_to(trace.loss[:, steps[kept], None, None], (len(trace.loss), int(kept.sum()), 1, width))
    named["sampling_loss"] = ("chain", "draw", "batch", "token_pos"), sampled.copy()
    for name, x in losses.items():
        by_token = x if x.ndim == 4 else x[..., None]
        padded = np.full((*by_token.shape[:3], width), np.nan)
        padded[..., : by_token.shape[3]] = by_token
        named[f"loss_{name}"] = ("chain", "draw", f"batch_{name}", "token_pos"), padded
    for name, x in inputs.items():
        tokens = "token" if len({y.shape[1] for y in inputs.values()}) == 1 else f"token_{name}"
        named[f"input_ids_{name}"] = (f"batch_{name}", tokens), x
    for name, x in {} if seen is None else seen.values.items():
        if name not in losses:
            named[name] = ("chain", "draw", *(f"{name}_{k}" for k in range(x.ndim - 2))), x[:, kept]
    return named, steps[kept], task or "all data"


def to_zarr(result: Record, path: str | Path, *, sampling_task: str | None = None) -> Path:
    """Write the tree of `to_xarray` to a new zarr store; needs the extra `hf_llc[xarray]`.

    Args:
        result: with its trace.
        path: of the store.
        sampling_task: see `named_arrays`.

    Raises:
        InputError: xarray or zarr is not installed, something is at `path`, or the result has no trace.
    """
    tree, path = to_xarray(result, sampling_task=sampling_task), Path(path)
    _imported("zarr")
    if path.exists():
        raise InputError("the path of the zarr store exists already", value=str(path), remedy="give a new path")
    tree.to_zarr(str(path), mode="w-", consolidated=False)
    return path


def _imported(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise InputError(f"{name} is not installed", remedy="pip install 'hf_llc[xarray]'") from error
