"""The modes of torch that a caller may have on, switched off; one estimate at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def own_modes() -> Iterator[None]:
    """Within, autocast, inference_mode and no_grad are off, and no other thread is within.

    An estimate moves the weights of the model that it is given, and torch's random state, attention kernels and CUDA
    graphs belong to the whole process. So a second thread waits.
    """
    devices = {"cpu", *([torch.accelerator.current_accelerator().type] if torch.accelerator.is_available() else [])}  # type: ignore[union-attr]
    with _ONE_AT_A_TIME, contextlib.ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        for device in devices:
            modes.enter_context(torch.autocast(device, enabled=False))
        yield
