"""`LLCEvaluator`: λ̂ of a model on data, with the interface of `evaluate`'s evaluators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, overload

import torch

from hf_llc.config import LoadConfig, SampleConfig, from_mapping
from hf_llc.errors import InputError
from hf_llc.presets import preset as preset_named
from hf_llc.result import LLCResult
from hf_llc.studies.like import Like
from hf_llc.studies.like import like as read_like
from hf_llc.workflow.estimate_model import estimate_model
from hf_llc.workflow.opened_run import Given


class LLCEvaluator:
    """Estimates the local learning coefficient λ(w*) of models at their weights w*, by Langevin sampling around w*.

    Args:
        config: all settings at once, or
        like: a result, its folder, or a calibration's folder or calibrated.yaml: nβ, γ, ε, sampler, chains, draws, seed
            and data are taken from there, so that the two λ̂ can be compared. A setting that contradicts is refused.
        preset: "timaeus" or "paper-lm", settings of published work (`hf_llc.presets`); others by name override them.
        **settings: any of `SampleConfig`'s fields by name.

    Raises:
        InputError: a setting is unknown or out of range, or contradicts `like`.

    Examples:
        >>> from hf_llc import LLCEvaluator
        >>> evaluator = LLCEvaluator(num_chains=4, num_draws=200)
        >>> result = evaluator.compute("roneneldan/TinyStories-1M", data="roneneldan/TinyStories",
        ...                            split="validation", max_examples=2000)  # doctest: +SKIP
    """

    def __init__(
        self,
        config: SampleConfig | None = None,
        *,
        like: LLCResult | str | Path | None = None,
        preset: str | None = None,
        **settings: Any,
    ) -> None:
        if preset is not None:
            if config is not None:
                raise InputError("config and preset are both given", remedy="give one, and other settings by name")
            settings = {**preset_named(preset), **settings}
        if like is not None and config is not None:
            raise InputError("config and like are both given", remedy="give one, and other settings by name")
        self.like = None if like is None else read_like(like)
        settings = settings if self.like is None else self.like.with_sample(settings)
        base = SampleConfig() if config is None else config
        if not isinstance(base, SampleConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                "config is not a SampleConfig", value=type(config).__name__, remedy="give settings by name"
            )
        base_settings = {item.name: getattr(base, item.name) for item in fields(base)}
        self.config = from_mapping(SampleConfig, {**base_settings, **settings}, source="LLCEvaluator")

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
        """Estimate λ̂ of a model on data, with its standard error, diagnostics and verdict.

        The arguments have the names of `evaluate`'s own `Evaluator.compute`.

        Args:
            model_or_pipeline: Hub id, local folder, `PreTrainedModel`, `transformers.Pipeline`, TransformerLens model,
                or any `nn.Module` (with `loss_fn`); None: the tiny model that comes with the package.
            data: Hub id, local folder or file, `Dataset`, rows, `IterableDataset`, or tensors; None: the text that
                comes with the package.
            loss_fn: `loss_fn(outputs, labels)` → per-example losses `[batch]` in nats, for a plain module.
            tokenizer: tokenizer or image processor, or its Hub id; None: the model's own.
            feature_extractor: another name for the image processor.
            label_mapping: the model's name of each label → its value in the data: `{"NEGATIVE": 0, "POSITIVE": 1}`.
            as_dict: return `LLCResult.metrics()`, a plain dictionary that can be merged with those of other metrics.
            output: folder for the result, in which a killed call continues; None: nothing is kept on disk.
            resume: True: there must be a run to continue; False: there must be none; None: continue if there is one.
            overwrite: discard what is in `output`.
            progress: show progress bars on a terminal.
            **settings: `LoadConfig`'s fields by name: revision, subset, split, input_column, second_input_column,
                label_column, task, max_length, max_examples, loss_normalization, … `device` may be a number, as in
                evaluate: −1 is the CPU.

        Raises:
            InputError: bad input, refused before any long work.
            KeyboardInterrupt: after Ctrl-C; with `output`, the same call continues from there.
        """
        load, given = asked(
            model_or_pipeline,
            data,
            loss_fn=loss_fn,
            tokenizer=tokenizer,
            feature_extractor=feature_extractor,
            label_mapping=label_mapping,
            like=self.like,
            **settings,
        )
        result = estimate_model(
            load, self.config, given, output=output, resume=resume, overwrite=overwrite, progress=progress
        )
        return result.metrics() if as_dict else result


def asked(
    model_or_pipeline: Any,
    data: Any,
    *,
    loss_fn: Any = None,
    tokenizer: Any = None,
    feature_extractor: Any = None,
    label_mapping: Mapping[str, Any] | None = None,
    like: Like | None = None,
    **settings: Any,
) -> tuple[LoadConfig, Given]:
    """What the arguments of `LLCEvaluator.compute` ask for: settings, and objects in place of names.

    Raises:
        InputError: a setting is unknown or out of range.
    """
    if feature_extractor is not None:
        if tokenizer is not None:
            raise InputError("tokenizer and feature_extractor are both given", remedy="give one")
        tokenizer = feature_extractor
    settings = _with_device_name(settings, model_or_pipeline)
    for name, value in (("model", model_or_pipeline), ("data", data), ("tokenizer", tokenizer)):
        if isinstance(value, (str, Path)):
            settings[name] = str(value)
    if like is not None:
        settings = like.with_load(settings, data=data)
    load = from_mapping(LoadConfig, settings, source="LLCEvaluator.compute")
    objects = {"model": model_or_pipeline, "data": data, "tokenizer": tokenizer}
    fingerprint = None if like is None else like.data_fingerprint
    return load, Given(**objects, loss_fn=loss_fn, label_mapping=label_mapping, data_fingerprint=fingerprint)


def _with_device_name(settings: dict[str, Any], model_or_pipeline: Any) -> dict[str, Any]:
    """Turn evaluate's device number (−1: CPU) into a name; drop it if the model given is on that device already."""
    device = settings.get("device")
    if isinstance(device, bool) or not isinstance(device, (int, torch.device)):
        return settings
    if isinstance(device, int):
        device = torch.device("cpu") if device < 0 else torch.device("cuda", device)
    rest = {name: value for name, value in settings.items() if name != "device"}
    return rest if getattr(model_or_pipeline, "device", None) == device else {**rest, "device": str(device)}
