"""A row that cannot be used is named: which column, which row, in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from datasets import Dataset, IterableDataset
from test_loading import cross_entropy, refused

TEXTS = tiny.SENTENCES
IDS = [[5, 6, 7, 8, 9], [6, 7, 8], [7, 8, 9]]
DOCUMENTS = {"packing": "document"}


def with_fault(values: list[Any], fault: Any, row: int = 2) -> list[Any]:
    return [*values[:row], fault, *values[row + 1 :]]


def classifier(**more: Any) -> Any:
    return tiny.bert("BertForSequenceClassification", **more)


def stream(*rows: dict[str, Any]) -> IterableDataset:
    return IterableDataset.from_generator(lambda: iter(rows))


Case = tuple[str, Callable[[], Any], Any, dict[str, Any]]
"""What is said, the model, the data, the settings."""

CASES: dict[str, Case] = {
    # texts
    "text None": ("a row has no text, got 'column text, row 2'", tiny.llama, {"text": with_fault(TEXTS, None)}, {}),
    "text None, documents": ("a row has no text.*row 2", tiny.llama, {"text": with_fault(TEXTS, None)}, DOCUMENTS),
    "text a number": ("does not hold text, got 'column text, row 0: int'", tiny.llama, {"text": [1, 2]}, {}),
    "text a list": ("does not hold text, got 'column text, row 0: list'", tiny.llama, {"text": [["a"], ["b"]]}, {}),
    "text a dictionary": ("does not hold text.*text.en", tiny.llama, {"text": [{"en": "a"}, {"en": "b"}]}, {}),
    "all texts empty": ("no example has a token to predict", tiny.llama, {"text": [""] * 4}, DOCUMENTS),
    "second text None": (
        "a row has no text, got 'column hypothesis, row 1'",
        classifier,
        {"premise": TEXTS[:3], "hypothesis": with_fault(TEXTS[:3], None, 1), "label": [0, 1, 0]},
        {},
    ),
    "a classified text without a token": (
        "a row has no token, got 'column text, row 1'",
        lambda: tiny.llama("LlamaForSequenceClassification", num_labels=2),
        {"text": ["a", "", "b"], "label": [0, 1, 0]},
        {},
    ),
    "stream: text of a later row": ("a row has no text.*row 2", tiny.llama,
        stream({"text": "a"}, {"text": "b"}, {"other": "c"}), {"max_examples": 3}),
    "stream: documents without the key": ("a row has no text.*row 1", tiny.llama,
        stream({"text": "a"}, {"txt": "b"}), {"max_examples": 3, **DOCUMENTS}),
    "stream: label of a later row": ("out of range, got 'none'.*row 1", classifier,
        stream({"text": "a", "label": 0}, {"text": "b"}), {"max_examples": 3}),
    "stream: a number among texts": ("columns of one kind.*row 1", tiny.llama,
        stream({"text": "a"}, {"text": 3}), {"max_examples": 3, **DOCUMENTS}),
    "rows: a number among texts": ("columns of one kind.*got 'row 1'", tiny.llama, [{"text": "a"}, {"text": 3}], {}),
    "rows: a key is missing": ("a row has no text.*row 1", tiny.llama, [{"text": "a"}, {"txt": "b"}], {}),
    # token ids
    "ids None": ("not a list of whole numbers, got 'column input_ids, row 1: none'", tiny.llama,
        {"input_ids": with_fault(IDS, None, 1)}, {}),
    "ids nested": ("row 0: nested", tiny.llama, {"input_ids": [[[1, 2], [3, 4]], [[1, 2], [3, 4]]]}, {}),
    "ids nested, ragged": ("row 0: nested", tiny.llama, {"input_ids": [[[1], [3, 4]], [[1, 2]]]}, {}),
    "ids with a gap": ("row 2: not all whole numbers", tiny.llama, {"input_ids": with_fault(IDS, [1, None, 2])}, {}),
    "ids of halves": ("row 0: not all whole numbers", tiny.llama, {"input_ids": [[1.5, 2.0], [1.0, 2.0]]}, {}),
    "ids that the model lacks": ("does not have, got 320.*see example 2", tiny.llama,
        {"input_ids": with_fault(IDS, [1, 320, 2])}, DOCUMENTS),
    "labels that the model lacks": ("does not have, got 999.*see example 1", tiny.llama,
        {"input_ids": IDS, "labels": with_fault(IDS, [6, 999, 2], 1)}, DOCUMENTS),
    "ids all empty": ("no example has a token to predict", tiny.llama, {"input_ids": [[], [], []]}, DOCUMENTS),
    "mask of another length": ("another length.*got 'column attention_mask, row 1: 2 for 3 tokens'",
        tiny.llama, {"input_ids": IDS, "attention_mask": [[1] * 5, [1] * 2, [1] * 3]}, {}),
    "mask None": ("row 1: none", tiny.llama, {"input_ids": IDS, "attention_mask": [[1] * 5, None, [1] * 3]}, {}),
    "mask of twos": ("neither 0 nor 1.*row 2", tiny.llama,
        {"input_ids": IDS, "attention_mask": [[1] * 5, [1] * 3, [1, 2, 1]]}, {}),
    "labels of another length": ("one label for each token, got 'column labels, row 2: 2 for 3", tiny.llama,
        {"input_ids": IDS, "labels": [[1] * 5, [1] * 3, [1] * 2]}, {}),
    "labels nested": ("row 0: nested", tiny.llama, {"input_ids": IDS, "labels": [[x] for x in IDS]}, {}),
    "token types of another length": ("column token_type_ids, row 1", classifier,
        {"input_ids": IDS, "token_type_ids": [[0] * 5, [0], [0] * 3], "label": [0, 1, 0]}, {}),
    "a classified row of no ids": ("a row has no token.*row 1", classifier,
        {"input_ids": [[5], [], [6]], "label": [0, 1, 0]}, {}),
    # labels
    "label None": ("out of range, got 'none'.*see column label, row 2", classifier,
        {"text": TEXTS[:3], "label": [0, 1, None]}, {}),
    "label a half": ("out of range, got 0.5.*row 1", classifier, {"text": TEXTS[:3], "label": [0.0, 0.5, 1.0]}, {}),
    "label NaN": ("out of range, got nan.*row 1", classifier, {"text": TEXTS[:2], "label": [0.0, float("nan")]}, {}),
    "label too large": ("out of range, got 2.*row 2", classifier, {"text": TEXTS[:3], "label": [0, 1, 2]}, {}),
    "label unknown": ("does not know, got 'good'.*see column label, row 0", classifier,
        {"text": TEXTS[:2], "label": ["good", "bad"]}, {}),
    "labels None in the first row": ("got 'none'.*row 0", classifier, {"text": TEXTS[:2], "label": [None, [1]]}, {}),
    "one of several labels too large": ("out of range, got 5.*row 1", lambda: classifier(num_labels=3),
        {"text": TEXTS[:3], "labels": [[0, 2], [5], []]}, {}),
    "target None": ("the labels are not numbers.*row 1", lambda: classifier(num_labels=1),
        {"text": TEXTS[:2], "label": [0.5, None]}, {}),
    "targets of two widths": ("rows have different numbers.*row 1",
        lambda: classifier(num_labels=2, problem_type="regression"),
        {"text": TEXTS[:2], "label": [[0.5, 1.0], [0.5]]}, {}),
    # tags
    "words None": ("a row is not a list of words.*row 1", lambda: tiny.bert("BertForTokenClassification"),
        {"tokens": [["a"], None], "ner_tags": [[0], [1]]}, {}),
    "a word None": ("a row is not a list of words.*row 0", lambda: tiny.bert("BertForTokenClassification"),
        {"tokens": [["a", None], ["b"]], "ner_tags": [[0, 1], [1]]}, {}),
    "tags None": ("one label for each word.*row 1", lambda: tiny.bert("BertForTokenClassification"),
        {"tokens": [["a"], ["b"]], "ner_tags": [[0], None]}, {}),
    "tags too few": ("one label for each word, got 'column tokens, row 1: 2 words, 1",
        lambda: tiny.bert("BertForTokenClassification"), {"tokens": [["a"], ["b", "c"]], "ner_tags": [[0], [1]]}, {}),
    "a tag too large": ("out of range, got 7.*row 1", lambda: tiny.bert("BertForTokenClassification"),
        {"tokens": [["a"], ["b"]], "ner_tags": [[0], [7]]}, {}),
    # targets
    "all targets empty": ("no example has a token to predict", tiny.t5,
        {"source": TEXTS[:3], "target": ["", "", ""]}, {}),
    "all targets padding": ("all targets are empty", tiny.t5,
        {"input_ids": IDS, "labels": [[-100, -100], [-100], [-100]]}, {}),
    "a source empty": ("a row has no token.*row 1", tiny.t5,
        {"source": ["a", "", "b"], "target": ["a", "b", "c"]}, {}),
    "a target None": ("a row has no text, got 'column target, row 1'", tiny.t5,
        {"source": ["a", "b", "c"], "target": ["a", None, "c"]}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_row_is_named(name: str) -> None:
    match, make, data, settings = CASES[name]
    model = make()
    tokenizer = tiny.tokenizer(template=type(model).__name__.startswith("Bert"))
    refused(match, model, data, tokenizer=tokenizer, **settings)


class Items(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """A torch data set of what it is given; an exception is raised."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        if isinstance(self.items[i], Exception):
            raise self.items[i]
        return self.items[i]


X = torch.randn(4)


@pytest.mark.parametrize(
    ("match", "items"),
    [
        ("do not stack.*item 1: shapes .3,. and", [(X, 0), (X[:3], 1)]),
        ("do not stack.*item 2.*as item 0", [(X, 0), (X, 1), (X, torch.tensor([1]))]),
        ("do not stack.*got 'item 1'", [(X, 0), ("a", 1)]),
        ("do not stack.*got 'item 1'", [(X, 0), (X, None)]),
        ("does not hold pairs.*item 1: Tensor", [(X, 0), X]),
        ("does not hold pairs.*item 0: dict", [{"x": X, "y": 0}, {"x": X, "y": 0}]),
        ("fails: OSError: gone, got 'item 1'", [(X, 0), OSError("gone")]),
        ("the torch dataset is empty", []),
    ],
)
def test_items_of_a_torch_data_set(match: str, items: list[Any]) -> None:
    refused(match, torch.nn.Linear(4, 3), Items(*items), loss_fn=cross_entropy)


def test_tensors_that_are_no_numbers_in_rows() -> None:
    linear, y = torch.nn.Linear(4, 3), torch.tensor([0, 1])
    for x in (torch.eye(2, 4).to_sparse(), torch.zeros(2, 4, dtype=torch.cfloat), torch.zeros(2, 4, device="meta")):
        refused("dense tensors of real numbers", linear, (x, y), loss_fn=cross_entropy)
    refused("data of this kind cannot be a column, got 'input_ids: Tensor'", tiny.llama(),
            {"input_ids": torch.eye(2, 4).to_sparse()})  # fmt: skip
    refused("data of this kind cannot be a column, got 'text: str'", tiny.llama(), {"text": "one text"})
    refused("data of this kind cannot be a column, got 'text: int'", tiny.llama(), {"text": 3})


def test_numbers_of_one_shape() -> None:
    linear = torch.nn.Linear(2, 3)
    for rows, match in (
        ([[1.0, 2.0], [1.0], [1.0, 2.0]], r"row 1 has shape \(1,\), row 0 \(2,\)"),
        ([[1.0, 2.0], None, [1.0, 2.0]], "row 1 holds no number"),
        (["a", "b", "c"], "row 0 holds str"),
    ):
        data = Dataset.from_dict({"features": rows, "label": [0, 1, 2]})
        refused(f"does not hold numbers of one shape, got 'features'; allowed: {match}", linear, data,
                loss_fn=cross_entropy)  # fmt: skip


def test_label_mapping_that_is_none() -> None:
    from hf_llc.config import LoadConfig
    from hf_llc.loading.problem_loader import load_problem

    model, tokenizer = classifier(), tiny.tokenizer(template=True)
    data = {"text": TEXTS[:3], "label": [0, 1, 2]}
    for mapping, match in (
        ([1, 2], "label_mapping is not a dictionary"),
        ({"A": [0], "B": [1]}, "gives a name a list of labels"),
        ({"LABEL_0": 0, "LABEL_1": 1}, "not in label_mapping, got 2.*see column label, row 2"),
    ):
        with pytest.raises(ValueError, match=match):
            load_problem(model, data, LoadConfig(), tokenizer=tokenizer, label_mapping=mapping)  # type: ignore[arg-type]
