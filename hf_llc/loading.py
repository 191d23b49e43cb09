"""Hub ids, folders and objects → a `Problem`: a model, tensors, per-example losses, and where all of it came from."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from hf_llc import encoding, tasks
from hf_llc.config import LoadConfig
from hf_llc.datasource import is_tensors, open_data, tensors_of
from hf_llc.distributed import process_state
from hf_llc.errors import InputError
from hf_llc.problem import Problem

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


def load_problem(model_or_pipeline: Any, data: Any, config: LoadConfig, *, loss_fn: Any = None,
                 tokenizer: Any = None) -> Problem:
    """The empirical loss of a model on data.

    Args:
        model_or_pipeline: Hub id, folder, `PreTrainedModel`, `Pipeline`, TransformerLens model, or any `nn.Module` with
            a `loss_fn`; None: the embedded model.
        data: Hub id, folder, file, `Dataset`, `IterableDataset` or tensors; None: the embedded text.
        config: revision, split, columns, lengths …
        loss_fn: `loss_fn(outputs, labels)` → `[batch]`, for a plain module.
        tokenizer: tokenizer or image processor, or its id or folder; None: the model's own.

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
        task = _task_of(model, config, loss_fn, about)
        encoded, source = _encode(model, task, data, processor, config, loss_fn)
    if len(next(iter(encoded.examples.values()))) < 2:
        raise InputError("the data has a single example", allowed="two or more")
    _check_features(encoded.examples)
    return Problem(model=model, examples=encoded.examples, losses=encoded.losses, n=encoded.n, unit=encoded.unit,
                   trivial_loss=encoded.trivial_loss, task=task,
                   provenance={"model": {**about, "class": type(model).__name__}, "data": {**source, **encoded.facts}})


def _encode(model: Any, task: str, data: Any, processor: Any, config: LoadConfig,
            loss_fn: Any) -> tuple[tasks.Encoded, dict[str, Any]]:
    """Tensors and losses of the data for this task, and where the data came from."""
    if is_tensors(data):
        if task != "plain":
            raise InputError("tensors of inputs and labels are for plain modules", value=task,
                             remedy="give a datasets.Dataset with named columns, or loss_fn")
        inputs, labels = tensors_of(data, config)
        source, facts = {"id": None, "kind": type(data).__name__}, {}
    else:
        opened, source = open_data(data, config)
        if task != "plain":
            encoded = _ENCODERS[task](model, opened, processor, config)
            encoded.facts["num_examples"] = len(next(iter(encoded.examples.values())))
            return encoded, source
        inputs, labels, facts = encoding.features(opened, config)
    if len(inputs) < 2:
        raise InputError("the data has fewer than two examples", value=len(inputs), allowed="two or more")
    _check_features({"inputs": inputs, "labels": labels})
    facts = {**facts, "num_examples": len(inputs)}
    return tasks.plain(inputs, labels, loss_fn=loss_fn, model=model, facts=facts), source


@contextlib.contextmanager
def _first_on_this_machine() -> Iterator[None]:
    """One process a machine goes first, so that downloads and caches are made once."""
    state = process_state()
    with state.local_main_process_first():
        yield


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """No progress bars or remarks of transformers while models load."""
    logger = logging.getLogger("transformers")
    level = logger.level
    transformers.utils.logging.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        transformers.utils.logging.enable_progress_bar()


def _is_transformer_lens(model: Any) -> bool:
    return any(c.__module__.startswith("transformer_lens") for c in type(model).__mro__)


def _open_model(given: Any, config: LoadConfig, tokenizer: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The module, its tokenizer or image processor, and where it came from."""
    if given is None:
        import hf_llc.models  # registers the embedded model's architecture
        from hf_llc.embedded import model_path

        model, about = _from_pretrained(str(model_path()), config)
        return model, _processor(str(model_path()), model, config, tokenizer), {**about, "id": "hf_llc/embedded"}
    if isinstance(given, (str, os.PathLike)):
        model, about = _from_pretrained(str(given), config)
        return model, _processor(str(given), model, config, tokenizer), about
    if config.dtype is not None or config.device is not None or config.revision is not None:
        raise InputError("dtype, device and revision are for models loaded by name",
                         remedy="convert or move the module before passing it")
    own = None
    if isinstance(given, transformers.Pipeline):
        own = given.image_processor if given.task == "image-classification" else given.tokenizer
        given = given.model
    if not isinstance(given, torch.nn.Module):
        raise InputError("the model is of a kind that cannot be used", value=type(given).__name__,
                         allowed="Hub id, folder, PreTrainedModel, Pipeline, TransformerLens model, nn.Module")
    if _is_transformer_lens(given):
        own = getattr(given, "tokenizer", None)
        about = {"id": getattr(given.cfg, "model_name", None), "revision": None}
    else:
        name = getattr(getattr(given, "config", None), "_name_or_path", "") or None
        commit = getattr(getattr(given, "config", None), "_commit_hash", None)
        about = {"id": Path(name).name if name and Path(name).exists() else name, "revision": commit}
        if own is None and tokenizer is None and name and isinstance(given, PreTrainedModel):
            with contextlib.suppress(InputError):
                own = _processor(name, given, config, None)
    return given, _processor("", given, config, tokenizer) if tokenizer is not None else own, about


def _from_pretrained(name: str, config: LoadConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model by id or folder, on its device, whole."""
    import hf_llc.models  # noqa: F401 - registers this package's architectures

    folder = Path(name)
    if folder.is_dir():
        _check_folder(folder, config)
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError("no such model folder", value=name, remedy="check the path")
    options: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    try:
        settings = transformers.AutoConfig.from_pretrained(name, **options)
        task = config.task or _task_from(getattr(settings, "architectures", None) or [])
        if task is None or task == "plain":
            raise InputError("the task cannot be told from the model's config", value=settings.architectures,
                             allowed=", ".join(_AUTO), remedy="give task")
        auto = getattr(transformers, _AUTO[task])
        extra = {} if config.attn_implementation is None else {"attn_implementation": config.attn_implementation}
        dtype = torch.float32 if config.dtype is None else getattr(torch, config.dtype)
        model, info = auto.from_pretrained(name, dtype=dtype, use_safetensors=None if config.allow_pickle else True,
                                           output_loading_info=True, config=settings, **options, **extra)
    except InputError:
        raise
    except Exception as error:
        raise _explained(error, name, config) from error
    missing = sorted(info.get("missing_keys") or [])
    if missing:
        raise InputError(f"weights are missing in the checkpoint ({len(missing)}): {missing[0]}", value=name,
                         remedy=f"is it trained for {task}?")
    model = model.to(process_state().device if config.device is None else torch.device(config.device))
    commit = getattr(model.config, "_commit_hash", None)
    about: dict[str, Any] = {"id": folder.resolve().name if folder.is_dir() else name, "revision": commit}
    if folder.is_dir():
        about["fingerprint"] = _hash_weights(model)
    return model, about


def _hash_weights(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _check_folder(folder: Path, config: LoadConfig) -> None:
    """A model folder has a config and weights that may be read."""
    files = {p.suffix for p in folder.iterdir()}
    if not (folder / "config.json").exists():
        raise InputError("the model folder has no config.json", value=folder.name, remedy="is it a transformers folder?")
    if ".safetensors" not in files and not (config.allow_pickle and files & set(_PICKLES)):
        if files & set(_PICKLES):
            raise InputError("the model folder has pickled weights only, which can run code", value=folder.name,
                             remedy="convert them to safetensors, or give allow_pickle (--allow-pickle)")
        raise InputError("the model folder has no weights", value=folder.name, allowed="*.safetensors")


def _processor(name: str, model: Any, config: LoadConfig, given: Any) -> Any:
    """The tokenizer or image processor: the one given, or the model's own; None where it has none."""
    if given is None and config.tokenizer is not None:
        given = config.tokenizer
    if given is not None and not isinstance(given, (str, os.PathLike)):
        return given
    is_image = "ForImageClassification" in type(model).__name__
    auto = transformers.AutoImageProcessor if is_image else transformers.AutoTokenizer
    source = str(given) if given is not None else name
    revision = config.revision if given is None else None
    try:
        return auto.from_pretrained(source, revision=revision, trust_remote_code=config.trust_remote_code)
    except Exception as error:
        if given is None:
            return None
        raise InputError("the tokenizer cannot be loaded", value=source,
                         remedy=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def _task_from(names: list[str]) -> str | None:
    found = {task for name in names for suffix, task in _SUFFIXES.items() if name.endswith(suffix)}
    return found.pop() if len(found) == 1 else None


def _task_of(model: Any, config: LoadConfig, loss_fn: Any, about: dict[str, Any]) -> str:
    """The task: as given, plain with a loss_fn, or by the model's class.

    Raises:
        InputError: none of these, or at odds with each other.
    """
    if loss_fn is not None or config.task == "plain":
        if loss_fn is None:
            raise InputError("a plain module needs a loss_fn", remedy="give loss_fn(outputs, labels) → losses [batch]")
        return "plain"
    if _is_transformer_lens(model):
        return "text-generation"
    own = _task_from([c.__name__ for c in type(model).__mro__])
    if own is None:
        if isinstance(model, PreTrainedModel) and config.task is not None:
            return config.task
        raise InputError("the model's task is not known", value=type(model).__name__,
                         allowed=", ".join(_AUTO), remedy="give loss_fn, or task")
    if config.task is not None and config.task != own:
        raise InputError("the model is for another task", value=config.task, allowed=own)
    return own


def _check_weights(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise InputError("a weight is NaN or infinite", value=name, remedy="use a sound checkpoint")


def _check_features(examples: dict[str, torch.Tensor]) -> None:
    for name, values in examples.items():
        if values.is_floating_point():
            bad = ~torch.isfinite(values).flatten(1).all(1) if values.dim() > 1 else ~torch.isfinite(values)
            if bool(bad.any()):
                raise InputError(f"{name} holds NaN or infinity", value=f"row {int(bad.nonzero()[0])}",
                                 remedy="drop or mend such rows")


def _explained(error: Exception, name: str, config: LoadConfig) -> InputError:
    """One line for what `from_pretrained` raises."""
    text = " ".join(str(error).split())
    low = f"{type(error).__name__} {text}".lower()
    if "trust_remote_code" in low:
        return InputError("the model needs Python code of its own, which is not run", value=name,
                          remedy="give trust_remote_code (--trust-remote-code) if you trust it")
    if "safetensorerror" in low or "deserializing" in low or "header" in low:
        return InputError("the weights file is damaged", value=name, remedy="download or save it again")
    if "gated" in low or "401" in low or "403" in low:
        return InputError("no access to the model", value=name,
                          remedy="log in with `hf auth login`, and accept its terms on its page if it has any")
    if "revision" in low and ("not a valid" in low or "404" in low):
        return InputError("no such revision of the model", value=config.revision, remedy="check the spelling")
    if "offline" in low or "connect" in low or "localentrynotfound" in low or "couldn't reach" in low:
        return InputError("the model is neither a local folder nor in the cache, and the Hub cannot be reached",
                          value=name, remedy="check the spelling and the network")
    if "use_safetensors" in low or "no file named model.safetensors" in low or "safetensors" in low:
        return InputError("the model has no safetensors weights", value=name,
                          remedy="convert it, or give allow_pickle (--allow-pickle)")
    if "not a valid model identifier" in low or "404" in low or "not found" in low:
        return InputError("no such model", value=name, remedy="check the spelling; private ones need `hf auth login`")
    if "json" in low:
        return InputError("the model's config.json is damaged", value=name, remedy="download or save it again")
    return InputError("the model cannot be loaded", value=name, remedy=f"{type(error).__name__}: {text[:300]}")
