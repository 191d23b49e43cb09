"""The same numbers on one process and on several, and after kills."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from hf_llc.result import LLCResult, Trace

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def _port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _environment() -> dict[str, str]:
    here = os.environ.get("PYTHONPATH")
    paths = [str(ROOT), str(ROOT / "tests")] + ([here] if here else [])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def _torchrun(count: int) -> list[str]:
    return [str(BIN / "torchrun"), "--nproc-per-node", str(count), "--master-port", _port()]


def _accelerate(count: int) -> list[str]:
    return [
        "env",
        "ACCELERATE_USE_CPU=true",
        str(BIN / "accelerate"),
        "launch",
        "--multi_gpu",
        "--num_processes",
        str(count),
        "--main_process_port",
        _port(),
    ]


def _worker(launcher: list[str], output: Path, **settings: object) -> LLCResult:
    command = [*launcher, str(ROOT / "tests" / "worker.py"), str(output), json.dumps(settings)]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return LLCResult.load(output)


_LEAVES = """
import atexit
import torch

def look():  # registered first, so called last
    print("group left" if not torch.distributed.is_initialized() else "group still there", flush=True)

atexit.register(look)
from hf_llc.distributed import Processes
assert Processes().count == 2 and torch.distributed.is_initialized()
"""


def test_a_process_leaves_its_group_before_it_ends(tmp_path: Path) -> None:
    script = tmp_path / "leaves.py"
    script.write_text(_LEAVES, encoding="utf-8")
    done = subprocess.run(
        [*_torchrun(2), str(script)], env=_environment(), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("group left") == 2, done.stdout


def _assert_equal(one: LLCResult, other: LLCResult) -> None:
    assert one.trace is not None and other.trace is not None
    for item in fields(Trace):
        np.testing.assert_array_equal(getattr(one.trace, item.name), getattr(other.trace, item.name), item.name)
    assert (one.llc, one.llc_se, one.verdict) == (other.llc, other.llc_se, other.verdict)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [_torchrun, _accelerate], ids=["torchrun", "accelerate"])
def test_two_processes_give_the_draws_of_one(launcher, tmp_path: Path) -> None:
    """Three chains on two processes, batches that do not divide the data: equal bit for bit."""
    one = _worker([sys.executable], tmp_path / "one")
    two = _worker(launcher(2), tmp_path / "two")
    assert (one.num_processes, two.num_processes) == (1, 2)
    _assert_equal(one, two)


@pytest.mark.slow
def test_a_launcher_that_forks(tmp_path: Path) -> None:
    """accelerate's own launcher from within Python, as in a notebook."""
    code = (
        "import sys, worker\nfrom accelerate import debug_launcher\n"
        "debug_launcher(worker.run, args=(sys.argv[1], {}), num_processes=2)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "two")]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    two = LLCResult.load(tmp_path / "two")
    assert two.num_processes == 2
    _assert_equal(_worker([sys.executable], tmp_path / "one"), two)


@pytest.mark.slow
def test_everything_automatic_on_three_processes(tmp_path: Path) -> None:
    """Minimizer, calibration and burn-in are decided once and the same for all."""
    settings = {
        "step_size": "auto",
        "num_burnin_steps": "auto",
        "minimize": True,
        "minimize_steps": 50,
        "max_steps": 400,
        "num_draws": 40,
    }
    _assert_equal(
        _worker([sys.executable], tmp_path / "one", **settings), _worker(_torchrun(3), tmp_path / "three", **settings)
    )


@pytest.mark.slow
def test_bad_input_ends_every_process(tmp_path: Path) -> None:
    """Found on the main process or on all, a refusal leaves nobody waiting."""
    command = [*_torchrun(2), str(ROOT / "tests" / "worker.py"), "/proc/nowhere", "{}"]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "cannot write to the output folder" in done.stderr


def _newest(folder: Path) -> float:
    """When something was last put into the folder; 0 if nothing was."""
    return max((path.stat().st_mtime for path in folder.rglob("*") if path.is_file()), default=0.0)


@pytest.mark.slow
def test_killed_at_random_and_resumed(tmp_path: Path) -> None:
    """kill -9 at ten random moments of a two-process run: the trace in the end is that of an undisturbed run.

    Each time the processes are left alone until they have saved something new, and up to a second longer.
    """
    settings = {
        "num_draws": 6000,
        "num_burnin_steps": 4000,
        "minimize": True,
        "minimize_steps": 1000,
        "step_size": "auto",
        "save_seconds": 0.2,
    }
    moments = random.Random(0)
    output = tmp_path / "killed"
    for _ in range(10):
        command = [*_torchrun(2), str(ROOT / "tests" / "worker.py"), str(output), json.dumps(settings)]
        before = _newest(output)
        process = subprocess.Popen(
            command,
            env=_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while _newest(output) <= before and process.poll() is None:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 1))
        assert process.poll() is None, "the run was over before it could be killed ten times"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (output / "result.json").exists()
    killed = _worker(_torchrun(2), output, **settings)
    _assert_equal(_worker([sys.executable], tmp_path / "whole", **settings), killed)
