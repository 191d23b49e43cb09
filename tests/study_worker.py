"""A small study as a program of its own, for tests that launch it under several processes.

python study_worker.py profile OUTPUT
python study_worker.py susceptibilities OUTPUT
python study_worker.py profile OUTPUT 30        # killed before its 30th operation on files of OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from forked_runs import Fate, befall
from worker import SETTINGS, examples, network, squared_error

from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.studies import measure_profile, measure_susceptibility
from hf_llc.studies.susceptibility_table import SusceptibilityTable
from hf_llc.workflow.opened_run import Given


def given() -> Given:
    model = network()
    return Given(model=model, data=examples(model), loss_fn=squared_error)


def profile(output: str) -> measure_profile.Profile:
    sample = SampleConfig(**{name: value for name, value in SETTINGS.items() if name != "localization"})
    hessian = measure_profile.HessianSettings(probes=3, iterations=10, examples=50)
    values = {"localizations": [5.0, 50.0, 500.0], "hessian": hessian, "output": output, "progress": False}
    return measure_profile.measure(LoadConfig(), sample, given(), **values)


def susceptibilities(output: str, **more: Any) -> SusceptibilityTable:
    sample = SampleConfig(**SETTINGS, check_localization=False, observe_examples=5)
    asked = {"components": "0.weight,2.*", "level": "example", "output": output, "progress": False, **more}
    return measure_susceptibility.measure(LoadConfig(), sample, given(), **asked)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        befall(Fate(watched=Path(sys.argv[2]), kill_at=int(sys.argv[3])), is_struck=True)
    globals()[sys.argv[1]](sys.argv[2])
