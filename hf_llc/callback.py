"""`LLCCallback`: λ̂ along a training run of transformers' Trainer, which goes on as if nothing had happened."""

from __future__ import annotations

import logging
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from datasets.utils.py_utils import temp_seed  # pyright: ignore[reportMissingTypeStubs]
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_llc.backend.global_random import random_numbers_kept
from hf_llc.backend.torch_modes import own_modes
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError, is_out_of_memory
from hf_llc.evaluator import LLCEvaluator, asked
from hf_llc.files import plain_value
from hf_llc.parallel.processes import outliving_faults
from hf_llc.parallel.sharding import is_sharded
from hf_llc.result import LLCResult
from hf_llc.setting_checks import unknown_setting
from hf_llc.studies.shared_settings import KEPT, keep_settings, kept_settings, remedy_for, with_settings
from hf_llc.workflow.estimate_model import estimate_model
from hf_llc.workflow.opened_run import Given, loaded

_BUDGET: dict[str, Any] = {"num_chains": 2, "num_draws": 100, "max_steps": 1000}
"""Defaults in place of `LLCEvaluator`'s: training waits while λ̂ is measured."""
_OBJECTS = ("loss_fn", "tokenizer", "feature_extractor", "label_mapping")
"""What `LLCEvaluator.compute` takes besides the settings, and this callback too."""

_log = logging.getLogger(__name__)


class LLCCallback(TrainerCallback):
    """Measures λ̂ of the model at intervals during training, and logs it where the Trainer logs.

    Each measurement logs `llc`, `llc_se`, `llc_init_loss` (L_n(w*) on the callback's data) and `llc_trustworthy` (1, or
    0 if the verdict is bad) by `Trainer.log`, and so to `state.log_history` and every tracker of `report_to`. Numbers
    that are not finite are left out. `results` holds the full results by step, with the reasons of each verdict.

    Two λ̂ compare only at equal nβ and γ. So a training has one nβ, γ, ε and friction: those given, or those that the
    first measurement finds. They are kept with the Trainer's state, and a resumed training goes on with them. Each
    measurement also logs `llc_nbeta` and `llc_localization` (γ), and its cost: `llc_gradients` and `llc_seconds`. Noise
    and minibatches are the same in all measurements, so differences of λ̂ are more certain than each λ̂
    (`hf-llc compare`).

    The first measurement calibrates. Each later one takes as many steps as the last attempt of the first one. With the
    check of γ these are at most 1.5 · num_chains · max_steps.

    The callback does not change the training: losses, weights, gradients, modes, random numbers and the order of the
    data are bit for bit those of a run without it. Several processes share the chains. The model is measured as the
    Trainer runs it: with `bf16=True` the forward pass is autocast here too.

    The logger `hf_llc.callback` warns of a bad verdict, once for each kind, and says what to do.

    The callback does not end the training either. Settings, model and data are tested when the callback is made. If a
    measurement fails later, the logger warns once; `llc` is then NaN, and `llc_trustworthy` is 0.

    Args:
        trainer: the Trainer, whose `log` is called.
        every: "epoch"; "save", after each checkpoint; or a number of steps.
        data: the data on which λ̂ is measured, usually training data; anything that `LLCEvaluator.compute` takes.
        name: of the callback, if a Trainer has several: with "train" the log has `llc/train`, `llc_se/train` and so on.
        **settings: `LLCEvaluator`'s settings (by default 2 chains of 100 draws and at most 1000 steps) and those of
            its `compute`, such as max_examples, label_column and loss_fn.

    Raises:
        InputError: a setting is unknown or out of range, the model cannot be measured on the data, or the Trainer
            shards its weights (FSDP, DeepSpeed).

    Examples:
        >>> trainer.add_callback(LLCCallback(trainer, every=500, data={"text": texts}))  # doctest: +SKIP

        A training loop on accelerate needs no callback:

        >>> for epoch in range(2):
        ...     for x, y in loader:
        ...         loss = squared_error(model(x), y).mean()
        ...         accelerator.backward(loss)
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        ...     w_star = accelerator.unwrap_model(model)
        ...     result = LLCEvaluator(num_chains=2, num_draws=50).compute(w_star, data=pairs, loss_fn=squared_error)
        ...     accelerator.log(tracked(result), step=epoch)
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        every: int | Literal["epoch", "save"] = "epoch",
        data: Any,
        name: str | None = None,
        **settings: Any,
    ) -> None:
        _check_trainer(trainer, name)
        self.trainer, self.every, self.data, self.name = trainer, _interval(every, trainer.args), data, name
        sampling = {item.name for item in fields(SampleConfig)}
        known = [*sampling, *(item.name for item in fields(LoadConfig)), *_OBJECTS]
        for key in settings:
            if key not in known:
                raise unknown_setting(key, sorted(known), source="LLCCallback", owner=None)
        self.evaluator = LLCEvaluator(**{**_BUDGET, **{k: v for k, v in settings.items() if k in sampling}})
        for key in ("data_parallel", "parameter_parallel"):  # one fault would leave the rest of its group waiting
            if getattr(self.evaluator.config, key) > 1:
                raise InputError(f"{key} is not for a callback", value=settings[key], remedy="leave it out")
        self.settings = {k: v for k, v in settings.items() if k not in sampling}
        self.results: dict[int, LLCResult] = {}
        self._said: set[str] = set()
        with own_modes(), random_numbers_kept(), temp_seed(0, set_pytorch=True):
            host: Any = trainer
            load, given = self._asked(host.model, host.processing_class)
            loaded(load, self.evaluator.config, given)  # refused now, not after an epoch

    def _asked(self, model: Any, processing_class: Any) -> tuple[LoadConfig, Given]:
        accelerator: Any = self.trainer.accelerator
        settings = self.settings
        if settings.keys().isdisjoint(("loss_fn", "tokenizer", "feature_extractor")):
            settings = {**settings, "tokenizer": processing_class}
        return asked(accelerator.unwrap_model(model), self.data, **settings)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure if `every` is "epoch"."""
        if self.every == "epoch":
            self._measure(state, control, **kwargs)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure if `every` is "save"."""
        if self.every == "save":
            self._measure(state, control, **kwargs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure if `every` is a number and divides the step."""
        if isinstance(self.every, int) and state.global_step % self.every == 0:
            self._measure(state, control, **kwargs)

    def _measure(
        self, state: TrainerState, control: TrainerControl, *, model: Any, processing_class: Any = None, **_: Any
    ) -> None:
        try:
            # what a user's loss or transform draws is the same at every measurement, and training does not notice
            with outliving_faults(), random_numbers_kept(), temp_seed(0, set_pytorch=True):
                load, given = self._asked(model, processing_class)
                result = estimate_model(load, self._sampling(state), given, progress=False)
            self.results[state.global_step] = result
            self._keep(state, result)
            self._advise(state, result)
            values = tracked(result)
        except Exception as error:  # not KeyboardInterrupt: training can be stopped
            self._warn(error, state)
            values = {"llc": math.nan, "llc_trustworthy": 0.0}
        is_due = control.should_log
        self.trainer.log({_named(key, self.name): value for key, value in values.items()})
        control.should_log = is_due  # log() clears it, and the Trainer's own log of this step would be lost

    def _sampling(self, state: TrainerState) -> SampleConfig:
        """The settings of the next measurement: as asked for, with what an earlier one found."""
        config = self.evaluator.config
        return with_settings(config, kept_settings(config, _store(state), _named(KEPT, self.name)))

    def _keep(self, state: TrainerState, result: LLCResult) -> None:
        """Keep what the measurement found with the Trainer's state, also in a checkpoint that was just written."""
        is_new = keep_settings(self.evaluator.config, result, _store(state), _named(KEPT, self.name))
        arguments: Any = self.trainer.args
        written = Path(str(arguments.output_dir)) / f"checkpoint-{state.global_step}" / "trainer_state.json"
        if is_new and self.every == "save" and arguments.should_save and written.exists():
            state.save_to_json(str(written))

    def _advise(self, state: TrainerState, result: LLCResult) -> None:
        """Say once in the main process's log what to do about each kind of bad verdict."""
        remedy = remedy_for(self.evaluator.config, result)
        line = f"{result.verdict} → {remedy}"
        if remedy and state.is_world_process_zero and line not in self._said:
            self._said.add(line)
            name, step = _named("llc", self.name), state.global_step
            _log.warning("%s is not to be trusted at step %d: %s (said once)", name, step, line)

    def _warn(self, error: Exception, state: TrainerState) -> None:
        """Say once in the main process's log why there is no λ̂; a fault that nobody foresaw with its traceback."""
        is_foreseen = isinstance(error, InputError) or is_out_of_memory(error)
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        line = " ".join(text.split())[:300]
        if state.is_world_process_zero and line not in self._said:
            self._said.add(line)
            what = f"{_named('llc', self.name)} could not be measured at step {state.global_step}, and training goes on"
            _log.warning("%s: %s", what, line, exc_info=None if is_foreseen else error)


def _store(state: TrainerState) -> dict[str, Any]:
    """Where the Trainer's state, and with it each checkpoint, has room for what callbacks keep."""
    store: Any = state.stateful_callbacks
    return store


def _named(key: str, name: str | None) -> str:
    return key if name is None else f"{key}/{name}"


def _check_trainer(host: Any, name: Any) -> None:
    """Refuse a Trainer that shards its weights, and a name that is none or taken."""
    if not isinstance(host, Trainer):  # a caller may have no type checker
        raise InputError("the first argument is not a Trainer", value=type(host).__name__, remedy="give the Trainer")
    trainer: Any = host
    sharded = {
        "FSDP": trainer.is_fsdp_enabled, "DeepSpeed": trainer.is_deepspeed_enabled, "shards": is_sharded(trainer.model)
    }  # fmt: skip
    if any(sharded.values()):
        raise InputError(
            "the Trainer shards its weights, and λ̂ needs a whole model on each process",
            value=next(kind for kind, is_used in sharded.items() if is_used),
            remedy="measure its checkpoints with hf-llc curve",
        )
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise InputError("the callback's name is not a word", value=name, allowed="a word, such as 'train'")
    others = [each.name for each in trainer.callback_handler.callbacks if isinstance(each, LLCCallback)]
    if name in others:
        remedy = "give each a name of its own: name='train', name='val'"
        raise InputError("this Trainer has an LLCCallback of that name", value=name or "no name", remedy=remedy)


def _interval(every: Any, arguments: TrainingArguments) -> int | Literal["epoch", "save"]:
    """`every` as a plain number or word, if it is one at which the Trainer does something."""
    every = plain_value(every)
    is_count = isinstance(every, int) and not isinstance(every, bool) and every >= 1
    if not (is_count or every in ("epoch", "save")):
        raise InputError("every is out of range", value=every, allowed="'epoch', 'save', or a number of steps")
    if every == "save" and plain_value(arguments.save_strategy) == "no":
        raise InputError("every is 'save', but this Trainer saves nothing", remedy="set its save_strategy, or every")
    return every


def tracked(result: LLCResult) -> dict[str, float]:
    """Numbers for a tracker.

    `llc`, `llc_se`, `llc_init_loss`; `llc_nbeta` and `llc_localization`, to which λ̂ belongs; `llc_gradients` and
    `llc_seconds`, what it cost: those that are finite. `llc_trustworthy` is 1 or 0.
    """
    values = {
        "llc": result.llc,
        "llc_se": result.llc_se,
        "llc_init_loss": result.init_loss,
        "llc_nbeta": result.nbeta,
        "llc_localization": result.localization,
        "llc_gradients": result.num_gradients,
        "llc_seconds": result.wall_seconds,
    }
    return {
        **{name: value for name, value in values.items() if math.isfinite(value)},
        "llc_trustworthy": float(result.is_trustworthy),
    }
