"""`LLCCallback`: λ̂ along a training run of transformers' Trainer, which goes on as if nothing had happened."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from datasets.utils.py_utils import temp_seed  # pyright: ignore[reportMissingTypeStubs]
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_llc.backend.global_random import random_numbers_kept
from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.evaluator import LLCEvaluator
from hf_llc.parallel.processes import Processes
from hf_llc.result import LLCResult
from hf_llc.studies.shared_settings import keep_settings, kept_settings, with_settings

_BUDGET: dict[str, Any] = {"num_chains": 2, "num_draws": 100, "max_steps": 1000}
"""Defaults in place of `LLCEvaluator`'s: training waits while λ̂ is measured."""

_KEPT = "hf_llc"
"""Key of what the first measurement found, in `TrainerState.stateful_callbacks`."""


class LLCCallback(TrainerCallback):
    """Measures λ̂ of the model at intervals during training, and logs it where the Trainer logs.

    Each measurement logs `llc`, `llc_se`, `llc_init_loss` (L_n(w*) on the callback's data) and `llc_trustworthy` (1, or
    0 if the verdict is bad) by `Trainer.log`, and so to `state.log_history` and every tracker of `report_to`. Numbers
    that are not finite are left out. `results` holds the full results by step, with the reasons of each verdict.

    λ̂ compare only at equal nβ and γ. So a training has one nβ, γ, ε and friction: those given, or those that the first
    measurement finds. They are kept with the Trainer's state, and a resumed training goes on with them. Each one logs
    its `llc_nbeta` and `llc_localization` (γ), and what it cost: `llc_gradients` and `llc_seconds`. Noise and
    minibatches are the same at each, so differences of λ̂ are more certain than each λ̂ (`hf-llc compare`).

    The first measurement calibrates. Each later one takes as many steps as the first one's last attempt: with the check
    of γ at most 1.5 · num_chains · max_steps.

    Training is not changed: losses, weights, gradients, modes, random numbers and the order of the data are bit for bit
    those of a run without the callback. Several processes share the chains out. The model is measured as the Trainer
    runs it: with `bf16=True` the forward pass is autocast here too.

    Args:
        trainer: the Trainer, whose `log` is called.
        every: "epoch"; "save", after each checkpoint; or a number of steps.
        data: the data on which λ̂ is measured, usually training data; anything that `LLCEvaluator.compute` takes.
        **settings: `LLCEvaluator`'s settings (by default 2 chains of 100 draws and at most 1000 steps) and those of
            its `compute`, such as max_examples, label_column and loss_fn.

    Raises:
        InputError: a setting is unknown or out of range, or the Trainer shards its weights (FSDP, DeepSpeed).

    Example:
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
        self, trainer: Trainer, *, every: int | Literal["epoch", "save"] = "epoch", data: Any, **settings: Any
    ) -> None:
        is_count = isinstance(every, int) and every >= 1  # a caller may have no type checker
        if not (every in ("epoch", "save") or is_count):
            raise InputError("every is out of range", value=every, allowed="'epoch', 'save', or a number of steps")
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise InputError(
                "the Trainer shards its weights, and λ̂ needs a whole model on each process",
                value="FSDP" if trainer.is_fsdp_enabled else "DeepSpeed",
                remedy="measure its checkpoints with hf-llc curve",
            )
        names = {item.name for item in fields(SampleConfig)}
        self.evaluator = LLCEvaluator(**{**_BUDGET, **{k: v for k, v in settings.items() if k in names}})
        Processes(self.evaluator.config.data_parallel)  # refuses a bad group size now, not at the first measurement
        self.settings = {k: v for k, v in settings.items() if k not in names}
        self.trainer, self.every, self.data = trainer, every, data
        self.results: dict[int, LLCResult] = {}

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
        settings = self.settings
        if settings.keys().isdisjoint(("loss_fn", "tokenizer", "feature_extractor")):
            settings = {**settings, "tokenizer": processing_class}
        # what a user's loss or transform draws is the same at every measurement, and training does not notice
        with random_numbers_kept(), temp_seed(0, set_pytorch=True):
            accelerator: Any = self.trainer.accelerator
            w_star = accelerator.unwrap_model(model)
            evaluator = LLCEvaluator(self._sampling(state))
            result = evaluator.compute(w_star, data=self.data, as_dict=False, progress=False, **settings)
        self.results[state.global_step] = result
        self._keep(state, result)
        is_due = control.should_log
        self.trainer.log(tracked(result))
        control.should_log = is_due  # log() clears it, and the Trainer's own log of this step would be lost

    def _sampling(self, state: TrainerState) -> SampleConfig:
        """The settings of the next measurement: as asked for, with what an earlier one found."""
        config = self.evaluator.config
        return with_settings(config, kept_settings(config, _store(state), _KEPT))

    def _keep(self, state: TrainerState, result: LLCResult) -> None:
        """Keep what the measurement found with the Trainer's state, also in a checkpoint that was just written."""
        is_new = keep_settings(self.evaluator.config, result, _store(state), _KEPT)
        arguments = self.trainer.args
        written = Path(str(arguments.output_dir)) / f"checkpoint-{state.global_step}" / "trainer_state.json"
        if is_new and self.every == "save" and arguments.should_save and written.exists():
            state.save_to_json(str(written))


def _store(state: TrainerState) -> dict[str, Any]:
    """Where the Trainer's state, and with it each checkpoint, has room for what callbacks keep."""
    store: Any = state.stateful_callbacks
    return store


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
