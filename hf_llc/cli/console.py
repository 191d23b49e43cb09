"""Exit codes, and how a command ends: one line, on one process."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_llc.config import LoadConfig, SampleConfig, as_dict

OK, FAULT, BAD_INPUT, BAD_VERDICT, INTERRUPTED = 0, 1, 2, 3, 130


_PATIENCE = 3.0
"""Seconds that another process leaves the main one to say what is wrong, before it says so itself."""


def default_output(load: LoadConfig, sample: SampleConfig) -> Path:
    """`runs/<model>-<data>-<hash of the settings>`: the same settings find the same folder again."""

    def short(name: str | None) -> str:
        last = "embedded" if name is None else Path(name.rstrip("/")).name
        return re.sub(r"[^\w.]+", "_", last).strip("._")[:40] or "local"

    text = json.dumps({**as_dict(load), **as_dict(sample)}, sort_keys=True)
    return Path("runs") / f"{short(load.model)}-{short(load.data)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def hush(quiet: bool) -> None:
    """Keep other packages' bars and remarks out of the way; they read this when they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # its errors are raised as well as logged
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if quiet or not sys.stderr.isatty() or not is_main():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # on a terminal: why it waits, when it asks the Hub again


def _group() -> Any:
    """Accelerate's state if this run has begun to use it, else None: asking must not import it."""
    module = sys.modules.get("accelerate.state")
    state = None if module is None else module.PartialState
    return state() if state is not None and state._shared_state else None


def is_main() -> bool:
    """True in the one process that prints, known before and after the processes have met."""
    group = _group()
    if group is not None:
        return group.is_main_process
    names = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


def end(code: int, line: str, *, name: str = "hf-llc", sleep: Callable[[float], None] = time.sleep) -> int:
    """Say one line, once; returns the exit code.

    Usually all processes meet the same error, and the launcher stops the others as soon as the first has ended.
    """
    if is_main():
        print_error(f"{name}: {line}")
    elif code != INTERRUPTED:
        sleep(_PATIENCE)
        print_error(f"{name}: process {os.environ.get('RANK', '?')}: {line}")
    return code


def print_error(line: str) -> None:
    from hf_llc.publishing.formatting import for_encoding

    print(for_encoding(line, getattr(sys.stderr, "encoding", None)), file=sys.stderr, flush=True)
