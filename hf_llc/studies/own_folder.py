"""The folder of a study, from its first file to its last."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hf_llc.parallel.processes import Processes
from hf_llc.workflow.run_folder import RunFolder


@contextlib.contextmanager
def own_folder(
    folder: RunFolder, asked: dict[str, Any], *, processes: Processes, resume: bool, overwrite: bool
) -> Iterator[None]:
    """Within, `folder` is this study's, begun or gone on with, on every process; no other run gets in.

    Args:
        folder: of the study.
        asked: what the study was asked, for run.json.
        processes: all; the main one writes.
        resume: refuse a folder that holds no such study.
        overwrite: discard what is in the folder.

    Raises:
        FolderError: it is not this study's, or another run is at work there.
    """
    try:
        processes.main_does(folder.lock)
        processes.main_does(lambda: folder.check(asked, resume=resume or None, overwrite=overwrite))
        processes.main_does(lambda: str(folder.begin(asked, overwrite=overwrite)))
        yield
    finally:
        folder.unlock()
