"""A small study as a program of its own, for tests that launch it under several processes.

python study_worker.py profile OUTPUT
python study_worker.py susceptibilities OUTPUT
python study_worker.py components OUTPUT
python study_worker.py influences OUTPUT
python study_worker.py profile OUTPUT 30        # killed before its 30th operation on files of OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from forked_runs import Fate, befall
from worker import SETTINGS, examples, network, squared_error

from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.studies import measure_components, measure_influence, measure_profile, measure_susceptibility
from hf_llc.studies.component_table import ComponentTable
from hf_llc.studies.influence_table import InfluenceTable
from hf_llc.studies.profile_settings import HessianSettings
from hf_llc.studies.susceptibility_table import SusceptibilityTable
from hf_llc.workflow.opened_run import Given


def given() -> Given:
    model = network()
    return Given(model=model, data=examples(model), loss_fn=squared_error)


def profile(output: str) -> measure_profile.Profile:
    sample = SampleConfig(**{name: value for name, value in SETTINGS.items() if name != "localization"})
    hessian = HessianSettings(probes=3, iterations=10, examples=50)
    values = {"localizations": [5.0, 50.0, 500.0], "hessian": hessian, "output": output, "progress": False}
    return measure_profile.measure(LoadConfig(), sample, given(), **values)


def susceptibilities(output: str, **more: Any) -> SusceptibilityTable:
    sample = SampleConfig(**SETTINGS, check_localization=False, observe_examples=5)
    asked = {"components": "0.weight,2.*", "level": "example", "output": output, "progress": False, **more}
    return measure_susceptibility.measure(LoadConfig(), sample, given(), **asked)


def components(output: str, *, save_seconds: float = 20.0) -> ComponentTable:
    sample = SampleConfig(**SETTINGS, check_localization=False, save_seconds=save_seconds)
    asked = {"components": "0.weight,2.*", "output": output, "progress": False}
    return measure_components.measure(LoadConfig(), sample, given(), **asked)


def influences(output: str, *, save_seconds: float = 20.0) -> InfluenceTable:
    sample = SampleConfig(**SETTINGS, check_localization=False, observe_examples=5, save_seconds=save_seconds)
    return measure_influence.measure(LoadConfig(), sample, given(), output=output, progress=False)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        befall(Fate(watched=Path(sys.argv[2]), kill_at=int(sys.argv[3])), is_struck=True)
    globals()[sys.argv[1]](sys.argv[2])
