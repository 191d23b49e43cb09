"""Programs in processes that are forked from one that has imported everything: an import of it all takes seconds.

They find each other as under torchrun. Tests of launchers themselves take tests/launch.py.
"""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import blank

ROOT = Path(__file__).parent.parent

IMPORTED = (
    *("worker", "blank", "matplotlib.backends.backend_agg", "transformers.pipelines", "torch.distributed.fsdp"),
    *("hf_llc.cli.entry_point", "hf_llc.studies.measure_curve", "hf_llc.publishing.trace_plot", "hf_llc.callback"),
)
"""Modules that are imported once. They compute nothing, so that children begin as fresh processes do."""


def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def environment() -> dict[str, str]:
    here = os.environ.get("PYTHONPATH")
    paths = [str(ROOT), str(ROOT / "tests")] + ([here] if here else [])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


class Program:
    """A program under way, in one process or several.

    Args:
        script: path of a Python file, which is run as `__main__`.
        arguments: of its command line.
        processes: how many.
    """

    def __init__(self, script: str | Path, *arguments: str, processes: int = 1) -> None:
        self.logs = Path(tempfile.mkdtemp(prefix="hf_llc-"))
        context, place = multiprocessing.get_context("forkserver"), port()
        context.set_forkserver_preload(list(IMPORTED))
        with mock.patch.dict(os.environ, environment()):
            multiprocessing.forkserver.ensure_running()  # it keeps the environment that it begins with
        self.processes = [
            context.Process(target=_run, args=(str(script), arguments, rank, processes, place, str(self._log(rank))))
            for rank in range(processes)
        ]
        for process in self.processes:
            process.start()

    @property
    def is_running(self) -> bool:
        """Whether no process of it has ended."""
        return all(process.is_alive() for process in self.processes)

    def kill(self) -> None:
        """SIGKILL to every process."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def end(self, *, seconds: float = 240.0) -> tuple[bool, list[str]]:
        """Wait for the end, as launchers do: one that fails ends the others.

        Returns:
            Whether all went well, and what each process printed to both streams.
        """
        until = time.monotonic() + seconds
        while any(process.is_alive() for process in self.processes) and time.monotonic() < until:
            if any(process.exitcode for process in self.processes):
                until = min(until, time.monotonic() + 5.0)  # the others may say why, too
            time.sleep(0.01)
        self.kill()
        said = [self._log(rank).read_text(encoding="utf-8") for rank in range(len(self.processes))]
        return not any(process.exitcode for process in self.processes), said

    def _log(self, rank: int) -> Path:
        return self.logs / str(rank)


def run(script: str | Path, *arguments: str, processes: int = 1) -> list[str]:
    """Run a program to its good end; returns what each process printed."""
    is_well, said = Program(script, *arguments, processes=processes).end()
    assert is_well, "\n".join(said)[-6000:]
    return said


def killed(script: str | Path, *arguments: str) -> None:
    """Run a program that ends by SIGKILL."""
    program = Program(script, *arguments)
    _, said = program.end()
    assert program.processes[0].exitcode == -signal.SIGKILL, "\n".join(said)[-6000:]


def _run(script: str, arguments: tuple[str, ...], rank: int, count: int, place: str, log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(file, number)
    if count > 1:
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ |= {name: str(value) for name, value in numbers.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": place}
    if Path(script).parent == ROOT / "tests":  # nobody looks at their pictures
        mock.patch("matplotlib.figure.Figure.savefig", blank.save).start()
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()  # multiprocessing's children end without
