"""Token classification: a label for each tagged word."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.labels import LABEL_COLUMNS, ClassNumbers
from hf_llc.loading.tasks.losses import IGNORED, labelled_tokens
from hf_llc.loading.tasks.task import Encoded, Task
from hf_llc.loading.tasks.tokenization import check_vocabulary, length_for, need_tokenizer, pad_id_of

_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "pos_tags", "tags", *LABEL_COLUMNS)


def encode(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Words with a label each; a word's first token carries its label."""
    tokenizer, data = need_tokenizer(tokenizer), materialize(data, config)
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "words are aligned with tokens by fast tokenizers only",
            value=type(tokenizer).__name__,
            remedy="give tokenizer",
        )
    name = column(data.column_names, config.input_column, _WORDS, "input_column")
    label = column(data.column_names, config.label_column, _TAGS, "label_column")
    length = length_for(model, config)
    tags, how = _tags(data, label, model)
    rows, labels = [], []
    for words, word_labels in zip(data[name][:], tags, strict=True):
        if len(words) != len(word_labels):
            raise InputError("a row has not one label a word", value=f"{len(words)} words, {len(word_labels)} labels")
        tokens = tokenizer(list(words), is_split_into_words=True, truncation=True, max_length=length, verbose=False)
        word_of = tokens.word_ids()  # None for a special token
        is_first = [w is not None and (i == 0 or word_of[i - 1] != w) for i, w in enumerate(word_of)]
        rows.append(tokens["input_ids"])
        labels.append([word_labels[w] if first else IGNORED for w, first in zip(word_of, is_first, strict=True)])
    encoded = labelled_tokens(
        rows,
        labels,
        config,
        pad_id=pad_id_of(model, tokenizer),
        facts={"input_column": name, "label_column": label, "classes": how, "max_length": length},
    )
    check_vocabulary(encoded.examples["input_ids"], model)
    return encoded


def _tags(data: Dataset, name: str, model: Any) -> tuple[list[list[int]], str | None]:
    """The model's class number of each word, −100 where the data have it, too; and `ClassNumbers.how`."""
    rows = data[name][:]
    if not all(isinstance(row, (list, tuple)) for row in rows):
        raise InputError("the column does not hold a label a word", value=name, remedy="give label_column")
    values = [value for row in rows for value in row if value != IGNORED]
    class_number = ClassNumbers(values, data.features[name], model)
    return [[IGNORED if x == IGNORED else class_number(x) for x in row] for row in rows], class_number.how


TASK = Task(
    name="token-classification",
    encode=encode,
    auto_class="AutoModelForTokenClassification",
    suffixes=("ForTokenClassification",),
)
