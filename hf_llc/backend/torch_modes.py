"""The modes of torch that a caller may have on, switched off, and denormal numbers; one estimate at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

from hf_llc.backend.memory import keep_freed_memory

_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def own_modes() -> Iterator[None]:
    """Within, autocast, inference_mode, no_grad and denormal numbers are off, and no other thread is within.

    An estimate moves the weights of the model that it is given, and torch's random state, attention kernels and CUDA
    graphs belong to the whole process. So a second thread waits.

    From then on the process keeps some of the memory that it frees (`keep_freed_memory`).
    """
    keep_freed_memory()
    devices = {"cpu", *([torch.accelerator.current_accelerator().type] if torch.accelerator.is_available() else [])}  # type: ignore[union-attr]
    with _ONE_AT_A_TIME, contextlib.ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        for device in devices:
            modes.enter_context(torch.autocast(device, enabled=False))
        modes.enter_context(denormals_flushed())
        yield


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Within, a CPU takes numbers below 1.2e-38 (float32) or 2.2e-308 (float64) for zero.

    Attention of a trained model is peaked, so that its softmax underflows, and many CPUs take a hundred times longer
    for products of such numbers: on stories260K the backward pass of attention took eight times as long, a gradient
    1.7 times. Threads of torch that begin within do as this one does; older ones do not.
    """
    before = _flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushes_denormals() -> bool:
    """Whether this thread takes denormal numbers for zero."""
    return not bool(torch.tensor(1e-310, dtype=torch.float64).mul(1.0) > 0)
