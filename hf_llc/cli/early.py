"""What a command refuses before it imports torch and transformers, which takes seconds."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import FolderError
from hf_llc.files import check_writable
from hf_llc.loading.device_names import check_device_name
from hf_llc.loading.names import check_data_given, check_names, check_observed
from hf_llc.observe_setting import OBSERVABLES
from hf_llc.parallel.group_size import check_group
from hf_llc.seals import RUN_FILE

_LAUNCHED = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables by which accelerate knows that a launcher has started this process among others."""


def check_places(
    load: LoadConfig,
    sample: SampleConfig,
    output: Path,
    *,
    resume: bool = False,
    observables: Collection[str] = OBSERVABLES,
) -> None:
    """Refuse a model, data, device and processes that are not there, and an output folder that cannot be written to.

    Args:
        load: model and data.
        sample: how to sample.
        output: folder of the command's files.
        resume: there must be a run to go on with.
        observables: names that `observe` may have; none: code of the user's may register more.

    Raises:
        InputError: one is refused, in the words of the code that would meet it later.
    """
    check_names(load)
    check_data_given(load.model, load.data)
    check_observed(sample.observe, known=observables)
    check_device_name(load.device)
    if not any(name in os.environ for name in _LAUNCHED):
        for name in ("data_parallel", "parameter_parallel"):
            check_group(name, getattr(sample, name), 1)
    check_writable(output)
    if resume and not (output / RUN_FILE).exists():
        raise FolderError("nothing to resume there", value=str(output), remedy="drop resume")
