"""Columns of chats: lists of messages → texts, by the tokenizer's chat template."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, IterableDataset

from hf_llc.errors import InputError, reason_of
from hf_llc.loading.data_sources import first_values
from hf_llc.loading.rows import place
from hf_llc.loading.tasks.tokenization import Read

CHAT_COLUMNS = ("messages", "conversations", "conversation", "chat")
"""Usual names of a column of chats."""

SAID = "by the tokenizer's chat template"
"""How chats became text, for the result."""


def holds_chats(data: Dataset | IterableDataset, name: str) -> bool:
    """Whether a column holds lists of messages, by its first row that is not empty."""
    for value in first_values(data, name):
        if isinstance(value, (list, tuple)) and value:
            return isinstance(value[0], dict)
    return False


def chat_reader(tokenizer: Any) -> Read:
    """What makes texts of chats. The texts have their special tokens.

    Raises:
        InputError: the tokenizer has no chat template.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise InputError(
            "the data hold chats, and the tokenizer has no chat template",
            value=type(tokenizer).__name__,
            remedy="give a tokenizer with one (its chat_template), or a column of texts as input_column",
        )
    return functools.partial(_texts_of, tokenizer)


def _texts_of(tokenizer: Any, values: Sequence[Any], name: str, rows: Sequence[int]) -> list[str]:
    """Chats as texts; see `chat_reader`.

    Raises:
        InputError: a row is not a chat, or one that the template does not take.
    """
    texts = []
    for value, row in zip(values, rows, strict=True):
        messages = value if isinstance(value, (list, tuple)) else []
        if not messages or not all(isinstance(m, dict) and m.get("role") and "content" in m for m in messages):
            raise InputError(
                "a row is not a chat",
                value=place(name, row),
                allowed="a list of messages, each with role and content",
                remedy="drop or convert such rows",
            )
        try:
            # `datasets` gives every message every key: those that a message does not have are None
            chat = [{k: x for k, x in m.items() if x is not None or k == "content"} for m in messages]
            texts.append(tokenizer.apply_chat_template(chat, tokenize=False))
        except Exception as error:  # whatever the template may raise
            raise InputError(
                f"the chat template does not take a row: {reason_of(error)}",
                value=place(name, row),
                remedy="drop or mend such rows",
            ) from error
    return texts
