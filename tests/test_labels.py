"""The classes of data become those of the model by name, or by number and said so, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, List, Value
from torch.nn import functional as F

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.problem_loader import load_problem
from hf_llc.problem import Problem

WORDS = [text.split() for text in tiny.SENTENCES]
WORDS_HAVE = [[(i + len(word)) % 3 for i, word in enumerate(row)] for row in WORDS]


def classifier(names: list[str] | None, count: int = 3, **more: Any) -> Any:
    named = (
        {} if names is None else {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    )
    return tiny.bert(
        "BertForSequenceClassification", num_labels=count if names is None else len(names), **named, **more
    )


def texts(values: list[Any], names: list[str] | None) -> Dataset:
    data = Dataset.from_dict({"text": tiny.SENTENCES[: len(values)], "label": values})
    return data if names is None else data.cast_column("label", ClassLabel(names=names))


def load(model: Any, data: Any, **settings: Any) -> Problem:
    return load_problem(model, data, LoadConfig(**settings), tokenizer=tiny.tokenizer(template=True))


def mean_loss(problem: Problem) -> float:
    with torch.no_grad():
        return float(problem.losses(problem.model, problem.examples).mean())


def mean_cross_entropy(model: Any, labels: list[int]) -> float:
    """In the plainest way: one text at a time, and the label that the model's own name stands at."""
    total = 0.0
    for text, label in zip(tiny.SENTENCES, labels, strict=False):
        ids = torch.tensor([tiny.tokenizer(template=True)(text)["input_ids"]])
        total -= float(torch.log_softmax(model(input_ids=ids).logits[0].detach(), 0)[label])
    return total / len(labels)


IN_ORDER = ["contradiction", "neutral", "entailment"]


@pytest.mark.parametrize(
    ("theirs", "used"),
    [
        (["entailment", "neutral", "contradiction"], [0, 1, 2]),  # another order
        (["ENTAILMENT", "Contradiction", "neutral"], [0, 1, 2]),  # another case
        (["entailment", "contradiction"], [0, 1]),  # fewer
        (["hidden", "entailment", "other", "contradiction", "neutral"], [1, 3, 4]),  # more, which no row uses
        (["neutral", "contradiction", "entailment", "hidden"], [0, 2]),
    ],
)
def test_names_that_the_model_knows_go_by_name(theirs: list[str], used: list[int]) -> None:
    model, values = classifier(IN_ORDER), [used[i % len(used)] for i in range(8)]
    problem = load(model, texts(values, theirs))
    expected = [IN_ORDER.index(theirs[value].lower()) for value in values]
    assert problem.examples["labels"].tolist() == expected
    assert mean_loss(problem) == pytest.approx(mean_cross_entropy(model, expected), rel=1e-5)
    as_text = load(model, texts([theirs[value] for value in values], None))
    assert mean_loss(as_text) == mean_loss(problem)
    assert problem.provenance["data"]["classes"] == as_text.provenance["data"]["classes"] == "by name"


@pytest.mark.parametrize(
    ("theirs", "used"),
    [
        (["entailment", "neutral", "contradicts"], [0, 1, 2]),
        (["no", "neutral", "entailment"], [0]),  # the rows use only what the model does not know, at another place
        (["contradiction", "not_entailment"], [0, 1]),
    ],
)
def test_names_of_which_the_model_knows_some_are_refused_with_both_lists(theirs: list[str], used: list[int]) -> None:
    data = texts([used[i % len(used)] for i in range(8)], theirs)
    with pytest.raises(InputError, match="knows some of the data's label names and not others") as refused:
        load(classifier(IN_ORDER), data)
    assert ", ".join(IN_ORDER) in str(refused.value) and ", ".join(theirs) in str(refused.value)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (None, "by number: the data have neg, pos, the model names none"),
        (["A", "B"], "by number: the data have neg, pos, the model has A, B"),
    ],
)
def test_foreign_names_go_by_number_and_the_result_says_so(own: list[str] | None, said: str) -> None:
    model = classifier(own, 2)
    problem = load(model, texts([1, 0] * 4, ["neg", "pos"]))
    assert problem.examples["labels"].tolist() == [1, 0] * 4 and problem.provenance["data"]["classes"] == said
    with pytest.raises(InputError, match=r"a label is out of range, got 2; allowed: 0 … 1"):
        load(model, texts([2, 0] * 4, ["neg", "pos", "mixed"]))


def test_numbers_without_names_are_the_models_own() -> None:
    problem = load(classifier(IN_ORDER), texts([2, 0] * 4, None))
    assert problem.examples["labels"].tolist() == [2, 0] * 4 and problem.provenance["data"]["classes"] is None


@pytest.mark.parametrize("one", ["id2label", "label2id"])
def test_one_of_the_models_two_lists_is_enough(one: str) -> None:
    model = classifier(None, 3)
    names = dict(enumerate(IN_ORDER)) if one == "id2label" else {name: i for i, name in enumerate(IN_ORDER)}
    setattr(model.config, one, names)
    assert load(model, texts([0, 1] * 4, IN_ORDER[::-1])).examples["labels"].tolist() == [2, 1] * 4


@pytest.mark.parametrize(
    "label2id",
    [{"contradiction": 2, "neutral": 1, "entailment": 0}, {"entailment": 3}, {"0": "contradiction"}],
)
def test_lists_that_contradict_each_other_are_refused_where_names_are_needed(label2id: dict[str, Any]) -> None:
    model = classifier(IN_ORDER)
    model.config.label2id = label2id
    with pytest.raises(InputError, match="id2label and label2id contradict each other"):
        load(model, texts([0, 1] * 4, IN_ORDER))
    assert load(model, texts([0, 1] * 4, None)).n == 8


def test_several_labels_an_example_go_by_name_over_all_rows() -> None:
    model = classifier(["c", "b", "a"], problem_type="multi_label_classification")
    rows = [[0], [1], [2], [], [0, 1], [1, 2], [0, 2], [0, 1, 2]]
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=["a", "b", "c"]))})
    data = Dataset.from_dict({"text": tiny.SENTENCES, "labels": rows}, features=features)
    labels = load(model, data).examples["labels"]
    assert labels.tolist() == [[float(2 - i in row) for i in range(3)] for row in rows]
    other = data.cast_column("labels", List(ClassLabel(names=["a", "b", "z"])))
    with pytest.raises(InputError, match="knows some of the data's label names and not others, got 'z'"):
        load(model, other)


def tagger(names: list[str]) -> Any:
    return tiny.bert(
        "BertForTokenClassification",
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )


def tagged(tags: list[list[int]], names: list[str] | None) -> Dataset:
    kind = Value("int64") if names is None else ClassLabel(names=names)
    return Dataset.from_dict(
        {"tokens": WORDS, "ner_tags": tags},
        features=Features({"tokens": List(Value("string")), "ner_tags": List(kind)}),
    )


def test_tags_go_by_name() -> None:
    problem = load(tagger(["B-PER", "B-LOC", "O"]), tagged(WORDS_HAVE, ["O", "B-PER", "B-LOC", "B-MISC"]))
    labels = problem.examples["labels"]
    expected = [(tag - 1) % 3 for row in WORDS_HAVE for tag in row]
    assert labels[labels != -100].tolist() == expected and problem.provenance["data"]["classes"] == "by name"
    with pytest.raises(InputError, match="knows some of the data's label names and not others, got 'B-LOC'"):
        load(tagger(["B-PER", "O"]), tagged(WORDS_HAVE, ["O", "B-PER", "B-LOC"]))


def test_words_tagged_minus_100_have_no_loss() -> None:
    model = tagger(["O", "B-PER", "B-LOC"])
    tags = [[-100 if i == 0 else tag for i, tag in enumerate(row)] for row in WORDS_HAVE]
    problem, whole = load(model, tagged(tags, None)), load(model, tagged(WORDS_HAVE, None))
    assert problem.n == sum(len(row) - 1 for row in WORDS) and whole.n == sum(map(len, WORDS))
    total, tokenizer = 0.0, tiny.tokenizer(template=True)
    for row, known in zip(WORDS, tags, strict=True):
        pieces = [tokenizer([w], is_split_into_words=True, add_special_tokens=False)["input_ids"] for w in row]
        starts = 1 + np.cumsum([0, *map(len, pieces[:-1])])
        logits = (
            model(input_ids=torch.tensor([[4, *(i for piece in pieces for i in piece), 5]])).logits[0, starts].detach()
        )
        total += float(F.cross_entropy(logits, torch.tensor(known), ignore_index=-100, reduction="sum"))
    assert mean_loss(problem) == pytest.approx(total / problem.n, rel=1e-5)
    with pytest.raises(InputError, match="a label is out of range, got -1"):
        load(model, tagged([[-1 for _ in row] for row in WORDS], None))


def test_tags_that_are_not_lists_are_refused() -> None:
    data = tagged(WORDS_HAVE, None).remove_columns("ner_tags").add_column("ner_tags", [0] * 8)
    with pytest.raises(InputError, match="does not hold one label for each word, got 'column ner_tags, row 0'"):
        load(tagger(["O", "B-PER", "B-LOC"]), data)


def test_images_go_by_name() -> None:
    model, _ = tiny.vit()
    count = model.config.num_labels
    model.config.id2label = {i: f"kind {i}" for i in range(count)}
    size, channels = model.config.image_size, model.config.num_channels
    pixels = np.random.default_rng(0).normal(size=(2 * count, channels, size, size)).astype(np.float32)
    names = [f"kind {i}" for i in reversed(range(count))]
    data = Dataset.from_dict({"pixel_values": list(pixels), "label": list(range(count)) * 2})
    problem = load_problem(model, data.cast_column("label", ClassLabel(names=names)), LoadConfig())
    assert problem.examples["labels"].tolist() == list(reversed(range(count))) * 2
    assert isinstance(model, transformers.PreTrainedModel)


# Columns that are asked for


@pytest.mark.parametrize("name", ["label_column", "second_input_column"])
def test_a_column_that_nothing_uses_is_refused(name: str) -> None:
    data = Dataset.from_dict({"text": tiny.SENTENCES, "other": tiny.SENTENCES, "tokens": WORDS, "tags": WORDS_HAVE})
    asked: Any = {name: "other"}
    with pytest.raises(InputError, match=f"{name} "):
        load(tiny.bert("BertForMaskedLM"), data, **asked)
    with pytest.raises(InputError, match=f"{name} "):
        load(tiny.llama(), data, input_column="text", max_length=8, **asked)


@pytest.mark.parametrize("name", ["input_column", "label_column", "second_input_column"])
def test_a_column_asked_of_pairs_of_tensors_is_refused(name: str) -> None:
    model, x = torch.nn.Linear(2, 2), torch.randn(4, 2)
    y = torch.zeros(4, dtype=torch.int64)
    asked: Any = {name: "label"}

    def loss_fn(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, labels, reduction="none")

    for data in ((x, y), torch.utils.data.TensorDataset(x, y)):
        with pytest.raises(InputError, match=f"{name} "):
            load_problem(model, data, LoadConfig(**asked), loss_fn=loss_fn)
    columns = {"a": x, "b": y}
    settings = LoadConfig(input_column="a", label_column="b")
    facts = load_problem(model, columns, settings, loss_fn=loss_fn).provenance["data"]
    assert (facts["input_column"], facts["label_column"]) == ("a", "b")
