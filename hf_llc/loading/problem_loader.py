"""Hub ids, folders and objects → a `Problem`: a model, tensors, per-example losses, and where all of it came from."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import torch
import transformers
from transformers import PreTrainedModel

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, is_tensors, materialize, open_data, refuse_parts, tensors_of
from hf_llc.loading.hub_errors import data_refusal, is_of_reading, public_name
from hf_llc.loading.labels import LABELS, name_labels
from hf_llc.loading.model_sources import check_weights, narrowed, open_model
from hf_llc.loading.tasks import losses
from hf_llc.loading.tasks.plain import features, plain
from hf_llc.loading.tasks.registry import AUTO_CLASSES, ENCODERS, task_from
from hf_llc.loading.tasks.tokenization import is_transformer_lens
from hf_llc.parallel.processes import process_state
from hf_llc.parallel.sharding import hash_of, is_split
from hf_llc.problem import Problem


def load_problem(
    model_or_pipeline: Any,
    data: Any,
    config: LoadConfig,
    *,
    loss_fn: Any = None,
    tokenizer: Any = None,
    label_mapping: Mapping[str, Any] | None = None,
) -> Problem:
    """The empirical loss of a model on data.

    Args:
        model_or_pipeline: Hub id, folder, `PreTrainedModel`, `Pipeline`, TransformerLens model, or any `nn.Module` with
            a `loss_fn`; None: the embedded model.
        data: Hub id, folder, file, `Dataset`, `IterableDataset` or tensors; None: the embedded text.
        config: revision, split, columns, lengths …
        loss_fn: `loss_fn(outputs, labels)` → `[batch]`, for a plain module.
        tokenizer: tokenizer or image processor, or its id or folder; None: the model's own.
        label_mapping: what the data calls each of the model's labels, by the model's name for it; None: as it stands.

    Raises:
        InputError: anything that cannot be used, in one line, before any long work.
    """
    if data is None:
        if model_or_pipeline is not None:
            raise InputError("no data given", remedy="give data: a Hub id, a folder or a file")
        from hf_llc.embedded import text_path

        data = str(text_path())
    together = is_split(model_or_pipeline)  # looking at its weights takes all processes at once
    with contextlib.nullcontext() if together else _first_on_this_machine(), _hushed():
        model, processor, about = open_model(model_or_pipeline, config, tokenizer)
        check_weights(model)
        task = _task_of(model, config, loss_fn)
        encoded, source = _encode(model, task, data, processor, config, loss_fn, label_mapping)
    examples = encoded.examples
    if len(next(iter(examples.values()))) < 2:
        raise InputError("the data has a single example", allowed="two or more", remedy="give more data")
    names = {"inputs": encoded.facts.get("input_column"), "labels": encoded.facts.get("label_column")}
    _check_finite(examples, names)
    if model_or_pipeline is None or isinstance(model_or_pipeline, (str, os.PathLike)):
        narrowed(model)  # a model that was given stays as it is
    facts = {
        **source,
        "fingerprint": hash_of(examples.values()),  # that of `datasets` changes with a file's date
        **encoded.facts,
        "num_examples": len(next(iter(examples.values()))),
    }
    about = {**about, "class": type(model).__name__, "tokenizer": _name_of(processor)}
    return Problem(
        model=model,
        examples=examples,
        losses=encoded.losses,
        n=encoded.n,
        unit=encoded.unit,
        trivial_loss=encoded.trivial_loss,
        task=task,
        provenance={"model": about, "data": facts},
    )


def _encode(
    model: Any,
    task: str,
    data: Any,
    processor: Any,
    config: LoadConfig,
    loss_fn: Any,
    label_mapping: Mapping[str, Any] | None,
) -> tuple[losses.Encoded, dict[str, Any]]:
    """Tensors and losses of the data for this task, and where the data came from."""
    if is_tensors(data):
        refuse_parts(config)
    if label_mapping is not None and task not in ("text-classification", "image-classification"):
        raise InputError("label_mapping is for text and image classification", value=task, remedy="leave it out")
    if task != "plain":
        if is_tensors(data):
            data = _tensors_as_dataset(data, task, config)
        is_whole = task == "text-generation" and config.packing == "packed"
        opened, source = open_data(data, config, sample_by="document" if is_whole else "paragraph")
        with _refused_if_unread(opened, source, config):
            if label_mapping is not None:
                opened = materialize(opened, config)
                name = column(opened.column_names, config.label_column, LABELS, "label_column")
                opened = name_labels(opened, name, label_mapping)
                source = {**source, "label_mapping": dict(label_mapping)}
            return ENCODERS[task](model, opened, processor, config), source
    facts: dict[str, Any] = {}
    if is_tensors(data):
        inputs, labels = tensors_of(data, config)
        source = {"id": None, "kind": type(data).__name__}
    else:
        opened, source = open_data(data, config)
        with _refused_if_unread(opened, source, config):
            inputs, labels, facts = features(model, opened, config)
    if len(inputs) < 2:
        raise InputError("the data has fewer than two examples", value=len(inputs), allowed="two or more")
    _check_finite(
        {"inputs": inputs, "labels": labels}, {"inputs": facts.get("input_column"), "labels": facts.get("label_column")}
    )
    return plain(inputs, labels, loss_fn=loss_fn, model=model, facts=facts), source


@contextlib.contextmanager
def _refused_if_unread(data: Any, source: Mapping[str, Any], config: LoadConfig) -> Iterator[None]:
    """A stream is read while it is encoded: what goes wrong in reading is said as for other data."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(data, datasets.IterableDataset) and is_of_reading(error):
            raise data_refusal(error, source["id"] or "stream", config) from error
        raise


def _tensors_as_dataset(data: Any, task: str, config: LoadConfig) -> datasets.Dataset:
    """A dictionary of named tensors, or pairs of pixels and labels, as a data set with columns.

    Raises:
        InputError: tensors without names where names are needed.
    """
    if not isinstance(data, dict):
        if task != "image-classification":
            raise InputError(
                "pairs of tensors are for plain modules and image classification",
                value=task,
                remedy="give a dictionary of tensors by column name, a datasets.Dataset, or loss_fn",
            )
        data = dict(zip(("pixel_values", "labels"), tensors_of(data, config), strict=True))
    if len({len(x) for x in data.values()}) != 1:
        raise InputError("the tensors differ in length", value=", ".join(f"{k}: {len(x)}" for k, x in data.items()))
    return datasets.Dataset.from_dict(
        {k: x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x for k, x in data.items()}
    )


@contextlib.contextmanager
def _first_on_this_machine() -> Iterator[None]:
    """One process a machine goes first, so that downloads and caches are made once."""
    state = process_state()
    if not state.is_local_main_process:
        state.wait_for_everyone()
    try:
        yield
    except Exception:
        if state.is_local_main_process:
            state.wait_for_everyone()  # the others meet the same trouble and say so, rather than wait
        raise
    if state.is_local_main_process:
        state.wait_for_everyone()


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """No remarks of transformers while models load, and progress bars only on a terminal."""
    logger = logging.getLogger("transformers")
    level, had_bar = logger.level, transformers.utils.logging.is_progress_bar_enabled()
    had_data_bar = datasets.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if had_bar:
            transformers.utils.logging.enable_progress_bar()
        if had_data_bar:
            datasets.enable_progress_bars()


def _name_of(processor: Any) -> str | None:
    if processor is None:
        return None
    return public_name(getattr(processor, "name_or_path", None)) or type(processor).__name__


def _task_of(model: Any, config: LoadConfig, loss_fn: Any) -> str:
    """The task: plain with a loss_fn, else by the model's class.

    Raises:
        InputError: not known, or at odds with the task asked for.
    """
    if loss_fn is not None or config.task == "plain":
        if loss_fn is None:
            raise InputError("a plain module needs a loss_fn", remedy="give loss_fn(outputs, labels) → losses [batch]")
        if not callable(loss_fn):
            raise InputError("loss_fn cannot be called", value=type(loss_fn).__name__)
        return "plain"
    if is_transformer_lens(model):
        own: str | None = _task_of_transformer_lens(model)
    else:
        own = task_from([c.__name__ for c in type(model).__mro__], getattr(model, "config", None))
        if "TimmWrapperForImageClassification" in type(model).__name__:
            own = "image-classification"
    if own is None and isinstance(model, PreTrainedModel) and config.task is not None:
        return config.task
    if own is None:
        raise InputError(
            "the model's task is not known",
            value=type(model).__name__,
            allowed=", ".join(AUTO_CLASSES),
            remedy="give loss_fn(outputs, labels) → losses [batch]",
        )
    if config.task is not None and config.task != own:
        raise InputError("the model is for another task", value=config.task, allowed=own)
    return own


def _task_of_transformer_lens(model: Any) -> str | None:
    """Causal language models only; others would be given a loss that is not theirs.

    Raises:
        InputError: an encoder.
    """
    wrapped = getattr(model, "original_model", None)
    kinds = [c.__name__ for c in type(model).__mro__]
    is_encoder = any(kind.startswith("HookedEncoder") for kind in kinds)
    is_causal = getattr(model.cfg, "attention_dir", "causal") == "causal"
    task = None if wrapped is None else task_from([c.__name__ for c in type(wrapped).__mro__], wrapped.config)
    if is_encoder or not is_causal or task not in (None, "text-generation"):
        raise InputError(
            "a TransformerLens model that is no causal language model",
            value=type(model).__name__,
            allowed="HookedTransformer, TransformerBridge of a causal language model",
            remedy="give the transformers model itself",
        )
    return "text-generation"


def _check_finite(examples: Mapping[str, torch.Tensor], names: Mapping[str, str | None]) -> None:
    """Floating-point inputs and labels are finite; `names` gives their columns."""
    for key, values in examples.items():
        if values.is_floating_point() and values.numel():
            bad = ~torch.isfinite(values).reshape(len(values), -1).all(1)
            if bool(bad.any()):
                column = names.get(key) or (names.get("inputs") if key != "labels" else None) or key
                row = int(bad.nonzero()[0])
                raise InputError(
                    "the data holds NaN or infinity",
                    value=f"column {column}, row {row}",
                    remedy="drop or mend such rows",
                )
