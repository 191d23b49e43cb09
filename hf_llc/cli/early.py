"""What a command refuses before it imports torch and transformers, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.files import check_writable
from hf_llc.loading.names import check_data_given, check_device_name, check_names, check_observed


def check_places(load: LoadConfig, sample: SampleConfig, output: Path) -> None:
    """Refuse a model and data that are not there, and an output folder that cannot be written to.

    Raises:
        InputError: one is refused, in the words of the code that would meet it later.
    """
    check_names(load)
    check_data_given(load.model, load.data)
    check_observed(sample.observe)
    check_device_name(load.device)
    check_writable(output)
