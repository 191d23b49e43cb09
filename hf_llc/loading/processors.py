"""The tokenizer or image processor of a model: the one given, or the one that comes with it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import transformers

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError, reason_of
from hf_llc.files import is_pointer
from hf_llc.loading.hub_errors import hub_refusal
from hf_llc.loading.hub_files import commit_of, fetch_small_files
from hf_llc.loading.names import check_tokenizer_name, public_name
from hf_llc.loading.tasks.recognition import task_of_module
from hf_llc.loading.tasks.registry import TASKS
from hf_llc.loading.tasks.tokenization import knows_words
from hf_llc.loading.weight_files import file_of

_FILES = {
    "tokenizer": (
        *("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model"),
        *("tokenizer.model", "sentencepiece.bpe.model", "sentencepiece.model", "special_tokens_map.json"),
        *("tokenizer.tiktoken", "tekken.json", "added_tokens.json"),
    ),
    "image processor": ("preprocessor_config.json", "processor_config.json", "image_processor_config.json"),
}
"""Files of which one at least is there where a processor is."""


def processor_of(name: str, model: Any, config: LoadConfig, given: Any, *, revision: str | None = None) -> Any:
    """The tokenizer or image processor: the one given, else the model's own.

    Args:
        name: id or folder of the model; "" if it has none.
        model: says which of the two it needs.
        config: may name one.
        given: by the caller; None: none.
        revision: commit of the model.

    Returns:
        The processor; None if the model has none; an `InputError` if it has one that cannot be loaded: data that need
        none can be measured all the same, and those that need it raise the error.

    Raises:
        InputError: the one given cannot be loaded.
    """
    given = config.tokenizer if given is None else given
    if given is not None and not isinstance(given, (str, os.PathLike)):
        return given
    task = task_of_module(model) or TASKS.get(config.task or "")
    is_image = task is not None and task.processor == "image_processor"
    kind = "image processor" if is_image else "tokenizer"
    auto = transformers.AutoImageProcessor if is_image else transformers.AutoTokenizer
    source = str(given) if given is not None else name
    revision = (revision or config.revision) if given is None else None
    try:
        if given is not None and not Path(source).exists():
            check_tokenizer_name(source, kind)
            revision = commit_of(source, "model", None)
            fetch_small_files(source, revision)
        processor = auto.from_pretrained(source, revision=revision, trust_remote_code=config.trust_remote_code)
    except InputError:
        raise
    except Exception as error:
        found = {each: path for each in _FILES[kind] if (path := file_of(source, revision, each)) is not None}
        if given is None:
            return _refusal(error, f"the {kind} that comes with the model", source, found) if found else None
        raise hub_refusal(error, "tokenizer", source, None) or _refusal(error, f"the {kind}", source, found) from error
    if is_image or knows_words(processor):
        return processor
    if given is not None:
        raise _without_words(f"the {kind}", source)
    has_files = any(file_of(source, revision, each) is not None for each in _FILES[kind])
    return _without_words(f"the {kind} that comes with the model", source) if has_files else None


def _without_words(what: str, source: str) -> InputError:
    remedy = "is its vocabulary (tokenizer.json, say) missing there? Give tokenizer"
    return InputError(f"{what} knows no words", value=public_name(source), remedy=remedy)


def _refusal(error: Exception, what: str, source: str, found: dict[str, Path]) -> InputError:
    """One line for a processor that cannot be loaded: the file to blame, else what the library says."""
    for name, path in found.items():
        if is_pointer(path):
            return InputError(f"{what} is a pointer of git-lfs", value=name, remedy="run `git lfs pull`")
        if path.suffix == ".json" and not _is_dictionary(path):
            return InputError(f"{what} is damaged", value=name, remedy="download or save it again, or give tokenizer")
    return InputError(f"{what} cannot be loaded", value=public_name(source), remedy=reason_of(error))


def _is_dictionary(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (ValueError, RecursionError, OSError):
        return False
