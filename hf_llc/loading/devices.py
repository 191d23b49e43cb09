"""The device that a run was asked for."""

from __future__ import annotations

import torch

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.parallel.processes import Processes


def device_of(config: LoadConfig) -> torch.device:
    """The device asked for, else this process's own.

    Raises:
        InputError: this machine has no such device.
    """
    if config.device is None:
        return Processes().device
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise NotImplementedError("it holds no values")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            "no such device here",
            value=config.device,
            allowed="cpu" + (f", cuda:0 … cuda:{torch.cuda.device_count() - 1}" if torch.cuda.is_available() else ""),
        ) from error
    return device
