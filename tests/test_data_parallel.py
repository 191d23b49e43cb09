"""One chain's minibatch split over processes: the steps of one process, to rounding."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from forked import ROOT, Program
from launch import assert_equal, worker, workers

from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.parallel.group import Group
from hf_llc.parallel.processes import Processes, alone
from hf_llc.result import LLCResult

CASES: dict[str, dict[str, object]] = {
    "uneven shares": {"batch_size": 7},
    "shares without an example": {"batch_size": 3, "chain_batch_size": 3, "sampler": "leimkuhler-matthews"},
    "control variates, micro-batches": {
        "sampler": "baoab", "gradient": "control-variate", "adapt_step_size": True, "num_burnin_steps": 60,
        "micro_batch_size": 3,
    },
    "full batches, Metropolis": {"sampler": "mala", "batch_size": "full"},
    "everything automatic": {
        "step_size": "auto", "num_burnin_steps": "auto", "minimize": True, "minimize_steps": 50, "max_steps": 200,
        "num_draws": 40,
    },
    "a measurement that all take part in": {"batch_size": 7, "chain_batch_size": "auto"},
    "an acceptance to calibrate by": {"sampler": "sgld", "step_size": "auto", "compile": False},
}  # fmt: skip

LAUNCHES: dict[tuple[int, int], list[str]] = {
    (2, 2): list(CASES),
    (4, 2): ["uneven shares", "everything automatic", "a measurement that all take part in"],
    (4, 4): ["uneven shares", "shares without an example"],
}
"""Processes, and how many of them are a group → cases. Two groups share chains and decisions; four shares of three
examples leave one process without. All else is the same in every group, so one group of two shows it."""


def assert_close(one: LLCResult, other: LLCResult, case: str) -> None:
    """Equal to rounding, for as long as these chains do not amplify it."""
    assert one.trace is not None and other.trace is not None
    for name, tolerance in (("loss", 1e-4), ("init_loss", 1e-9), ("accept_prob", 1e-2), ("sq_distance", 1e-4),
                            ("heat", 1e-2), ("kinetic_temperature", 1e-3)):  # fmt: skip
        a, b = (getattr(result.trace, name)[:, :100] for result in (one, other))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-9, err_msg=f"{case}: {name}")
    assert one.step_size == pytest.approx(other.step_size, rel=1e-2), case
    assert one.llc == pytest.approx(other.llc, rel=1e-2), case


@pytest.mark.slow
def test_a_split_batch_is_the_batch(tmp_path: Path) -> None:
    """Two processes, four, and two groups of two take the steps of one: chains, minimizer, calibration, diagnostics.

    What a group does is the same bit for bit, whatever other groups there are.
    """
    whole = dict(zip(CASES, workers(1, tmp_path / "whole", list(CASES.values())), strict=True))
    found: dict[tuple[int, int], dict[str, LLCResult]] = {}
    for (processes, k), names in LAUNCHES.items():
        cases = [{**CASES[name], "data_parallel": k} for name in names]
        results = workers(processes, tmp_path / f"{processes}-{k}", cases)
        found[processes, k] = dict(zip(names, results, strict=True))
        for name, result in found[processes, k].items():
            assert (result.num_processes, result.data_parallel) == (processes, k)
            assert_close(whole[name], result, name)
    for name, other in found[4, 2].items():
        if CASES[name].get("chain_batch_size") != "auto":  # a measurement may end either way: equal only to rounding
            assert_equal(found[2, 2][name], other)


LONG = {"num_draws": 600, "num_burnin_steps": 200, "num_chains": 2, "minimize": True, "minimize_steps": 400,
        "sampler": "baoab", "data_parallel": 2, "save_seconds": 0.05}  # fmt: skip


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path) -> None:
    """kill -9 at random moments, then a polite word to one process of the group: in the end the undisturbed trace.

    The polite word is for the second process only, at whatever step it then is: both must stop after the same one.
    """
    moments, output = random.Random(0), tmp_path / "killed"
    for attempt, kind in enumerate(("minimize", "chains", "chains", "chains")):
        before = _newest(output, kind)
        program = Program(ROOT / "tests" / "worker.py", str(output), json.dumps(LONG), processes=2)
        while _newest(output, kind) <= before and program.is_running:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.15))
        assert program.is_running, "the run was over, or broke, before it could be killed"
        if attempt < 3:
            program.kill()
        else:
            program.processes[1].terminate()
            for process in program.processes:
                process.join(timeout=60)
                assert not process.is_alive()
    assert not (output / "result.json").exists()
    killed = worker(2, output, **LONG)
    assert_equal(worker(2, tmp_path / "whole", **LONG), killed)


def _newest(output: Path, kind: str) -> float:
    """When a state of this kind was last saved; 0 if none was."""
    return max((path.stat().st_mtime for path in output.rglob(f"{kind}*.safetensors")), default=0.0)


def test_shares_cover_every_example_once() -> None:
    group = Group()
    for size in (0, 1, 3, 4, 10, 11):
        group.size, seen = 4, []
        for group.index in range(4):
            start, stop = group.share(size)
            seen.extend(range(start, stop))
            assert stop - start in (size // 4, size // 4 + 1)
        assert seen == list(range(size))


def test_one_process_has_no_group_of_two() -> None:
    with pytest.raises(InputError, match=r"data_parallel does not divide the 1 processes .*got 2; allowed: 1; launch"):
        Processes(2)
    with alone(), pytest.raises(InputError, match="data_parallel"):
        Processes(3)
    with pytest.raises(InputError, match="data_parallel is out of range"):
        SampleConfig(data_parallel=0)
