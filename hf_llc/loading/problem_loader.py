"""A model and data, by name or as objects → a `Problem`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import transformers

from hf_llc.clock import TimeIsUp
from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize, open_data
from hf_llc.loading.hub_errors import data_refusal, is_of_reading
from hf_llc.loading.labels import translate_labels
from hf_llc.loading.loaded_weights import narrow_if_lossless
from hf_llc.loading.local_files import refuse_parts
from hf_llc.loading.model_sources import open_model
from hf_llc.loading.names import check_data_given, public_name
from hf_llc.loading.nested_columns import with_nested
from hf_llc.loading.probe import probe
from hf_llc.loading.tasks.recognition import task_of_model
from hf_llc.loading.tasks.task import Encoded, Task
from hf_llc.loading.tensor_data import check_finite, dataset_of, is_tensors
from hf_llc.parallel.processes import process_state
from hf_llc.parallel.sharding import hash_of, is_sharded
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
    """Load a model and data, and make the empirical loss of one on the other.

    Args:
        model_or_pipeline: Hub id, folder, `PreTrainedModel`, `Pipeline`, TransformerLens model, or any `nn.Module` with
            a `loss_fn`; None: the embedded model.
        data: Hub id, folder, file, `Dataset`, `IterableDataset` or tensors; None: the embedded text.
        config: says which task, revision, split, columns, lengths, …
        loss_fn: `loss_fn(outputs, labels)` → `[batch]`, for a plain module.
        tokenizer: tokenizer or image processor, or its id or folder; None: the model's own.
        label_mapping: the data's value for each of the model's labels, by the model's name; None: no translation.

    Raises:
        InputError: anything that cannot be used, in one line, before any long work.
    """
    check_data_given(model_or_pipeline, data)
    if data is None:
        from hf_llc.embedded import text_path

        data = str(text_path())
    all_at_once = is_sharded(model_or_pipeline)  # reading sharded weights takes all processes
    with contextlib.nullcontext() if all_at_once else _first_on_this_machine(), _hushed():
        model, processor, about = open_model(model_or_pipeline, config, tokenizer)
        task = task_of_model(model, config, loss_fn)
        encoded, source = _encode(model, task, data, processor, config, label_mapping)
    _check_columns_used(encoded.facts, task, config)
    examples = encoded.examples
    if len(next(iter(examples.values()))) < 2:
        raise InputError("the data has a single example", allowed="two or more", remedy="give more data")
    check_finite(examples, encoded.facts)
    probe(model, encoded, is_loss_given=loss_fn is not None)
    if model_or_pipeline is None or isinstance(model_or_pipeline, (str, os.PathLike)):
        narrow_if_lossless(model)  # a model given as an object stays as it is
    facts = {
        **source,
        "fingerprint": hash_of(examples.values()),  # the one of `datasets` changes with a file's date
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
        task=task.name,
        provenance={"model": about, "data": facts},
        token_losses=encoded.token_losses,
        processor=None if isinstance(processor, InputError) else processor,
    )


def _check_columns_used(facts: Mapping[str, Any], task: Task, config: LoadConfig) -> None:
    """Check that the columns asked for are those that were read.

    Raises:
        InputError: one is not. The result would name what was not used.
    """
    for name in ("input_column", "second_input_column", "label_column"):
        asked = getattr(config, name)
        if asked is not None and facts.get(name) != asked:
            raise InputError(
                f"{name} is not used by this task on such data ({task.name})", value=asked, remedy="leave it out"
            )


def _encode(
    model: Any, task: Task, data: Any, processor: Any, config: LoadConfig, label_mapping: Mapping[str, Any] | None
) -> tuple[Encoded, dict[str, Any]]:
    """The data as the task encodes them, and where they came from."""
    if is_tensors(data):
        refuse_parts(config)
    if label_mapping is not None and not task.label_mapping_columns:
        raise InputError("label_mapping is for text and image classification", value=task.name, remedy="leave it out")
    if is_tensors(data):
        if task.takes_tensors:
            return task.encode(model, data, processor, config), {"id": None, "kind": type(data).__name__}
        data = dataset_of(data, task.pair_columns, task.name, config)
    is_document = task.joins_documents and config.packing == "packed"
    opened, source = open_data(data, config, sample_by="document" if is_document else "paragraph")
    with _refused_if_unread(opened, source, config):
        opened = with_nested(opened, config)
        if label_mapping is not None:
            opened = materialize(opened, config)
            name = column(opened, config.label_column, task.label_mapping_columns, "label_column")
            opened = translate_labels(opened, name, label_mapping)
            source = {**source, "label_mapping": dict(label_mapping)}
        return task.encode(model, opened, processor, config), source


@contextlib.contextmanager
def _refused_if_unread(data: Any, source: Mapping[str, Any], config: LoadConfig) -> Iterator[None]:
    """Refuse errors of reading a stream, which is read while it is encoded, as those of other data."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(data, datasets.IterableDataset) and is_of_reading(error):
            raise data_refusal(error, source["id"] or "stream", config) from error
        raise


@contextlib.contextmanager
def _first_on_this_machine() -> Iterator[None]:
    """Let one process of each machine go first, so that it downloads and fills the caches once."""
    state = process_state()
    if not state.is_local_main_process:
        state.wait_for_everyone()
    try:
        yield
    except (Exception, TimeIsUp):
        if state.is_local_main_process:
            state.wait_for_everyone()  # the others do not wait: they meet the same error, or their time is up too
        raise
    if state.is_local_main_process:
        state.wait_for_everyone()


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Silence transformers while models load, and show progress bars on a terminal only."""
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
    if processor is None or isinstance(processor, InputError):
        return None
    return public_name(getattr(processor, "name_or_path", None)) or type(processor).__name__
