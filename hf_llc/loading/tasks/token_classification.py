"""Token classification: a label for each tagged word."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.labels import LABEL_COLUMNS, ClassNumbers
from hf_llc.loading.rows import place
from hf_llc.loading.tasks.context_length import length_for
from hf_llc.loading.tasks.losses import IGNORED, labelled_tokens
from hf_llc.loading.tasks.task import Encoded, Task
from hf_llc.loading.tasks.token_rows import ID_COLUMNS, holds_token_ids, token_rows
from hf_llc.loading.tasks.tokenization import check_vocabulary, need_tokenizer, pad_id_of

_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "pos_tags", "tags", *LABEL_COLUMNS)


def encode(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Words with a label each, of which a word's first token carries its label; or token ids with a label each."""
    data = materialize(data, config)
    name = column(data, config.input_column, (*_WORDS, *ID_COLUMNS), "input_column")
    label = column(data, config.label_column, _TAGS, "label_column")
    length = length_for(model, config)
    tags, how = _tags(data, label, model)
    facts, types = {"input_column": name, "label_column": label, "classes": how, "max_length": length}, None
    if holds_token_ids(data, name):
        found = token_rows(data, name, model, tokenizer)
        rows, types = [row[:length].tolist() for row in found.ids], found.token_types(length)
        labels = [row[:length].tolist() for row in found.without_padding(tags, label)]
        facts |= {} if found.padding is None else {"padding": found.padding}
    else:
        rows, labels = _first_tokens(data, name, tags, need_tokenizer(tokenizer), length)
    encoded = labelled_tokens(rows, labels, config, pad_id=pad_id_of(model, tokenizer), facts=facts, token_types=types)
    check_vocabulary(encoded.examples["input_ids"], model)
    return encoded


def _first_tokens(data: Dataset, name: str, tags: list[list[int]], tokenizer: Any, length: int) -> tuple[Any, Any]:
    """Token ids of the words of each row, and labels: a word's at its first token, −100 elsewhere.

    Raises:
        InputError: the first row that does not hold words, or not one label a word.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "words are aligned with tokens by fast tokenizers only",
            value=type(tokenizer).__name__,
            remedy="give tokenizer",
        )
    rows, labels = [], []
    for i, (words, word_labels) in enumerate(zip(data[name][:], tags, strict=True)):
        if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
            raise InputError("a row is not a list of words", value=place(name, i), remedy="drop or mend such rows")
        if len(words) != len(word_labels):
            raise InputError(
                "a row does not have one label for each word",
                value=f"{place(name, i)}: {len(words)} words, {len(word_labels)} labels",
                remedy="drop or mend such rows",
            )
        tokens = tokenizer(list(words), is_split_into_words=True, truncation=True, max_length=length, verbose=False)
        word_of = tokens.word_ids()  # None for a special token
        is_first = [w is not None and (i == 0 or word_of[i - 1] != w) for i, w in enumerate(word_of)]
        rows.append(tokens["input_ids"])
        labels.append([word_labels[w] if first else IGNORED for w, first in zip(word_of, is_first, strict=True)])
    return rows, labels


def _tags(data: Dataset, name: str, model: Any) -> tuple[list[list[int]], str | None]:
    """The model's class number of each word, −100 where the data have it, too; and `ClassNumbers.how`."""
    rows = data[name][:]
    for i, row in enumerate(rows):
        if not isinstance(row, (list, tuple)):
            raise InputError(
                "the column does not hold one label for each word", value=place(name, i), remedy="give label_column"
            )
    values = [value for row in rows for value in row if value != IGNORED]
    class_number = ClassNumbers(values, data.features[name], model)
    numbers = [
        [IGNORED if x == IGNORED else class_number(x, place(name, i)) for x in row] for i, row in enumerate(rows)
    ]
    return numbers, class_number.how


TASK = Task(
    name="token-classification",
    encode=encode,
    auto_class="AutoModelForTokenClassification",
    suffixes=("ForTokenClassification",),
)
