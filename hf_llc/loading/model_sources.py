"""Hub ids, folders and objects → a module and its tokenizer or image processor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants
from transformers import PreTrainedModel

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.checkpoint import check_loaded, refuse_adapter, untied_weights
from hf_llc.loading.devices import device_of
from hf_llc.loading.hub_errors import model_refusal
from hf_llc.loading.hub_files import ask_again, commit_of, fetch_small_files, verified
from hf_llc.loading.loaded_weights import check_weights
from hf_llc.loading.names import check_model_name, public_name
from hf_llc.loading.processors import processor_of
from hf_llc.loading.quantization import check_checkpoint_config
from hf_llc.loading.tasks.context_length import is_transformer_lens
from hf_llc.loading.tasks.recognition import task_of_checkpoint
from hf_llc.loading.tasks.registry import TASKS
from hf_llc.loading.tasks.task import Task
from hf_llc.loading.weight_files import check_folder, check_on_hub, check_readable
from hf_llc.parallel.sharding import hash_of


def open_model(given: Any, config: LoadConfig, tokenizer: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Open a model.

    Args:
        given: Hub id, folder, `Pipeline` or module; None: the embedded model.
        config: says which revision, type, device, …
        tokenizer: tokenizer or image processor, or its id or folder; None: the model's own.

    Returns:
        The module, its tokenizer or image processor (None without one, or why it cannot be loaded), and where the model
        came from: id, revision, fingerprint.

    Raises:
        InputError: the model cannot be had, or is of a kind that cannot be used.
    """
    if given is None:
        from hf_llc.embedded import model_path

        model, processor, about = _open_named(str(model_path()), config, tokenizer)
        return model, processor, {**about, "id": "hf_llc/embedded"}
    if isinstance(given, (str, os.PathLike)):
        return _open_named(str(given), config, tokenizer)
    for name in ("dtype", "device", "revision", "attn_implementation"):
        if getattr(config, name) is not None:
            raise InputError(
                f"{name} is for models loaded by id or folder",
                value=getattr(config, name),
                remedy="convert the model yourself before passing it",
            )
    processor = None
    if isinstance(given, transformers.Pipeline):
        task = TASKS.get(given.task)
        processor = getattr(given, "tokenizer" if task is None else task.processor)
        given = given.model
    if not isinstance(given, torch.nn.Module):
        raise InputError(
            "the model is of a kind that cannot be used",
            value=type(given).__name__,
            allowed="Hub id, folder, PreTrainedModel, Pipeline, TransformerLens model, nn.Module",
        )
    check_weights(given)
    settings = getattr(given, "config", None)
    name = getattr(settings, "_name_or_path", None) or None
    about: dict[str, Any] = {"id": public_name(name), "revision": getattr(settings, "_commit_hash", None)}
    if is_transformer_lens(given):
        processor = getattr(given, "tokenizer", None)
        about = {"id": public_name(getattr(given.cfg, "model_name", None)), "revision": None}
    elif processor is None and tokenizer is None and name and isinstance(given, PreTrainedModel):
        processor = processor_of(name, given, config, None, revision=about["revision"])
    about["in_memory"] = True  # what its config names may be another model by now
    about["fingerprint"] = _fingerprint(given)  # even with a commit: the weights may have been trained since
    if tokenizer is not None or config.tokenizer is not None:
        processor = processor_of("", given, config, tokenizer)
    return given, processor, about


def look_at_named(config: LoadConfig) -> None:
    """Refuse a model by id or folder that cannot be loaded, as far as its config and the heads of its files tell.

    Raises:
        InputError: it cannot be.
    """
    name = str(config.model)
    shown = public_name(name)
    device_of(config)
    try:
        if Path(name).is_dir():
            refuse_adapter(name, None, shown)
            check_folder(Path(name), allow_pickle=config.allow_pickle)
            commit = None
        elif constants.is_offline_mode():
            return  # the cache holds it or not; loading tells
        else:
            commit = commit_of(name, "model", config.revision)
            fetch_small_files(name, commit)
            refuse_adapter(name, commit, shown)
            check_on_hub(name, commit, allow_pickle=config.allow_pickle)
        settings = transformers.AutoConfig.from_pretrained(
            name, revision=commit, trust_remote_code=config.trust_remote_code
        )
        check_checkpoint_config(settings, shown)
        task_of_checkpoint(settings, config)
        check_readable(name, commit)
    except InputError:
        raise
    except Exception as error:
        raise model_refusal(error, name, config) from error


def _open_named(name: str, config: LoadConfig, tokenizer: Any) -> tuple[Any, Any, dict[str, Any]]:
    """A model by id or folder, its processor and its origin. Files of the Hub are all of one commit, and checked."""
    folder = Path(name)
    check_model_name(name)
    device_of(config)  # one that is not here is refused before anything is fetched
    if folder.is_dir():
        refuse_adapter(name, None, public_name(name))
        check_folder(folder, allow_pickle=config.allow_pickle)
    about: dict[str, Any] = {"id": public_name(name), "revision": None}
    how = {"attn_implementation": config.attn_implementation, "trust_remote_code": config.trust_remote_code or None}
    how |= {"allow_pickle": config.allow_pickle or None}  # the defaults go without saying
    about |= {key: value for key, value in how.items() if value is not None}
    if folder.is_dir():
        model, unused = _from_pretrained(name, config, None)
        about |= {"unused_weights": unused, "untied_weights": untied_weights(model)}
        about["fingerprint"] = _fingerprint(model)
        return model, processor_of(name, model, config, tokenizer), about
    try:
        commit = commit_of(name, "model", config.revision)
        with verified(name, "model", commit):
            fetch_small_files(name, commit)
    except InputError:
        raise
    except Exception as error:
        raise model_refusal(error, name, config) from error
    refuse_adapter(name, commit, public_name(name))
    check_on_hub(name, commit, allow_pickle=config.allow_pickle)
    with verified(name, "model", commit):
        model, unused = _from_pretrained(name, config, commit)
        processor = processor_of(name, model, config, tokenizer, revision=commit)
    about |= {"unused_weights": unused, "untied_weights": untied_weights(model)}
    return model, processor, {**about, "revision": commit}


def _from_pretrained(name: str, config: LoadConfig, revision: str | None) -> tuple[PreTrainedModel, str | None]:
    """A model by id or folder, on its device, with all its weights; and what the checkpoint holds besides."""
    import hf_llc.models  # noqa: F401 - registers this package's architectures

    device, shown = device_of(config), public_name(name)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": config.trust_remote_code}
    try:
        settings = transformers.AutoConfig.from_pretrained(name, **options)
        check_checkpoint_config(settings, shown)
        task = task_of_checkpoint(settings, config)
        check_readable(name, revision)
        auto = getattr(transformers, task.auto_class)
        extra = {} if config.attn_implementation is None else {"attn_implementation": config.attn_implementation}
        dtype = torch.float32 if config.dtype is None else getattr(torch, config.dtype)
        model, info = auto.from_pretrained(
            name,
            dtype=dtype,
            use_safetensors=None if config.allow_pickle else True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused by their names
            config=settings,
            **options,
            **extra,
        )
    except InputError:
        raise
    except Exception as error:
        if revision is not None and "does not appear to have" in str(error):
            error = _asked_again(name, revision) or error
        raise model_refusal(error, name, config) from error
    unused = check_loaded(model, info, source=name, revision=revision, shown=shown, task=task.name)
    check_weights(model)
    return model.to(device), unused


def skeleton(config: LoadConfig) -> tuple[PreTrainedModel, Task, torch.dtype]:
    """A model by id or folder without its weights: only its config is read.

    Returns:
        The model in eval mode on device meta, its task, and the type of the checkpoint's weights (float32 if its config
        does not say).

    Raises:
        InputError: there is no such model, or its task is not known.
    """
    import hf_llc.models  # noqa: F401 - registers this package's architectures

    name = str(config.model)
    check_model_name(name)
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    try:
        # asked once: transformers asks again for half a minute where there is no network
        commit = None if Path(name).is_dir() else commit_of(name, "model", config.revision)
        settings = transformers.AutoConfig.from_pretrained(name, revision=commit, **options)
        check_checkpoint_config(settings, public_name(name))
        dtype = settings.dtype if isinstance(settings.dtype, torch.dtype) else torch.float32
        task = task_of_checkpoint(settings, config)
        extra = {} if config.attn_implementation is None else {"attn_implementation": config.attn_implementation}
        auto = getattr(transformers, task.auto_class)
        with torch.device("meta"):
            model = auto.from_config(settings, dtype=torch.float32, **options, **extra)
    except InputError:
        raise
    except Exception as error:
        raise model_refusal(error, name, config) from error
    return model.eval(), task, dtype


def _asked_again(name: str, commit: str) -> Exception | None:
    """Why the Hub does not give weights that transformers says are missing; None: they are missing."""
    try:
        ask_again(name, commit, ("model.safetensors", "model.safetensors.index.json"))
    except Exception as reason:
        return reason
    return None


def _fingerprint(model: torch.nn.Module) -> str:
    """A hash of the weights and buffers; batch norm's averages shape the loss too."""
    return hash_of(value for value in model.state_dict().values() if isinstance(value, torch.Tensor))
