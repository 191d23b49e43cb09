"""Results: what is saved is what is loaded, what is printed says all, and the picture can always be drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_llc.errors import InputError
from hf_llc.judging.estimator import estimate
from hf_llc.publishing.formatting import with_error
from hf_llc.publishing.report import render
from hf_llc.publishing.trace_plot import moving_mean, plot_trace
from hf_llc.records.findings import Reason
from hf_llc.records.trace import Trace
from hf_llc.result import LLCResult

NBETA = 500.0


def make_trace(chains: int = 4, steps: int = 600, *, llc: float = 12.0, seed: int = 0) -> Trace:
    """Chains that fall into a flat trace at `llc`, with noisy minibatches and acceptance at every 20th step."""
    noise = np.random.default_rng(seed)
    init = 2.0 + 0.05 * noise.standard_normal((chains, steps))
    arrived = 1 - np.exp(-np.arange(steps) / max(steps / 12, 1))
    loss = init + llc / NBETA * arrived + 0.01 * noise.standard_normal((chains, steps))
    sparse = np.full((chains, steps), np.nan)
    accept, distance, dot = sparse.copy(), sparse.copy(), sparse.copy()
    shape = accept[:, ::20].shape
    accept[:, ::20] = np.clip(0.93 + 0.03 * noise.standard_normal(shape), 0, 1)
    distance[:, ::20] = 0.3 + 0.01 * noise.standard_normal(shape)
    dot[:, ::20] = 10 + noise.standard_normal(shape)
    return Trace(loss=loss, init_loss=init, accept_prob=accept, sq_distance=distance, grad_dot=dot)


def make_result(source: Trace | None = None, **changes: Any) -> LLCResult:
    """The estimate from `source` with settings around it."""
    trace = make_trace() if source is None else source
    steps = trace.shape[1]
    burnin = steps // 2
    with np.errstate(all="ignore"):
        found = estimate(
            trace,
            nbeta=NBETA,
            init_loss=2.0,
            localization=100.0,
            step_size=1e-4,
            sampler="sgld",
            num_burnin_steps=burnin,
            num_steps_between_draws=1,
            trivial_loss=5.5,
        )
    values: dict[str, Any] = {
        **vars(found),
        "trivial_loss": 5.5,
        "unit": "nats per token",
        "n": 12345,
        "nbeta": NBETA,
        "localization": 100.0,
        "friction": None,
        "gradient": "plain",
        "sampler": "sgld",
        "step_size": 1e-4,
        "num_chains": trace.shape[0],
        "num_draws": steps - burnin,
        "num_steps_between_draws": 1,
        "num_burnin_steps": burnin,
        "batch_size": 32,
        "chain_batch_size": 1,
        "seed": 0,
        "mixed_precision": "no",
        "num_gradients": 2460,
        "wall_seconds": 12.3,
        "steps_per_second": 195.0,
        "peak_memory_bytes": 300 * 2**20,
        "num_parameters": 260032,
        "num_parameters_total": 260032,
        "task": "text-generation",
        "mode": "eval",
        "dtype": "float32",
        "device": "cpu",
        "num_processes": 1,
        "model": {"id": "some/model", "revision": "0" * 40},
        "data": {"id": "some/data", "split": "validation", "fingerprint": "f" * 16},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "minimize": {"steps": 2000, "loss_before": 2.1, "loss_after": 2.0, "distance": 3.2, "relative_distance": 0.1},
        "calibration": {"step_size": 1e-4, "num_gradients": 60},
        "trace": trace,
    }
    return LLCResult(**{**values, **changes})


def test_dictionary_round_trip() -> None:
    result = make_result()
    assert LLCResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_save_and_load(tmp_path: Path) -> None:
    result = make_result()
    result.save(tmp_path / "run")
    names = ["card.md", "result.json", "trace.png", "trace.safetensors"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == names
    for place in (tmp_path / "run", tmp_path / "run" / "result.json"):
        loaded = LLCResult.load(place)
        assert loaded == result
        assert loaded.trace is not None
        assert result.trace is not None
        for name in vars(result.trace):
            np.testing.assert_array_equal(getattr(loaded.trace, name), getattr(result.trace, name))


def test_nan_becomes_null_and_comes_back(tmp_path: Path) -> None:
    result = make_result(llc=math.nan, llc_per_chain=[1.0, math.nan], trace=None)
    result.save(tmp_path)
    assert "NaN" not in (tmp_path / "result.json").read_text()
    loaded = LLCResult.load(tmp_path)
    assert math.isnan(loaded.llc)
    assert math.isnan(loaded.llc_per_chain[1])


@pytest.mark.parametrize("text", ["{", "[1]", "null", '{"schema_version": 99}', '{"schema_version": 1}'])
def test_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError):
        LLCResult.load(tmp_path)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (12.3456, 0.5678, "12.35 ± 0.57"),
        (1234.5, 12.3, "1234 ± 12"),
        (-0.0314, 0.0996, "-0.03 ± 0.10"),
        (-0.5, 0.0996, "-0.50 ± 0.10"),
        (123456.0, 2345.0, "123500 ± 2300"),
        (2.5e-5, 1e-6, "(2.50 ± 0.10)·10^-5"),
        (3.21e8, 1.5e7, "(3.21 ± 0.15)·10^8"),
        (math.nan, 1.0, "not a number"),
        (1.5, math.nan, "1.5 (standard error unknown)"),
        (1.5, 0.0, "1.5 ± 0"),
    ],
)
def test_error_has_two_digits(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text


def test_print_says_all() -> None:
    reasons = [
        Reason("drifting", "λ̂ has moved by a lot " * 12, "raise num_burnin_steps"),
        Reason("one chain", "only one", is_note=True),
    ]
    text = render(make_result(verdict="drifting", reasons=reasons))
    assert text == str(make_result(verdict="drifting", reasons=reasons))
    for part in ("drifting", "→ raise num_burnin_steps", "note", "r̂", "ESS", "acceptance", "trivial predictor 5.5"):
        assert part in text
    for part in (
        "nβ 500",
        "γ 100",
        "ε 0.0001",
        "4 × 300 draws",
        "300 steps of burn-in",
        "batch 32",
        "12,345",
        "some/model",
    ):
        assert part in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_print_survives_missing_numbers() -> None:
    bare = make_result(
        llc=math.nan,
        llc_se=math.nan,
        r_hat=math.nan,
        trivial_loss=None,
        plateau={},
        localization_sensitivity={},
        minimize=None,
        model={},
        data={},
        trace=None,
        llc_per_chain=[math.nan] * 100,
    )
    assert "not a number" in render(bare)


def is_picture(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 10_000


@pytest.mark.parametrize(("chains", "steps"), [(1, 2), (1, 30), (4, 600), (100, 50), (2, 9000)])
def test_picture(tmp_path: Path, chains: int, steps: int) -> None:
    path = tmp_path / "picture.tmp"
    plot_trace(make_result(make_trace(chains, steps)), path)
    assert is_picture(path)


@pytest.mark.parametrize("fault", ["nan tail", "all nan", "huge", "infinite", "equal", "no acceptance"])
def test_picture_of_a_bad_run(tmp_path: Path, fault: str) -> None:
    trace = make_trace(3, 200)
    if fault == "nan tail":
        trace.loss[1, 120:] = np.nan
    elif fault == "all nan":
        trace.loss[:] = np.nan
    elif fault == "huge":
        trace.loss[0] *= np.logspace(0, 30, 200)
    elif fault == "infinite":
        trace.loss[2, 150:] = np.inf
    elif fault == "equal":
        trace.loss[:] = trace.init_loss[:] = 2.0
    else:
        trace.accept_prob[:] = np.nan
    path = tmp_path / "picture.png"
    plot_trace(make_result(trace), path)
    assert is_picture(path)


def test_picture_needs_a_trace(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no trace"):
        plot_trace(make_result(trace=None), tmp_path / "x.png")


def test_moving_mean_steps_over_gaps() -> None:
    mean = moving_mean(np.array([[1.0, np.nan, 3.0, 5.0]]), 2)
    np.testing.assert_array_equal(mean, [[1.0, np.nan, 3.0, 4.0]])
