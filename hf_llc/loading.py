"""Hub ids, folders and objects → a `Problem`: a model, tensors, per-example losses, and where all of it came from."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import PreTrainedModel

from hf_llc import encoding, tasks
from hf_llc.config import LoadConfig
from hf_llc.datasource import column, is_tensors, materialize, open_data, refuse_parts, tensors_of
from hf_llc.distributed import Processes, process_state
from hf_llc.downloads import ask_again, commit_of, fetch_small_files, verified
from hf_llc.encoding import is_transformer_lens
from hf_llc.errors import InputError
from hf_llc.labels import name_labels
from hf_llc.problem import Problem
from hf_llc.refusals import data_refusal, hub_refusal, is_of_reading, model_refusal, public_name

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_AUTO = {
    "text-generation": "AutoModelForCausalLM",
    "fill-mask": "AutoModelForMaskedLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "image-classification": "AutoModelForImageClassification",
}

_SUFFIXES = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForConditionalGeneration": "text2text-generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForImageClassification": "image-classification",
}

_ENCODERS: dict[str, Callable[..., tasks.Encoded]] = {
    "text-generation": encoding.causal_lm,
    "fill-mask": encoding.masked_lm,
    "text2text-generation": encoding.seq2seq,
    "text-classification": encoding.sequence_classification,
    "token-classification": encoding.token_classification,
    "image-classification": encoding.image_classification,
}


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
    with _first_on_this_machine(), _hushed():
        model, processor, about = _open_model(model_or_pipeline, config, tokenizer)
        _check_weights(model)
        task = _task_of(model, config, loss_fn)
        encoded, source = _encode(model, task, data, processor, config, loss_fn, label_mapping)
    examples = encoded.examples
    if len(next(iter(examples.values()))) < 2:
        raise InputError("the data has a single example", allowed="two or more", remedy="give more data")
    names = {"inputs": encoded.facts.get("input_column"), "labels": encoded.facts.get("label_column")}
    _check_finite(examples, names)
    facts = {**source, **encoded.facts, "num_examples": len(next(iter(examples.values())))}
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
) -> tuple[tasks.Encoded, dict[str, Any]]:
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
                name = column(opened.column_names, config.label_column, encoding.LABELS, "label_column")
                opened = name_labels(opened, name, label_mapping)
                source = {**source, "label_mapping": dict(label_mapping)}
            return _ENCODERS[task](model, opened, processor, config), source
    facts: dict[str, Any] = {}
    if is_tensors(data):
        inputs, labels = tensors_of(data, config)
        source = {"id": None, "kind": type(data).__name__, "fingerprint": _hash([inputs, labels])}
    else:
        opened, source = open_data(data, config)
        with _refused_if_unread(opened, source, config):
            inputs, labels, facts = encoding.features(model, opened, config)
    if len(inputs) < 2:
        raise InputError("the data has fewer than two examples", value=len(inputs), allowed="two or more")
    _check_finite(
        {"inputs": inputs, "labels": labels}, {"inputs": facts.get("input_column"), "labels": facts.get("label_column")}
    )
    return tasks.plain(inputs, labels, loss_fn=loss_fn, model=model, facts=facts), source


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


def _open_model(given: Any, config: LoadConfig, tokenizer: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The module, its tokenizer or image processor, and where it came from."""
    if given is None:
        from hf_llc.embedded import model_path

        model, own, about = _open_named(str(model_path()), config, tokenizer)
        return model, own, {**about, "id": "hf_llc/embedded"}
    if isinstance(given, (str, os.PathLike)):
        return _open_named(str(given), config, tokenizer)
    for name in ("dtype", "device", "revision", "attn_implementation"):
        if getattr(config, name) is not None:
            raise InputError(
                f"{name} is for models loaded by id or folder",
                value=getattr(config, name),
                remedy="convert the model yourself before passing it",
            )
    own = None
    if isinstance(given, transformers.Pipeline):
        own = given.image_processor if given.task == "image-classification" else given.tokenizer
        given = given.model
    if not isinstance(given, torch.nn.Module):
        raise InputError(
            "the model is of a kind that cannot be used",
            value=type(given).__name__,
            allowed="Hub id, folder, PreTrainedModel, Pipeline, TransformerLens model, nn.Module",
        )
    settings = getattr(given, "config", None)
    name = getattr(settings, "_name_or_path", None) or None
    about: dict[str, Any] = {"id": public_name(name), "revision": getattr(settings, "_commit_hash", None)}
    if is_transformer_lens(given):
        own = getattr(given, "tokenizer", None)
        about = {"id": public_name(getattr(given.cfg, "model_name", None)), "revision": None}
    elif own is None and tokenizer is None and name and isinstance(given, PreTrainedModel):
        own = _processor(name, given, config, None, revision=about["revision"])
    about["fingerprint"] = _fingerprint(given)  # with a commit too: its weights may have been trained since
    if tokenizer is not None or config.tokenizer is not None:
        own = _processor("", given, config, tokenizer)
    return given, own, about


def _open_named(name: str, config: LoadConfig, tokenizer: Any) -> tuple[Any, Any, dict[str, Any]]:
    """A model by id or folder with its tokenizer or image processor; of the Hub: all files of one commit, checked."""
    folder = Path(name)
    if folder.is_dir():
        _check_folder(folder, config)
    elif folder.is_file():
        raise InputError(
            "the model is a file",
            value=folder.name,
            allowed="a Hub id or a folder",
            remedy="give the folder that holds config.json",
        )
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError("no such model folder", value=name, remedy="check the path")
    about: dict[str, Any] = {"id": public_name(name), "revision": None}
    if folder.is_dir():
        model = _from_pretrained(name, config, None)
        return model, _processor(name, model, config, tokenizer), {**about, "fingerprint": _fingerprint(model)}
    try:
        commit = commit_of(name, "model", config.revision)
        with verified(name, "model", commit):
            fetch_small_files(name, commit)
    except InputError:
        raise
    except Exception as error:
        raise model_refusal(error, name, config) from error
    with verified(name, "model", commit):
        model = _from_pretrained(name, config, commit)
        own = _processor(name, model, config, tokenizer, revision=commit)
    return model, own, {**about, "revision": commit}


def _from_pretrained(name: str, config: LoadConfig, revision: str | None) -> PreTrainedModel:
    """A model by id or folder, on its device, whole."""
    import hf_llc.models  # noqa: F401 - registers this package's architectures

    device = _device(config)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": config.trust_remote_code}
    try:
        settings = transformers.AutoConfig.from_pretrained(name, **options)
        task = _task_of_checkpoint(settings, config)
        auto = getattr(transformers, _AUTO[task])
        extra = {} if config.attn_implementation is None else {"attn_implementation": config.attn_implementation}
        dtype = torch.float32 if config.dtype is None else getattr(torch, config.dtype)
        model, info = auto.from_pretrained(
            name,
            dtype=dtype,
            use_safetensors=None if config.allow_pickle else True,
            output_loading_info=True,
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
    missing = sorted(info.get("missing_keys") or [])
    if missing:
        raise InputError(
            f"weights are missing in the checkpoint ({len(missing)}): {missing[0]}",
            value=name,
            remedy=f"is it trained for {task}?",
        )
    return model.to(device)


def _asked_again(name: str, commit: str) -> Exception | None:
    """Why weights that transformers says are missing cannot be had; None: they are missing."""
    try:
        ask_again(name, commit, ("model.safetensors", "model.safetensors.index.json"))
    except Exception as reason:
        return reason
    return None


def _task_of_checkpoint(settings: Any, config: LoadConfig) -> str:
    """The task that a checkpoint was saved for, or the one asked for where it does not say."""
    names = getattr(settings, "architectures", None) or []
    own = "image-classification" if settings.model_type == "timm_wrapper" else _task_from(names, settings)
    asked = None if config.task == "plain" else config.task
    if own is None and asked is None:
        raise InputError(
            "the task cannot be told from the model's config",
            value=", ".join(names) or "no architectures",
            allowed=", ".join(_AUTO),
            remedy="give task",
        )
    if own is not None and asked is not None and own != asked:
        raise InputError("the model is for another task", value=asked, allowed=own)
    return own or str(asked)


def _device(config: LoadConfig) -> torch.device:
    """The device asked for, or this process's own.

    Raises:
        InputError: no such device here.
    """
    if config.device is None:
        return Processes().device
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            "no such device here",
            value=config.device,
            allowed="cpu" + (f", cuda:0 … cuda:{torch.cuda.device_count() - 1}" if torch.cuda.is_available() else ""),
        ) from error
    return device


def _fingerprint(model: torch.nn.Module) -> str:
    """A hash of weights and buffers (batch norm's averages shape the loss too)."""
    return _hash(value for value in model.state_dict().values() if isinstance(value, torch.Tensor))


def _hash(tensors: Iterable[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _check_folder(folder: Path, config: LoadConfig) -> None:
    """A model folder has a config and weights that may be read."""
    files = {p.suffix for p in folder.iterdir()}
    if not (folder / "config.json").exists():
        raise InputError(
            "the model folder has no config.json", value=folder.name, remedy="is it a transformers folder?"
        )
    if ".safetensors" not in files and not (config.allow_pickle and files & set(_PICKLES)):
        if files & set(_PICKLES):
            raise InputError(
                "the model folder has pickled weights only, which can run code",
                value=folder.name,
                remedy="convert them to safetensors, or give allow_pickle (--allow-pickle)",
            )
        raise InputError("the model folder has no weights", value=folder.name, allowed="*.safetensors")


def _processor(name: str, model: Any, config: LoadConfig, given: Any, *, revision: str | None = None) -> Any:
    """The tokenizer or image processor: the one given, or the model's own; None where it has none."""
    if given is None and config.tokenizer is not None:
        given = config.tokenizer
    if given is not None and not isinstance(given, (str, os.PathLike)):
        return given
    is_image = "ForImageClassification" in type(model).__name__
    auto = transformers.AutoImageProcessor if is_image else transformers.AutoTokenizer
    source = str(given) if given is not None else name
    revision = (revision or config.revision) if given is None else None
    try:
        if given is not None and not Path(source).exists():
            revision = commit_of(source, "model", None)
            fetch_small_files(source, revision)
        return auto.from_pretrained(source, revision=revision, trust_remote_code=config.trust_remote_code)
    except Exception as error:
        if given is None:
            return None
        raise hub_refusal(error, "tokenizer", source, None) or InputError(
            "the tokenizer cannot be loaded",
            value=source,
            remedy=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
        ) from error


def _task_from(names: list[str], settings: Any) -> str | None:
    """The task that all of these class names stand for; decoders that see images too are language models."""
    found = {task for name in names for suffix, task in _SUFFIXES.items() if name.endswith(suffix)}
    task = found.pop() if len(found) == 1 else None
    if task == "text2text-generation" and not getattr(settings, "is_encoder_decoder", False):
        return "text-generation"
    return task


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
        own = _task_from([c.__name__ for c in type(model).__mro__], getattr(model, "config", None))
        if "TimmWrapperForImageClassification" in type(model).__name__:
            own = "image-classification"
    if own is None and isinstance(model, PreTrainedModel) and config.task is not None:
        return config.task
    if own is None:
        raise InputError(
            "the model's task is not known",
            value=type(model).__name__,
            allowed=", ".join(_AUTO),
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
    task = None if wrapped is None else _task_from([c.__name__ for c in type(wrapped).__mro__], wrapped.config)
    if is_encoder or not is_causal or task not in (None, "text-generation"):
        raise InputError(
            "a TransformerLens model that is no causal language model",
            value=type(model).__name__,
            allowed="HookedTransformer, TransformerBridge of a causal language model",
            remedy="give the transformers model itself",
        )
    return "text-generation"


def _check_weights(model: torch.nn.Module) -> None:
    """Weights are there, and finite numbers.

    Raises:
        InputError: the first parameter that is not.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise InputError("a weight has no values (device meta)", value=name, remedy="load the weights first")
        if not (parameter.is_floating_point() or parameter.is_complex()):
            raise InputError(
                "a weight is an integer, as in quantized models",
                value=f"{name}: {parameter.dtype}",
                allowed="floating point",
                remedy="load the model without quantization",
            )
        if not bool(torch.isfinite(parameter).all()):
            raise InputError("a weight is NaN or infinite", value=name, remedy="use a sound checkpoint")


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
