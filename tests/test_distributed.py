"""The same numbers on one process and on several, and after kills."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forked import Program
from launch import ROOT, accelerate, assert_equal, environment, newest, torchrun, worker

from hf_llc.result import LLCResult

_LEAVES = """
import atexit
import torch

def look():  # registered first, so called last
    print("group left" if not torch.distributed.is_initialized() else "group still there", flush=True)

atexit.register(look)
from hf_llc.parallel.processes import Processes
assert Processes().count == 2 and torch.distributed.is_initialized()
"""


@pytest.mark.slow
def test_a_process_leaves_its_group_before_it_ends(tmp_path: Path) -> None:
    script = tmp_path / "leaves.py"
    script.write_text(_LEAVES, encoding="utf-8")
    done = subprocess.run(
        [*torchrun(2), str(script)], env=environment(), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("group left") == 2, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [torchrun, accelerate], ids=["torchrun", "accelerate"])
def test_two_processes_give_the_draws_of_one(launcher, tmp_path: Path) -> None:
    """Three chains on two processes, batches that do not divide the data: equal bit for bit, losses observed too."""
    observing = {"observe": "train=@data", "observe_examples": 20}
    one = worker(1, tmp_path / "one", **observing)
    two = worker(launcher(2), tmp_path / "two", **observing)
    assert (one.num_processes, two.num_processes) == (1, 2)
    assert_equal(one, two)
    assert one.observations is not None and two.observations is not None
    np.testing.assert_array_equal(one.observations.values["train"], two.observations.values["train"])
    np.testing.assert_array_equal(one.observations.init["train"], two.observations.init["train"])


@pytest.mark.slow
def test_a_launcher_that_forks(tmp_path: Path) -> None:
    """accelerate's own launcher from within Python, as in a notebook."""
    code = (
        "import sys, worker\nfrom accelerate import debug_launcher\n"
        "debug_launcher(worker.run, args=(sys.argv[1], {}), num_processes=2)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "two")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    two = LLCResult.load(tmp_path / "two")
    assert two.num_processes == 2
    assert_equal(worker(1, tmp_path / "one"), two)


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
    assert_equal(worker(1, tmp_path / "one", **settings), worker(3, tmp_path / "three", **settings))


@pytest.mark.slow
def test_bad_input_ends_every_process(tmp_path: Path) -> None:
    """Found on the main process or on all, a refusal leaves nobody waiting: each ends by itself, and says why."""
    program = Program(ROOT / "tests" / "worker.py", "/proc/nowhere", "{}", processes=2)
    _, said = program.end(seconds=120)
    assert [process.exitcode for process in program.processes] == [1, 1], said
    assert all("cannot write to the output folder" in each for each in said)


@pytest.mark.slow
def test_killed_at_random_and_resumed(tmp_path: Path) -> None:
    """kill -9 at ten random moments of a two-process run: the trace in the end is that of an undisturbed run.

    Each time the processes are left alone until they have saved something new, and up to half a second longer.
    """
    settings = {
        "num_draws": 3000,
        "num_burnin_steps": 2000,
        "minimize": True,
        "minimize_steps": 500,
        "step_size": "auto",
        "save_seconds": 0.1,
    }
    moments = random.Random(0)
    output = tmp_path / "killed"
    for _ in range(10):
        before = newest(output)
        program = Program(ROOT / "tests" / "worker.py", str(output), json.dumps(settings), processes=2)
        while newest(output) <= before and program.is_running:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.5))
        assert program.is_running, "the run was over before it could be killed ten times"
        program.kill()
    assert not (output / "result.json").exists()
    killed = worker(2, output, **settings)
    assert_equal(worker(1, tmp_path / "whole", **settings), killed)


@pytest.mark.slow
def test_a_program_that_fails_in_one_forked_process_fails_the_test(tmp_path: Path) -> None:
    """So that the tests with forked processes can fail: the other process, which waits for it, is ended."""
    script = tmp_path / "fails.py"
    script.write_text('import os, time\nassert os.environ["RANK"] == "1", "the first"\ntime.sleep(60)\n')
    is_well, said = Program(script, processes=2).end()
    assert not is_well and "AssertionError: the first" in said[0]


READS_SLOWLY = """
import os, sys, time
from hf_llc.cli.entry_point import main
from hf_llc.loading import problem_loader

def read(*arguments, **options):
    while os.environ["RANK"] in sys.argv[1]:
        time.sleep(0.01)
    return encode(*arguments, **options)

encode, problem_loader._encode = problem_loader._encode, read
sys.exit(main(["estimate", "--max-seconds", "4", "--output", sys.argv[2]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["0", "1", "01"])
def test_a_limit_ends_reading_of_data_in_every_process(slow: str, tmp_path: Path) -> None:
    """Whichever of two processes reads without end, and though one waits while the other goes first."""
    script = tmp_path / "reads.py"
    script.write_text(READS_SLOWLY)
    program = Program(script, slow, str(tmp_path / "run"), processes=2)
    is_well, said = program.end(seconds=100)
    assert not is_well and "max_seconds" in said[0] and "while data were read" in said[0]
    assert program.processes[0].exitcode == 3 and not (tmp_path / "run" / "run.json").exists()
