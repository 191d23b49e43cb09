"""Results made by hand, good and bad, for what shows and keeps them."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np

from hf_llc.estimate import estimate
from hf_llc.result import LLCResult, Trace

NBETA = 1000.0


def fake_trace(*, chains: int = 4, steps: int = 400, llc: float = 40.0, noise: float = 0.3, seed: int = 0) -> Trace:
    """Chains that climb from L_n(w*) = 1.6 by `llc`/nβ within a tenth of the steps, with minibatch noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)
    init = 1.6 + noise * rng.standard_normal((1, steps)).repeat(chains, axis=0)
    climb = llc * (1 - np.exp(-10 * t / max(steps, 2))) * (1 + 0.2 * rng.standard_normal((chains, steps)))
    measured = np.where(t % 20 == 0, 1.0, np.nan)
    return Trace(
        loss=init + climb / NBETA,
        init_loss=init,
        accept_prob=np.clip(0.93 + 0.04 * rng.standard_normal((chains, steps)), 0, 1) * measured,
        sq_distance=rng.random((chains, steps)) * measured,
        grad_dot=np.full((chains, steps), 0.1) * measured,
    )


def fake_result(trace: Trace | None = None, *, trivial_loss: float | None = 6.2, **changed: Any) -> LLCResult:
    """The estimate from `trace`, with made-up settings; `changed` replaces fields afterwards."""
    trace = fake_trace() if trace is None else trace
    chains, steps = trace.shape
    burnin = steps // 2
    found = estimate(
        trace,
        nbeta=NBETA,
        init_loss=1.6,
        localization=100.0,
        step_size=1e-3,
        sampler="sgld",
        num_burnin_steps=burnin,
        num_steps_between_draws=1,
        trivial_loss=trivial_loss,
    )
    values: dict[str, Any] = {item.name: getattr(found, item.name) for item in fields(found)}
    values |= {"trivial_loss": trivial_loss, "unit": "nats per token", "n": 391_425, "nbeta": NBETA}
    values |= {"localization": 100.0, "sampler": "sgld", "step_size": 1e-3, "num_chains": chains}
    values |= {"num_draws": steps - burnin, "num_steps_between_draws": 1, "num_burnin_steps": burnin}
    values |= {"batch_size": 32, "chain_batch_size": 1, "seed": 0, "mixed_precision": "no", "num_gradients": 1680}
    values |= {"wall_seconds": 93.2, "steps_per_second": 17.1, "peak_memory_bytes": 734_003_200}
    values |= {"num_parameters": 260_032, "num_parameters_total": 260_032, "task": "text-generation", "mode": "eval"}
    values |= {"dtype": "float32", "device": "cpu", "num_processes": 1}
    values |= {"model": {"id": "me/tiny", "revision": "0123456789abcdef" * 2 + "01234567", "seed": None}}
    values |= {"data": {"id": "me/text", "split": "validation", "fingerprint": "0f1e2d3c4b5a6978"}}
    values |= {"versions": {"python": "3.11.7", "hf_llc": "0.1.0"}, "trace": trace}
    return LLCResult(**{**values, **changed})


def stopped(trace: Trace, *, chain: int, step: int) -> Trace:
    """`trace` with one chain ended at `step`: NaN from there on."""
    for item in fields(trace):
        getattr(trace, item.name)[chain, step:] = math.nan
    return trace
