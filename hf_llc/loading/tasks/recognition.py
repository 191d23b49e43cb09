"""Which task a model is for: from the names of its classes, or from its checkpoint's config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import transformers
from transformers import PreTrainedModel

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.tasks import plain
from hf_llc.loading.tasks.context_length import is_transformer_lens
from hf_llc.loading.tasks.registry import TASKS
from hf_llc.loading.tasks.task import Task

_OF_YOUR_OWN = "load it in Python and give it with a loss_fn(outputs, labels) → losses [batch]"


def task_of_classes(names: Sequence[str], settings: Any) -> Task | None:
    """The one task that these class names end in; None if there is none, or several.

    Args:
        names: class names of a model, or `architectures` of its config.
        settings: the model's config.
    """
    matches = [task for task in TASKS.values() if any(name.endswith(task.suffixes) for name in names)]
    if len(matches) != 1:
        return None
    task = matches[0]
    if task.decoder_task is not None and not getattr(settings, "is_encoder_decoder", False):
        return TASKS[task.decoder_task]
    return task


def task_of_module(model: Any) -> Task | None:
    """The task of a module by its class; None if that does not say."""
    return task_of_classes([c.__name__ for c in type(model).__mro__], getattr(model, "config", None))


def task_of_checkpoint(settings: Any, config: LoadConfig) -> Task:
    """The task that a checkpoint was saved for, or the one asked for if its config does not say.

    Args:
        settings: the checkpoint's config.
        config: may ask for a task. "plain" asks for none: the user's loss_fn takes the outputs of any task's model.

    Raises:
        InputError: no task is known, or the one asked for is not the checkpoint's or not one for models of its type.
    """
    names = getattr(settings, "architectures", None) or []
    by_type = next((task for task in TASKS.values() if settings.model_type in task.model_types), None)
    task = _agreed(
        by_type or task_of_classes(names, settings),
        TASKS.get(config.task or ""),
        InputError(
            "the task cannot be told from the model's config",
            value=", ".join(names) or "no architectures",
            allowed=", ".join(TASKS),
            remedy=f"give task if it was trained for one of them, else {_OF_YOUR_OWN}",
        ),
    )
    has_code = task.auto_class in (getattr(settings, "auto_map", None) or {})
    if not has_code and type(settings) not in getattr(transformers, task.auto_class)._model_mapping:
        raise InputError(  # speech, say: its classes have the names of other tasks'
            f"models of this type are not for {task.name}",
            value=", ".join(names) or settings.model_type,
            allowed=", ".join(TASKS),
            remedy=_OF_YOUR_OWN,
        )
    return task


def task_of_model(model: Any, config: LoadConfig, loss_fn: Any) -> Task:
    """The task of a loaded model: plain with a loss_fn, otherwise by its class or as asked for.

    Raises:
        InputError: no task is known, or the one asked for is not the model's.
    """
    if loss_fn is not None or config.task == "plain":
        if loss_fn is None:
            raise InputError("a plain module needs a loss_fn", remedy="give loss_fn(outputs, labels) → losses [batch]")
        if not callable(loss_fn):
            raise InputError("loss_fn cannot be called", value=type(loss_fn).__name__)
        return plain.task(loss_fn)
    asked = TASKS.get(config.task or "")
    if asked is not None and not asked.suffixes:
        return asked
    own = _task_of_transformer_lens(model) if is_transformer_lens(model) else task_of_module(model)
    return _agreed(
        own,
        asked if own is not None or isinstance(model, PreTrainedModel) else None,
        InputError(
            "the model's task is not known",
            value=type(model).__name__,
            allowed=", ".join(TASKS),
            remedy="give loss_fn(outputs, labels) → losses [batch]",
        ),
    )


def _agreed(own: Task | None, asked: Task | None, unknown: InputError) -> Task:
    """The task asked for if it takes any model; otherwise the model's own, which the one asked for must not contradict.

    Raises:
        InputError: the two differ; `unknown` if there is neither.
    """
    if asked is not None and not asked.suffixes:
        return asked
    if own is not None and asked is not None and own is not asked:
        raise InputError("the model is for another task", value=asked.name, allowed=own.name)
    task = own or asked
    if task is None:
        raise unknown
    return task


def _task_of_transformer_lens(model: Any) -> Task:
    """Text generation: the loss of the other models of TransformerLens would not be theirs.

    Raises:
        InputError: the model is not a causal language model.
    """
    wrapped = getattr(model, "original_model", None)
    is_encoder = any(c.__name__.startswith("HookedEncoder") for c in type(model).__mro__)
    is_causal = getattr(model.cfg, "attention_dir", "causal") == "causal"
    task = None if wrapped is None else task_of_module(wrapped)
    if is_encoder or not is_causal or (task is not None and task.name != "text-generation"):
        raise InputError(
            "a TransformerLens model that is not a causal language model",
            value=type(model).__name__,
            allowed="HookedTransformer, TransformerBridge of a causal language model",
            remedy="give the transformers model itself",
        )
    return TASKS["text-generation"]
