"""One estimate from a model and data to its result."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.errors import InputError
from hf_llc.files import check_writable
from hf_llc.loading.hub_errors import public_name
from hf_llc.loading.problem_loader import load_problem
from hf_llc.observables import observables_named
from hf_llc.parallel.placement import arrange_processes, place_for_loading, shard_over_group
from hf_llc.parallel.processes import Processes, alone
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.result import LLCResult
from hf_llc.workflow.run import Run
from hf_llc.workflow.run_folder import RunFolder, fingerprint
from hf_llc.workflow.settings import settled


def estimate(
    load: LoadConfig,
    sample: SampleConfig,
    *,
    model_or_pipeline: Any = None,
    dataset: Any = None,
    loss_fn: Any = None,
    tokenizer: Any = None,
    label_mapping: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    resume: bool | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> LLCResult:
    """The whole job on every process; the main one writes the files. See `LLCEvaluator.compute`."""
    begun = time.monotonic()
    sample, processes = arrange_processes(sample, model_or_pipeline)
    if output is None and resume:
        raise InputError("resume needs an output folder", remedy="give output")
    observables_named(sample.observe)  # a name that is not known is refused now, not after calibration
    if output is not None:
        processes.main_does(lambda: str(check_writable(output)))
    problem = load_problem(
        load.model if model_or_pipeline is None else model_or_pipeline,
        load.data if dataset is None else dataset,
        place_for_loading(load, sample, model_or_pipeline),
        loss_fn=loss_fn,
        tokenizer=tokenizer,
        label_mapping=label_mapping,
    )
    sample = settled(sample, problem)
    with tempfile.TemporaryDirectory(prefix="hf_llc-") as temporary:
        folder = RunFolder(temporary if output is None else output)
        asked = {**as_dict(load), **as_dict(sample), "fingerprint": fingerprint(problem.model, problem.examples)}
        asked |= {name: public_name(asked[name]) for name in ("model", "data", "tokenizer")}  # no path into the file
        if output is not None:
            processes.main_does(lambda: folder.check(asked, resume=resume, overwrite=overwrite))
            if not overwrite and processes.main_does(lambda: folder.is_finished):
                return LLCResult.load(folder.folder)
        shard_over_group(problem, sample, processes)
        with preserved(problem.model):
            run = Run(problem, sample, folder, processes, progress)
            processes.main_does(lambda: folder.begin(asked, overwrite=overwrite))
            result = run.result(begun)
        if output is not None:
            processes.main_does(lambda: str(result.save(folder.folder)))
            processes.main_does(folder.close)
    return result


def solve(problem: Problem, sample: SampleConfig) -> LLCResult:
    """λ̂ of a problem that is there already, by this process alone; nothing is kept on disk.

    Raises:
        InputError: as `hf_llc.evaluator.estimate`.
    """
    begun = time.monotonic()
    with alone(), preserved(problem.model), tempfile.TemporaryDirectory(prefix="hf_llc-") as temporary:
        return Run(problem, sample, RunFolder(temporary), Processes(), progress=False).result(begun)
