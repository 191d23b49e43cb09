"""What every test stands on: no network, a cache of its own, one thread, and the data folder if there is one."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

# Before anything imports torch or huggingface_hub: both read their environment on import.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_LLC_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit it
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_llc-tests-")
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_folder() -> Callable[[str], Path]:
    """`data_folder(name)` → that folder of the data at `HF_LLC_DATA`; the test is skipped where it is not."""

    def find(name: str) -> Path:
        folder = Path(os.environ["HF_LLC_DATA"]) / name
        if not folder.is_dir():
            pytest.skip(f"no data folder {folder} (set HF_LLC_DATA to the folder that holds {name})")
        return folder

    return find
