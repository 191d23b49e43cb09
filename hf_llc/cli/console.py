"""Exit codes, the default output folder, and how a command prints and ends."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.files import finite

OK, FAULT, BAD_INPUT, BAD_VERDICT, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = """exit codes: 0 every check passed; 3 a bad verdict (the files are saved), or no draws in max_seconds;
2 bad input; 130 interrupted; 1 anything else"""

_PATIENCE = 3.0
"""Seconds that the other processes wait before they print an error themselves: the main process prints it first."""

_SILENCE = 5.0
"""Seconds without a sign of life after which a command says what it waits for."""

_SPINS = "1000"
"""Turns that a thread of libgomp spins before it sleeps: some tens of microseconds, which bridges the time between two
operations. libgomp's own 300,000 outlast what the system gives a thread."""


def default_output(load: LoadConfig, sample: SampleConfig) -> Path:
    """`runs/<model>-<data>-<hash of the settings>`: the same settings give the same folder."""

    def short(name: str | None) -> str:
        last = "embedded" if name is None else Path(name.rstrip("/")).name
        return re.sub(r"[^\w.]+", "_", last).strip("._")[:40] or "local"

    text = json.dumps({**as_dict(load), **as_dict(sample)}, sort_keys=True)
    return Path("runs") / f"{short(load.model)}-{short(load.data)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def share_cores() -> None:
    """Let torch's threads wait shortly for each other, unless the environment says how. Call it before torch comes.

    They spin while they wait, for milliseconds by default. Where other programs want the cores too, they keep each
    other from working: on two busy cores a step with two threads took twenty times as long as with one.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def hush(quiet: bool) -> None:
    """Silence the progress bars and logs of other packages. Call it before they are imported: they read it then."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # datasets raises its errors as well as logging them
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if quiet or not sys.stderr.isatty() or not is_main():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        # On a terminal the Hub's client may say that it waits before it repeats a request.
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not quiet and is_main():
        _start_timer()


@functools.cache
def _start_timer() -> threading.Timer:
    """Start the timer of `_say_what_is_imported`, once in a program: a command may call `hush` again."""
    timer = threading.Timer(_SILENCE, _say_what_is_imported)
    timer.daemon = True
    timer.start()
    return timer


def _say_what_is_imported() -> None:
    """Say why nothing is seen yet, if torch and transformers are still being imported."""
    is_importing = "torch" in sys.modules and not hasattr(sys.modules.get("hf_llc.workflow.opened_run"), "opened_run")
    if is_importing:
        with contextlib.suppress(OSError, ValueError):  # nobody reads
            print("hf_llc: importing torch and transformers", file=sys.stderr, flush=True)


def _group() -> Any:
    """Return Accelerate's process state, or None if the run does not use it yet. Does not import Accelerate."""
    module = sys.modules.get("accelerate.state")
    state = None if module is None else module.PartialState
    return state() if state is not None and state._shared_state else None


def is_main() -> bool:
    """Return True in the one process that prints. Works before and after the processes have connected."""
    group = _group()
    if group is not None:
        return group.is_main_process
    names = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


def print_text(text: str) -> None:
    """Print to stdout, in ASCII where stdout cannot show the symbols."""
    from hf_llc.publishing.formatting import for_encoding

    print(for_encoding(text), flush=True)


def print_json(values: Any) -> None:
    """Print as indented JSON to stdout; non-finite numbers become null."""
    print(json.dumps(finite(values), indent=2), flush=True)


def print_error(line: str) -> None:
    """Print to stderr, in ASCII where stderr cannot show the symbols. If nobody reads there, the work goes on."""
    from hf_llc.publishing.formatting import for_encoding

    with contextlib.suppress(OSError, ValueError):
        print(for_encoding(line, getattr(sys.stderr, "encoding", None)), file=sys.stderr, flush=True)


def open_closed_streams() -> None:
    """Give the standard streams that the caller has closed (`2>&-`) to the null device.

    Otherwise the next file that is opened takes the number of the closed one, and what libraries print goes into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the end


def verdict_code(is_good: bool) -> int:
    """Return the exit code of a finished command."""
    return OK if is_good else BAD_VERDICT


def end(code: int, line: str, *, name: str = "hf-llc", sleep: Callable[[float], None] = time.sleep) -> int:
    """Print one line about how the command ended, once for all processes; return the exit code.

    Usually every process meets the same error, and the launcher stops the others as soon as the first has ended.
    """
    if is_main():
        print_error(f"{name}: {line}")
    elif code != INTERRUPTED:
        sleep(_PATIENCE)
        print_error(f"{name}: process {os.environ.get('RANK', '?')}: {line}")
    return code


def remove_empty(output: Path) -> None:
    """Remove the folder that a refused run has made, unless it holds more than the run.json at its top."""
    if not output.is_dir():  # somebody has put a file in its place
        return
    files = [path for path in output.rglob("*") if path.is_file()]
    if any(path.name != "run.json" or path.parent != output for path in files):
        return
    for path in sorted([*files, *output.rglob("*"), output], reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
