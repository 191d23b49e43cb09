"""λ̂ along a series of checkpoints: one calibration, the same settings for all, one point each.

The settings are shared as in appendix K of arXiv 2308.12108: values of λ̂ compare where ε, γ, nβ and burn-in are equal.
Noise and minibatches are the same for all too, so the errors of neighbours go together: differences along a curve are
surer than the error bars of its points.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_llc.config import LoadConfig, SampleConfig, as_dict, differences
from hf_llc.errors import InputError
from hf_llc.files import check_writable, write_json
from hf_llc.parallel.processes import Processes
from hf_llc.result import LLCResult
from hf_llc.studies.checkpoint_series import Checkpoint, steps_of
from hf_llc.studies.curve import Curve, Point
from hf_llc.workflow.estimate_model import estimate

_SHARED = (
    "sampler",
    "step_size",
    "friction",
    "gradient",
    "localization",
    "adapt_step_size",
    "num_burnin_steps",
    "num_steps_between_draws",
    "nbeta",
    "batch_size",
)
"""What the calibrated checkpoint decides for all where it was left open."""


def measure(
    checkpoints: Sequence[Checkpoint],
    load: LoadConfig,
    sample: SampleConfig,
    *,
    output: str | Path,
    dataset: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    x_scale: str = "linear",
    report: Callable[[str], None] = lambda line: None,
) -> Curve:
    """λ̂ of every checkpoint, on every process; the main one writes curve.csv, curve.json and curve.png.

    The last checkpoint comes first: what it leaves open (ε and burn-in, if they are "auto") is decided on it, and holds
    for all. Each result is a folder of its own in `output`; what is there already is not done again.

    Args:
        checkpoints: from `revisions`, `checkpoint_folders` or `weight_files`.
        load: model and data, but for what each checkpoint says itself.
        sample: how to sample.
        output: folder of the curve; a curve with other settings in it is refused.
        dataset: the data, if it is an object.
        resume: insist that there is a curve to go on with.
        overwrite: do all again.
        x_scale: "linear" or "log", of the picture's steps.
        report: called with a line when a checkpoint is done.

    Raises:
        InputError: bad input, before any long work as far as it can be known.
    """
    processes = Processes(sample.data_parallel, parameter_parallel=sample.parameter_parallel)
    output = Path(output)
    if len(checkpoints) < 2 or len({c.folder for c in checkpoints}) < len(checkpoints):
        names = ", ".join(c.name for c in checkpoints)
        raise InputError("a curve needs two checkpoints or more, each of its own name", value=names)
    processes.main_does(lambda: str(check_writable(output)))
    record = _Record(output, load, sample, processes)
    record.begin(checkpoints, resume=resume, overwrite=overwrite)
    chosen = next((c for c in checkpoints if c.name == record.calibrated_on), None)
    if chosen is None:
        raise InputError("the checkpoint calibrated on is gone", value=record.calibrated_on, remedy="use overwrite")
    shared, results = sample, {}
    for checkpoint in [chosen, *(c for c in checkpoints if c is not chosen)]:
        model, loss_fn = (None, None) if checkpoint.open is None else checkpoint.open()
        result = estimate(
            replace(load, **checkpoint.load),
            shared,
            model_or_pipeline=model,
            dataset=dataset,
            loss_fn=loss_fn,
            output=output / checkpoint.folder,
            overwrite=overwrite,
            progress=progress,
        )
        if checkpoint is chosen:
            found = {name: getattr(result, name) for name in _SHARED}
            shared = replace(sample, **{name: value for name, value in found.items() if value is not None}, beta=None)
        result.trace = None
        results[checkpoint.name] = result
        report(f"{checkpoint.name}: {result.verdict} ({len(results)} of {len(checkpoints)})")
    curve = _curve(checkpoints, results, shared, record.calibrated_on)
    processes.main_does(lambda: str(curve.save(output, x_scale=x_scale)))
    return curve


class _Record:
    """`run.json` of the curve: what was asked, and on which checkpoint the rest was decided."""

    def __init__(self, output: Path, load: LoadConfig, sample: SampleConfig, processes: Processes) -> None:
        self.path, self.processes = output / "run.json", processes
        self.asked: dict[str, Any] = {**as_dict(load), **as_dict(sample)}
        self.calibrated_on = ""

    def begin(self, checkpoints: Sequence[Checkpoint], *, resume: bool, overwrite: bool) -> None:
        """Start, or go on with what is there.

        Raises:
            InputError: another curve is there, or none and `resume` demands it.
        """
        self.calibrated_on = self.processes.main_does(lambda: self._begin(checkpoints, resume, overwrite))

    def _begin(self, checkpoints: Sequence[Checkpoint], resume: bool, overwrite: bool) -> str:
        if self.path.exists() and not overwrite:
            old = json.loads(self.path.read_text(encoding="utf-8"))
            changed = differences(old.get("asked", {}), json.loads(json.dumps(self.asked)))
            if changed or "calibrated_on" not in old:
                raise InputError(
                    f"the output folder holds another run ({'; '.join(changed)})",
                    value=str(self.path.parent),
                    remedy="use another folder, or overwrite",
                )
            return old["calibrated_on"]
        if resume:
            raise InputError("nothing to resume there", value=str(self.path.parent), remedy="drop resume")
        write_json(self.path, {"asked": self.asked, "calibrated_on": checkpoints[-1].name})
        return checkpoints[-1].name


def _curve(
    checkpoints: Sequence[Checkpoint], results: dict[str, LLCResult], shared: SampleConfig, calibrated_on: str
) -> Curve:
    names = [checkpoint.name for checkpoint in checkpoints]
    points = []
    for step, name in zip(steps_of(names), names, strict=True):
        result = results[name]
        copied = ("llc", "llc_se", "init_loss", "mean_loss", "r_hat", "ess", "verdict")
        loss = result.init_loss if result.minimize is None else result.minimize["loss_before"]
        weights = str(result.model.get("revision") or result.model.get("fingerprint"))
        same = {key: getattr(result, key) for key in copied}
        points.append(Point(step=step, name=name, loss=loss, weights=weights, **same))
    last = results[calibrated_on]
    return Curve(
        points=points,
        settings={"n": last.n, **as_dict(shared)},
        calibrated_on=calibrated_on,
        unit=last.unit,
        data=last.data,
    )
