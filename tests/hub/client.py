"""Programs that use the Hub: each in a process of its own, because the clients read their settings on import."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_llc.cli.console import hush
from hf_llc.cli.entry_point import main

_IMPORTS = (
    *("datasets", "evaluate", "transformers", "transformers.models.llama.modeling_llama", "torch"),
    *("hf_llc.evaluator", "hf_llc.publishing.trace_plot", "matplotlib.figure", "matplotlib.backends.backend_agg"),
)
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """How a program ended and what it said."""

    code: int
    out: str
    err: str


def environment(endpoint: str, home: Path, token: str | None, **more: str) -> dict[str, str]:
    """This process's environment without its Hub settings, with those given."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_HUB_", "HF_TOKEN", "HUGGING"))}
    known = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "NO_PROXY": "*",
        "OMP_NUM_THREADS": "1",
    }
    return {**kept, **known, **({} if token is None else {"HF_TOKEN": token}), **more}


def run(argv: list[str], variables: Mapping[str, str], *, cwd: str | Path | None = None) -> Done:
    """`python *argv`, to its end."""
    done = subprocess.run(
        [sys.executable, *argv], env=dict(variables), cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Forker:
    """Commands, each in a fork of one program that has imported everything: no test waits ten seconds for it.

    What is not as in life: the waits between the client's own retries are cut to a twentieth of their length and its
    timeouts to a second, so that a fault that lasts costs seconds and not minutes. How often it retries is its affair.
    """

    HURRY = 0.05

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from hub.client import serve; serve()"],
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, argv: list[str], more: Mapping[str, str], *, cwd: str | Path | None = None) -> Done:
        """`hf-llc *argv`, or `-c CODE`, with more environment variables, to its end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with tempfile.TemporaryDirectory(prefix="hub-fork-") as folder:
            job = {"argv": argv, "environment": dict(more), "cwd": str(cwd or os.getcwd()), "folder": folder}
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            return Done(code, *((Path(folder) / name).read_text(encoding="utf-8") for name in ("out", "err")))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


def serve() -> None:
    """Import everything, then do the jobs that come in, a line each."""
    hush(True)
    for name in _IMPORTS:
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(seconds * Forker.HURRY)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(_job(json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _job(job: dict[str, Any]) -> int:
    """One command, in the fork: its output goes to files, as a pipe of the test's would fill."""
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(Path(job["folder"]) / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    try:
        if job["argv"][0] != "-c":
            return main(job["argv"])
        exec(compile(job["argv"][1], "-c", "exec"), {"__name__": "__main__"})
        return 0
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
