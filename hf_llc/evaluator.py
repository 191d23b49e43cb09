"""`LLCEvaluator`: the recipe from a model and data to λ̂, from top to bottom."""

from __future__ import annotations

import math
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from hf_llc.calibrate import calibrate_step_size
from hf_llc.config import LoadConfig, SampleConfig, as_dict, from_mapping
from hf_llc.distributed import Processes
from hf_llc.errors import InputError
from hf_llc.estimate import estimate as estimate_llc
from hf_llc.estimate import lower_step_size
from hf_llc.files import check_writable
from hf_llc.loading import load_problem
from hf_llc.minimize import minimize
from hf_llc.posterior import Posterior, preserved, sampled_parameters
from hf_llc.problem import Problem
from hf_llc.progress import ProgressBar
from hf_llc.refusals import public_name
from hf_llc.result import LLCResult
from hf_llc.run_folder import RunFolder, fingerprint
from hf_llc.sampling import Sampling
from hf_llc.versions import package_versions

_AUTO_TOKENS = 2048
"""Tokens a step with batch size "auto": a step of a small language model takes a fraction of a second on one core."""

_MAX_STEP_SIZES = 3
"""With step size "auto" the chains start again at a smaller one, twice at most, if they diverge or run too hot."""


class LLCEvaluator:
    """Estimates the local learning coefficient λ(w*) of models at their weights, by Langevin sampling around them.

    Args:
        config: all settings at once, or
        **settings: any of `SampleConfig`'s fields by name.

    Raises:
        InputError: a setting is unknown or out of range.

    Example:
        >>> from hf_llc import LLCEvaluator
        >>> evaluator = LLCEvaluator(num_chains=4, num_draws=200)
        >>> result = evaluator.compute("roneneldan/TinyStories-1M", data="roneneldan/TinyStories",
        ...                            split="validation", max_examples=2000)  # doctest: +SKIP
    """

    def __init__(self, config: SampleConfig | None = None, **settings: Any) -> None:
        base = SampleConfig() if config is None else config
        self.config = from_mapping(SampleConfig, {**as_dict(base), **settings}, source="LLCEvaluator")

    @overload
    def compute(
        self, model_or_pipeline: Any = None, data: Any = None, *, as_dict: Literal[False] = False, **settings: Any
    ) -> LLCResult: ...

    @overload
    def compute(
        self, model_or_pipeline: Any = None, data: Any = None, *, as_dict: Literal[True], **settings: Any
    ) -> dict[str, Any]: ...

    def compute(
        self,
        model_or_pipeline: Any = None,
        data: Any = None,
        *,
        loss_fn: Any = None,
        tokenizer: Any = None,
        feature_extractor: Any = None,
        label_mapping: Mapping[str, Any] | None = None,
        as_dict: bool = False,
        output: str | Path | None = None,
        resume: bool | None = None,
        overwrite: bool = False,
        progress: bool = True,
        **settings: Any,
    ) -> LLCResult | dict[str, Any]:
        """λ̂ of a model on data, with its standard error, diagnostics and verdict.

        The arguments have the names of `evaluate`'s own `Evaluator.compute`.

        Args:
            model_or_pipeline: Hub id, local folder, `PreTrainedModel`, `transformers.Pipeline`, TransformerLens model,
                or any `nn.Module` (with `loss_fn`); None: the tiny model that comes with the package.
            data: Hub id, local folder or file, `Dataset`, `IterableDataset`, or tensors; None: the text that comes
                with the package.
            loss_fn: `loss_fn(outputs, labels)` → per-example losses `[batch]` in nats, for a plain module.
            tokenizer: tokenizer or image processor, or its Hub id; None: the model's own.
            feature_extractor: another name for the image processor.
            label_mapping: what the data calls each label, by the model's name for it: `{"NEGATIVE": 0, "POSITIVE": 1}`.
            as_dict: return `LLCResult.metrics()`, a plain dictionary that joins those of other metrics.
            output: folder for the result, and for resuming; None: nothing is kept on disk.
            resume: True: there must be a run to go on with; False: there must be none; None: go on if there is.
            overwrite: discard what is in `output`.
            progress: show a bar on a terminal.
            **settings: `LoadConfig`'s fields by name: revision, subset, split, input_column, second_input_column,
                label_column, task, max_length, max_examples, loss_normalization, … `device` may be a number, as in
                evaluate: −1 is the CPU.

        Raises:
            InputError: bad input, refused before any long work.
            KeyboardInterrupt: after Ctrl-C; with `output`, the same call goes on from there.
        """
        if feature_extractor is not None:
            if tokenizer is not None:
                raise InputError("tokenizer and feature_extractor are both given", remedy="give one")
            tokenizer = feature_extractor
        settings = _with_device_name(settings, model_or_pipeline)
        for name, value in (("model", model_or_pipeline), ("data", data), ("tokenizer", tokenizer)):
            if isinstance(value, (str, Path)):
                settings[name] = str(value)
        load = from_mapping(LoadConfig, settings, source="LLCEvaluator.compute")
        result = estimate(
            load,
            self.config,
            model_or_pipeline=model_or_pipeline,
            dataset=data,
            loss_fn=loss_fn,
            tokenizer=tokenizer,
            label_mapping=label_mapping,
            output=output,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
        return result.metrics() if as_dict else result


def _with_device_name(settings: dict[str, Any], model_or_pipeline: Any) -> dict[str, Any]:
    """evaluate's device number (−1: CPU) as a name; dropped where the model given is on that device already."""
    device = settings.get("device")
    if isinstance(device, bool) or not isinstance(device, (int, torch.device)):
        return settings
    if isinstance(device, int):
        device = torch.device("cpu") if device < 0 else torch.device("cuda", device)
    rest = {name: value for name, value in settings.items() if name != "device"}
    return rest if getattr(model_or_pipeline, "device", None) == device else {**rest, "device": str(device)}


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
    processes = Processes()
    if output is None and resume:
        raise InputError("resume needs an output folder", remedy="give output")
    if output is not None:
        processes.main_does(lambda: str(check_writable(output)))
    problem = load_problem(
        load.model if model_or_pipeline is None else model_or_pipeline,
        load.data if dataset is None else dataset,
        load,
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
        with preserved(problem.model):
            run = _Run(problem, sample, folder, processes, progress)
            processes.main_does(lambda: folder.begin(asked, overwrite=overwrite))
            result = run.result(begun)
        if output is not None:
            processes.main_does(lambda: str(result.save(folder.folder)))
            processes.main_does(folder.close)
    return result


def settled(sample: SampleConfig, problem: Problem) -> SampleConfig:
    """The settings with batch size and nβ filled in from the data.

    Raises:
        InputError: the batch is larger than the data, or the loss cannot be sampled.
    """
    examples = problem.num_examples
    few = min(32, max(4, _AUTO_TOKENS // problem.num_positions), examples)
    size = {"full": examples, "auto": few}.get(str(sample.batch_size), sample.batch_size)
    assert isinstance(size, int)
    if size > examples:
        raise InputError(
            "batch_size is larger than the data",
            value=size,
            allowed=f"1 … {examples}, or 'full'",
            remedy="lower batch_size",
        )
    if sample.nbeta is not None:
        nbeta = sample.nbeta
    else:
        nbeta = problem.n * (1 / math.log(problem.n) if sample.beta is None else sample.beta)
    return replace(sample, batch_size=size, nbeta=nbeta, beta=None)


class _Run:
    """One estimate: minimize, calibrate, sample until flat, judge."""

    def __init__(
        self, problem: Problem, sample: SampleConfig, folder: RunFolder, processes: Processes, progress: bool
    ) -> None:
        assert sample.nbeta is not None and isinstance(sample.batch_size, int)
        self.problem, self.sample, self.folder, self.processes = problem, sample, folder, processes
        self.nbeta, self.batch_size = sample.nbeta, sample.batch_size
        self.show = progress and processes.is_main
        self.posterior = self._posterior()
        if sample.chain_batch_size > 1 and not self.posterior.can_batch_chains():
            warnings.warn("the module does not run under torch.vmap: chains run one by one", stacklevel=2)
            self.sample = sample = replace(sample, chain_batch_size=1)
        self.sampling = Sampling(sample, processes=processes, state=folder.state, show=self.show)

    def _posterior(self) -> Posterior:
        """The posterior around where the model is now.

        Raises:
            InputError: the loss there is not finite.
        """
        sample = self.sample
        posterior = Posterior(
            self.problem,
            nbeta=self.nbeta,
            localization=sample.localization,
            micro_batch_size=sample.micro_batch_size,
            mixed_precision=sample.mixed_precision,
            compile=sample.compile,
        )
        bad = torch.flatten(~torch.isfinite(posterior.init_losses)).nonzero()
        if len(bad):
            raise InputError(
                "the loss at w* is not finite",
                value=f"example {int(bad[0])}",
                remedy="check the inputs, the labels and the dtype",
            )
        return posterior

    def result(self, begun: float) -> LLCResult:
        """All stages, each kept in the folder so that a resumed run does not repeat it."""
        moved = self._minimize() if self.sample.minimize else None
        calibration = self._calibrate() if self.sample.step_size == "auto" else None
        step_size = float(self.sample.step_size if calibration is None else calibration["step_size"])
        for attempt in range(_MAX_STEP_SIZES):
            trace, burnin, thinning = self.sampling.until_flat(self.posterior, step_size, attempt=attempt)
            found = estimate_llc(
                trace,
                nbeta=self.nbeta,
                init_loss=self.posterior.init_loss,
                localization=self.sample.localization,
                step_size=step_size,
                sampler=self.sample.sampler,
                num_burnin_steps=burnin,
                num_steps_between_draws=thinning,
                trivial_loss=self.problem.trivial_loss,
            )
            lower = lower_step_size(found, step_size)
            if calibration is None or attempt + 1 == _MAX_STEP_SIZES or lower is None:
                break
            step_size = float(f"{lower:.3g}")
            calibration = {**calibration, "step_size": step_size, "lowered": attempt + 1}
        before = sum(part["num_gradients"] for part in (moved, calibration) if part is not None)
        return LLCResult(
            **{name: getattr(found, name) for name in found.__dataclass_fields__},
            trivial_loss=self.problem.trivial_loss,
            unit=self.problem.unit,
            n=self.problem.n,
            nbeta=self.nbeta,
            localization=self.sample.localization,
            sampler=self.sample.sampler,
            step_size=step_size,
            num_chains=self.sample.num_chains,
            num_draws=self.sample.num_draws,
            num_steps_between_draws=thinning,
            num_burnin_steps=burnin,
            batch_size=self.batch_size,
            chain_batch_size=self.sample.chain_batch_size,
            seed=self.sample.seed,
            mixed_precision=self.sample.mixed_precision,
            minimize=moved,
            calibration=calibration,
            num_gradients=before + self.sampling.num_gradients,
            trace=trace,
            **self._cost(begun),
            **self._subject(),
        )

    def _minimize(self) -> dict[str, Any]:
        """Replace w* by ŵ for this run, on every process the same bits."""
        bar = ProgressBar(enabled=self.show, nbeta=self.nbeta, num_burnin_steps=0)

        def work() -> tuple[Tensor, dict[str, Any]]:
            bar.start(self.sample.minimize_steps, 0, "minimize")
            w, done = minimize(
                self.posterior,
                steps=self.sample.minimize_steps,
                batch_size=self.batch_size,
                state=self.folder.state / "minimize.safetensors",
                save_seconds=self.sample.save_seconds,
                report=bar.set_loss,
            )
            bar.close()
            return w.cpu(), done

        w, done = self.processes.main_does(work)
        start = 0
        del self.posterior  # its anchor is the old w*
        for parameter in sampled_parameters(self.problem.model).values():
            values = w[0, start : start + parameter.numel()].to(parameter.device)
            parameter.data = values.view(parameter.shape).clone()
            start += parameter.numel()
        self.posterior = self._posterior()
        return done

    def _calibrate(self) -> dict[str, Any]:
        """The step size, found once by the main process."""

        def work() -> dict[str, Any]:
            known = self.folder.decided("calibration")
            if known is not None:
                return known
            return self.folder.decide(
                "calibration", calibrate_step_size(self.posterior, seed=self.sample.seed, batch_size=self.batch_size)
            )

        return self.processes.main_does(work)

    def _cost(self, begun: float) -> dict[str, Any]:
        """Time and memory of this call (a resumed run counts its own part)."""
        new_steps = sum(self.processes.gather([self.sampling.new_steps]))
        device = self.posterior.device
        if device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(device)
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {
            "wall_seconds": time.monotonic() - begun,
            "peak_memory_bytes": memory,
            "steps_per_second": new_steps / max(self.sampling.seconds, 1e-9),
        }

    def _subject(self) -> dict[str, Any]:
        """What was measured, on what."""
        total = sum(p.numel() for p in self.problem.model.parameters())
        provenance = self.problem.provenance
        return {
            "num_parameters": self.posterior.num_parameters,
            "num_parameters_total": total,
            "task": self.problem.task,
            "mode": "eval",
            "dtype": str(self.posterior.dtype).removeprefix("torch."),
            "device": self.posterior.device.type,
            "num_processes": self.processes.count,
            "model": provenance.get("model", {}),
            "data": provenance.get("data", {}),
            "versions": package_versions(),
        }
