"""λ̂ along a series of checkpoints: one calibration, the same settings for all, one point each.

The settings are shared as in appendix K of arXiv 2308.12108: values of λ̂ compare where ε, γ, nβ and burn-in are equal.
Noise and minibatches are the same for all too, so the errors of neighbours go together: differences along a curve are
surer than the error bars of its points.
"""

from __future__ import annotations

import csv
import fnmatch
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from hf_llc.config import LoadConfig, SampleConfig, as_dict, differences
from hf_llc.distributed import Processes
from hf_llc.errors import InputError
from hf_llc.evaluator import estimate
from hf_llc.files import check_writable, write_atomically, write_json
from hf_llc.result import LLCResult

SCHEMA_VERSION = 1

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


@dataclass(frozen=True)
class Checkpoint:
    """One of the series.

    Attributes:
        name: how it is called; its subfolder too.
        load: the settings that find it, over those common to all.
        open: makes the module and its loss_fn, for a plain module; None: `load` says it all.
    """

    name: str
    load: dict[str, Any]
    open: Callable[[], tuple[nn.Module, Any]] | None = None

    @property
    def folder(self) -> str:
        """A name for files, of `name`."""
        return re.sub(r"[^\w.=-]+", "_", self.name)


@dataclass(frozen=True)
class Point:
    """λ̂ of one checkpoint. Losses in the unit of the curve.

    Attributes:
        step: its place on the axis: the number in its name, else its place in the series.
        loss: L_n of the checkpoint as it is.
        init_loss: L_n(w*), where the chains began: `loss`, or what minimize made of it.
        weights: the Hub's commit, or a fingerprint of the weights.
    """

    step: int
    name: str
    llc: float
    llc_se: float
    loss: float
    init_loss: float
    mean_loss: float
    r_hat: float
    ess: float
    verdict: str
    weights: str

    @property
    def is_trustworthy(self) -> bool:
        """True if no check failed."""
        return self.verdict == "trustworthy"


@dataclass(frozen=True)
class Curve:
    """The points in order, and the settings that they share."""

    points: list[Point]
    settings: dict[str, Any]
    calibrated_on: str
    unit: str
    data: dict[str, Any]

    @property
    def is_trustworthy(self) -> bool:
        """True if every point is."""
        return all(point.is_trustworthy for point in self.points)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def save(self, folder: str | Path, *, x_scale: str = "linear") -> Path:
        """Write curve.csv, curve.png and curve.json into `folder`; returns the folder."""
        from hf_llc.curve_plot import plot_curve

        folder = Path(folder)
        write_atomically(folder / "curve.csv", self._write_csv)
        write_atomically(folder / "curve.png", lambda path: plot_curve(self, path, x_scale=x_scale))
        write_json(folder / "curve.json", self.to_dict())
        return folder

    def _write_csv(self, path: Path) -> None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(item.name for item in fields(Point))
            writer.writerows(asdict(point).values() for point in self.points)

    def __str__(self) -> str:
        from hf_llc.report import number, with_error

        rows = [("step", "checkpoint", "λ̂", f"loss ({self.unit})", "verdict")]
        rows += [(str(p.step), p.name, with_error(p.llc, p.llc_se), number(p.loss), p.verdict) for p in self.points]
        hats = [[text.count("\u0302") for text in row] for row in rows]  # take a character, but no column
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        return "\n".join(
            "  ".join(text.ljust(width + hat) for text, width, hat in zip(row, widths, hat_row, strict=True)).rstrip()
            for row, hat_row in zip(rows, hats, strict=True)
        )


def revisions(model: str, pattern: str) -> list[Checkpoint]:
    """The branches and tags of a model on the Hub that match a pattern (`step*`), in natural order.

    Raises:
        InputError: none matches, no such model, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    from hf_llc.refusals import model_refusal

    def names() -> list[str]:
        try:
            refs = HfApi().list_repo_refs(model)
        except Exception as error:  # no access, no network, no such model: the client has no common type for them
            raise model_refusal(error, model, LoadConfig(model=model)) from error
        return [ref.name for ref in [*refs.branches, *refs.tags]]

    known = Processes().main_does(names)
    found = sorted({name for name in known if fnmatch.fnmatchcase(name, pattern)}, key=natural)
    if not found:
        raise InputError(
            "no branch or tag matches", value=pattern, allowed=", ".join(sorted(known, key=natural)[:20]) or "none"
        )
    return [Checkpoint(name, {"model": model, "revision": name}) for name in found]


def checkpoint_folders(folder: str | Path) -> list[Checkpoint]:
    """The subfolders that hold a config.json (those of Trainer are called checkpoint-500 …), in natural order.

    Raises:
        InputError: there is none.
    """
    folder = Path(folder)
    found = [path.parent for path in folder.glob("*/config.json")] if folder.is_dir() else []
    if not found:
        raise InputError("no checkpoints there", value=str(folder), allowed="a folder of folders with config.json")
    return [Checkpoint(path.name, {"model": str(path)}) for path in sorted(found, key=lambda path: natural(path.name))]


def weight_files(
    files: Sequence[str | Path], factory: str | Callable[[], Any], *, allow_pickle: bool = False
) -> list[Checkpoint]:
    """Weights of a plain module, one file each, in natural order.

    Args:
        files: *.safetensors; with `allow_pickle` also what torch.save wrote (read with weights_only).
        factory: a function, or `module:function` (a module of the current folder or an installed one), that returns
            the network and its loss: `(module, loss_fn)`, loss_fn(outputs, labels) → `[batch]` in nats.

    Raises:
        InputError: no such file, function or module; from `open`, weights that do not fit.
    """
    make = _function(factory) if isinstance(factory, str) else factory
    paths = sorted(map(Path, files), key=lambda path: natural(path.name))
    for path in paths:
        if not path.is_file():
            raise InputError("no such weights file", value=path.name, remedy="check the path")
        if path.suffix != ".safetensors" and not allow_pickle:
            raise InputError(
                "a weights file that is not safetensors", value=path.name, remedy="convert it, or give allow_pickle"
            )

    def opener(path: Path) -> Callable[[], tuple[nn.Module, Any]]:
        return lambda: _filled(make, path)

    return [Checkpoint(path.stem, {}, opener(path)) for path in paths]


def _function(name: str) -> Callable[[], Any]:
    """The function that `module:function` names."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise InputError("factory is not a function's name", value=name, allowed="module:function")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError("no such factory", value=name, remedy=f"{type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())


def _filled(make: Callable[[], Any], path: Path) -> tuple[nn.Module, Any]:
    """The factory's module with the weights of a file, and the loss."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    made = make()
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module) and callable(made[1])):
        raise InputError("the factory returns something else", value=type(made).__name__, allowed="(module, loss_fn)")
    module, loss_fn = made
    try:
        is_safe = path.suffix == ".safetensors"
        module.load_state_dict(load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, SafetensorError) as error:
        text = " ".join(str(error).split())[:200]
        raise InputError("the weights do not fit the factory's module", value=path.name, remedy=text) from error
    return module.to(Processes().device), loss_fn


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key under which step9 comes before step10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def steps_of(names: Sequence[str]) -> list[int]:
    """The number in each name that tells them apart (the first that does), else 0, 1, 2 …"""
    numbers = [re.findall(r"\d+", name) for name in names]
    for column in zip(*numbers, strict=False):
        if len({int(number) for number in column}) == len(names):
            return [int(number) for number in column]
    return list(range(len(names)))


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
