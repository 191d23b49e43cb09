"""Token classification: a label for each tagged token."""

from __future__ import annotations

from typing import Any

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.labels import LABELS, class_ids
from hf_llc.loading.tasks import losses
from hf_llc.loading.tasks.losses import Encoded
from hf_llc.loading.tasks.tokenization import _pad_id, check_vocabulary, length_for, need_tokenizer


def token_classification(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Words with a label each; the label sits on a word's first token."""
    tokenizer, data = need_tokenizer(tokenizer), materialize(data, config)
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "words are aligned with tokens by fast tokenizers only",
            value=type(tokenizer).__name__,
            remedy="give tokenizer",
        )
    name = column(data.column_names, config.input_column, ("tokens", "words"), "input_column")
    label = column(data.column_names, config.label_column, ("ner_tags", "pos_tags", "tags", *LABELS), "label_column")
    length = length_for(model, config)
    tags = [class_ids(row, data.features[label], model) for row in data[label][:]]
    rows, labels = [], []
    for words, known in zip(data[name][:], tags, strict=True):
        if len(words) != len(known):
            raise InputError("a row has not one label a word", value=f"{len(words)} words, {len(known)} labels")
        encoded = tokenizer(list(words), is_split_into_words=True, truncation=True, max_length=length, verbose=False)
        ids = encoded.word_ids()
        rows.append(encoded["input_ids"])
        labels.append(
            [known[w] if w is not None and (i == 0 or ids[i - 1] != w) else losses.IGNORED for i, w in enumerate(ids)]
        )
    encoded = losses.labelled_tokens(
        rows,
        labels,
        config,
        pad_id=_pad_id(model, tokenizer),
        facts={"input_column": name, "label_column": label, "max_length": length},
    )
    check_vocabulary(encoded.examples["input_ids"], model)
    return encoded
