"""Runs in forked children, which are killed, starved and raced; for tests/folder_torture.py.

The parent imports everything once and computes nothing, so that a child starts in milliseconds. A child's operations on
files below its `watched` folder are numbered by an audit hook, and a kill comes just before one of them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import port

_EVENTS = {"open": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.mkdir": 0}
"""Operations that change a folder, and which of their arguments is the path that matters."""


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What befalls a process of a run.

    Attributes:
        watched: the folder whose operations are numbered.
        kill_at: SIGKILL comes before the operation of this number, from 1; 0: never.
        rank: of the process that is killed.
        seconds: SIGKILL comes after this time; 0: never.
        error_at: from this operation on the disk has no room; 0: never.
        memory: bytes of address space that the process may add to what it has; 0: no limit.
        log: file for the names of all operations.
    """

    watched: Path
    kill_at: int = 0
    rank: int = 0
    seconds: float = 0.0
    error_at: int = 0
    memory: int = 0
    log: Path | None = None


@dataclass(frozen=True)
class Ended:
    """How a run ended: "done", "killed", "refused", "foreseen" or "TRACEBACK", and what it printed."""

    how: str
    text: str


class Forked:
    """A run under way, in one process or several.

    Args:
        work: what each process does.
        fate: what befalls it.
        processes: how many; they find each other as under torchrun.
    """

    def __init__(self, work: Callable[[], object], fate: Fate, *, processes: int = 1) -> None:
        self.files = [tempfile.TemporaryFile("w+") for _ in range(processes)]  # noqa: SIM115 (closed by `end`)
        self.begun, self.fate, place = time.monotonic(), fate, port()
        self.pids = [self._start(work, rank, processes, place) for rank in range(processes)]

    def _start(self, work: Callable[[], object], rank: int, processes: int, place: str) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            for number in (1, 2):
                os.dup2(self.files[rank].fileno(), number)
            if processes > 1:
                group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
                os.environ |= {name: str(value) for name, value in group.items()}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": place, "ACCELERATE_USE_CPU": "true"}
            operations = befall(self.fate, is_struck=rank == self.fate.rank)
            code = _done(work)
            if self.fate.log is not None and rank == self.fate.rank:
                self.fate.log.write_text(json.dumps(operations))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def end(self) -> Ended:
        """Wait for it. As a launcher does, end the other processes when one has failed."""
        left, codes = set(self.pids), {}
        while left:
            for pid in list(left):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    left.discard(pid)
                    codes[pid] = os.waitstatus_to_exitcode(status)
            failed = any(codes.values())
            is_late = self.fate.seconds > 0 and time.monotonic() - self.begun > self.fate.seconds
            if failed and len(codes) < len(self.pids):
                time.sleep(1.0)
            for pid in left if failed or is_late or time.monotonic() - self.begun > 300 else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        text = ""
        for file in self.files:
            file.seek(0)
            text += file.read()
            file.close()
        found = list(codes.values())
        if (
            "Traceback (most recent call last)" in text
        ):  # a command prints it, and ends with the code of what is foreseen
            return Ended("TRACEBACK", text)
        if not any(found):
            return Ended("done", text)
        if -signal.SIGKILL in found and (self.fate.kill_at or self.fate.seconds):
            return Ended("killed", text)
        return Ended({2: "refused", 1: "foreseen"}.get(max(found), "TRACEBACK"), text)


def befall(fate: Fate, *, is_struck: bool) -> list[str]:
    """Set the process's fate; returns the names of its operations, which grow."""
    operations: list[str] = []
    watched = str(fate.watched)
    if fate.memory:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + fate.memory, now + fate.memory))

    def heard(event: str, arguments: Sequence[Any]) -> None:
        if event not in _EVENTS or (event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            return
        path = arguments[_EVENTS[event]]
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path).startswith(watched):
            return
        operations.append(f"{event} {generic(os.fspath(path), watched)}")
        if is_struck and len(operations) == fate.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if fate.error_at and len(operations) >= fate.error_at and event in ("open", "os.rename"):
            raise OSError(28, "No space left on device", path)

    sys.addaudithook(heard)
    return operations


def generic(path: str, watched: str) -> str:
    """A path below the watched folder without ids, numbers of chains and names of temporary files."""
    name = path.removeprefix(watched)
    name = re.sub(r"/\.([\w.-]+?)\.\w{8}(\.\w+)?$", r"/.\1.tmp", name)
    return re.sub(r"\d{3,}", "#", re.sub(r"[0-9a-f]{16}", "ID", name))


def _done(work: Callable[[], object]) -> int:
    """Do it; returns the exit code that a command would have, and prints its line."""
    from hf_llc.cli.entry_point import _foreseen
    from hf_llc.errors import InputError

    try:
        code = work()
        return code if code in (1, 2) else 0
    except InputError as error:
        print("refused:", error)
        return 2
    except Exception as error:
        line = _foreseen(error, argparse.Namespace())
        if line is None:
            traceback.print_exc()
            return 70
        print("foreseen:", line)
        return 1


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[tuple[Path, Callable[[], object]]]:
    """A file system of `size` bytes of its own, and what makes it large enough for anything; root only."""
    import subprocess

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
        try:
            more = ["mount", "-o", "remount,size=64M", folder]
            yield Path(folder), functools.partial(subprocess.run, more, check=True)
        finally:
            subprocess.run(["umount", folder], check=True)
