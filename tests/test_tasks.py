"""Every task's per-example losses against an independent computation, mostly transformers' own, unpadded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.problem_loader import load_problem
from hf_llc.loading.tasks import losses
from hf_llc.problem import Problem

TEXTS = Dataset.from_dict({"text": tiny.SENTENCES})


def all_losses(problem: Problem, size: int = 3) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(
            [
                problem.losses(problem.model, {k: x[i : i + size] for k, x in problem.examples.items()})
                for i in range(0, problem.num_examples, size)
            ]
        )


def check_vmap(problem: Problem) -> None:
    """Two chains at once give what each gives alone."""
    names = {k: p.detach() for k, p in problem.model.named_parameters()}
    chains = {k: torch.stack([p, p + 0.01]) for k, p in names.items()}
    both = {k: torch.stack([x[:2], x[2:4]]) for k, x in problem.examples.items()}

    def one(parameters: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return problem.losses(lambda *a, **k: torch.func.functional_call(problem.model, parameters, a, k), batch)

    with torch.no_grad():
        found = torch.vmap(one)(chains, both)
        for c in range(2):
            alone = one({k: p[c] for k, p in chains.items()}, {k: x[c] for k, x in both.items()})
            torch.testing.assert_close(found[c], alone, rtol=1e-4, atol=1e-5)


def test_packed_windows_are_the_joined_documents_and_their_loss_is_transformers_own() -> None:
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    problem = load_problem(model, TEXTS, LoadConfig(max_length=10), tokenizer=tokenizer)
    joined: list[int] = []
    for text in tiny.SENTENCES:
        joined += [*([2] if joined else []), *tokenizer(text, add_special_tokens=False)["input_ids"]]
    count = len(joined) // 10
    assert problem.examples["input_ids"].tolist() == np.reshape(joined[: 10 * count], (count, 10)).tolist()
    assert set(problem.examples) == {"input_ids"} and problem.n == 9 * count and problem.unit == "nats per token"
    ids = problem.examples["input_ids"]
    expected = torch.stack([model(input_ids=row[None], labels=row[None]).loss for row in ids]).detach()
    torch.testing.assert_close(all_losses(problem), expected)
    p = np.bincount(ids[:, 1:].flatten()) / problem.n
    assert problem.trivial_loss == pytest.approx(-sum(x * math.log(x) for x in p if x > 0))
    check_vmap(problem)


class Copies(TorchDispatchMode):
    """Counts operations that write a copy of the logits of so many numbers."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers, self.names = numbers, list[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.numel() >= self.numbers:
            self.names.append(function.overloadpacket.__name__)
        return found


def test_logits_are_not_copied_for_the_tokens_that_they_predict() -> None:
    """With a large vocabulary each copy takes as long as a layer, and hundreds of MiB."""
    problem = load_problem(tiny.llama(), TEXTS, LoadConfig(max_length=10), tokenizer=tiny.tokenizer())
    batch = {k: x[:4] for k, x in problem.examples.items()}
    with Copies(4 * 9 * 320) as copies:
        problem.losses(problem.model, batch).sum().backward()
    assert "_log_softmax" in copies.names and not {"clone", "copy_", "slice_backward"} & set(copies.names)


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_padded_documents_lose_what_unpadded_ones_do(attn: str) -> None:
    model, tokenizer = tiny.llama(attn=attn), tiny.tokenizer()
    sums = []
    for text in tiny.SENTENCES:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        sums.append(model(input_ids=ids, labels=ids).loss.detach() * (ids.shape[1] - 1))
    total = sum(len(tokenizer(text)["input_ids"]) - 1 for text in tiny.SENTENCES)
    problem = load_problem(model, TEXTS, LoadConfig(packing="document"), tokenizer=tokenizer)
    losses = all_losses(problem)
    torch.testing.assert_close(losses, torch.stack(sums) * len(sums) / total, rtol=1e-4, atol=1e-5)
    assert problem.n == total and float(losses.mean()) == pytest.approx(float(sum(sums)) / total, rel=1e-5)
    if attn == "eager":
        check_vmap(problem)
    whole = load_problem(
        model, TEXTS, LoadConfig(packing="document", loss_normalization="sequence"), tokenizer=tokenizer
    )
    assert (whole.n, whole.unit) == (len(sums), "nats per sequence")
    torch.testing.assert_close(all_losses(whole), torch.stack(sums), rtol=1e-4, atol=1e-5)
    assert whole.trivial_loss == pytest.approx(problem.trivial_loss * total / len(sums))


def test_documents_without_a_predicted_token_are_left_out_with_a_warning() -> None:
    data = Dataset.from_dict({"text": [*tiny.SENTENCES, "", ""]})
    with pytest.warns(UserWarning, match="without a token to predict"):
        problem = load_problem(tiny.llama(), data, LoadConfig(packing="document"), tokenizer=tiny.tokenizer())
    assert problem.num_examples == len(tiny.SENTENCES) == problem.provenance["data"]["num_examples"]
    with pytest.raises(InputError, match="no example has a token to predict"):
        load_problem(
            tiny.llama(),
            Dataset.from_dict({"text": ["", ""]}),
            LoadConfig(packing="document"),
            tokenizer=tiny.tokenizer(),
        )


def test_token_ids_made_before_are_used_as_they_are() -> None:
    ids = torch.randint(0, 320, (6, 12))
    for data in ({"input_ids": ids}, Dataset.from_dict({"tokens": ids.tolist()})):
        problem = load_problem(tiny.llama(), data, LoadConfig())
        assert torch.equal(problem.examples["input_ids"], ids)
    cut = load_problem(tiny.llama(), {"input_ids": ids}, LoadConfig(max_length=8))
    assert torch.equal(cut.examples["input_ids"], ids.reshape(9, 8))
    masked = {"input_ids": ids, "attention_mask": torch.arange(12).expand(6, 12) < torch.arange(3, 9)[:, None]}
    problem = load_problem(tiny.llama(), masked, LoadConfig(packing="document"))
    assert problem.n == sum(range(3, 9)) - 6


def test_masked_lm() -> None:
    model, tokenizer = tiny.bert("BertForMaskedLM"), tiny.tokenizer(template=True)
    problem = load_problem(model, TEXTS, LoadConfig(), tokenizer=tokenizer)
    again = load_problem(model, TEXTS.select(range(3)), LoadConfig(), tokenizer=tokenizer)
    width = again.examples["labels"].shape[1]
    assert torch.equal(again.examples["labels"], problem.examples["labels"][:3, :width])
    expected, count = [], 0
    for i, text in enumerate(tiny.SENTENCES):
        ids = tokenizer(text)["input_ids"]
        labels = problem.examples["labels"][i, : len(ids)]
        chosen = labels != losses.IGNORED
        assert 1 <= int(chosen.sum()) <= max(1, round(0.15 * len(ids)))
        assert labels[chosen].tolist() == torch.tensor(ids)[chosen].tolist()
        inputs = torch.tensor(ids).masked_fill(chosen, 3)
        expected.append(model(input_ids=inputs[None], labels=labels[None]).loss.detach() * chosen.sum())
        count += int(chosen.sum())
    assert problem.n == count
    torch.testing.assert_close(all_losses(problem), torch.stack(expected) * len(expected) / count, rtol=1e-4, atol=1e-5)
    check_vmap(
        load_problem(model, Dataset.from_dict({"text": tiny.SENTENCES[:1] * 4}), LoadConfig(), tokenizer=tokenizer)
    )


def test_seq2seq() -> None:
    model, tokenizer = tiny.t5(), tiny.tokenizer()
    data = Dataset.from_dict({"text": tiny.SENTENCES, "summary": tiny.SENTENCES[::-1]})
    problem = load_problem(model, data, LoadConfig(loss_normalization="sequence"), tokenizer=tokenizer)
    expected = []
    for text, target in zip(tiny.SENTENCES, tiny.SENTENCES[::-1], strict=True):
        ids, labels = (torch.tensor([tokenizer(x)["input_ids"]]) for x in (text, target))
        expected.append(model(input_ids=ids, labels=labels).loss.detach() * labels.shape[1])
    torch.testing.assert_close(all_losses(problem), torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert problem.task == "text2text-generation"


def test_token_classification_labels_the_first_token_of_a_word() -> None:
    names = ["O", "PER", "LOC"]
    model = tiny.bert(
        "BertForTokenClassification",
        num_labels=3,
        label2id={n: 2 - i for i, n in enumerate(names)},
        id2label={2 - i: n for i, n in enumerate(names)},
    )
    words = [text.split() for text in tiny.SENTENCES]
    tags = [[len(w) % 3 for w in row] for row in words]
    data = Dataset.from_dict(
        {"tokens": words, "ner_tags": tags},
        features=Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))}),
    )
    tokenizer = tiny.tokenizer(template=True)
    problem = load_problem(model, data, LoadConfig(), tokenizer=tokenizer)
    assert problem.n == sum(map(len, words)) and problem.unit == "nats per token"
    total = 0.0
    for row, known in zip(words, tags, strict=True):
        ids, where = [4], []
        for word in row:
            where.append(len(ids))
            ids += tokenizer([word], is_split_into_words=True, add_special_tokens=False)["input_ids"]
        logits = model(input_ids=torch.tensor([[*ids, 5]])).logits[0, where].detach()
        total += float(F.cross_entropy(logits, 2 - torch.tensor(known), reduction="sum"))  # the model's own order
    assert float(all_losses(problem).mean()) == pytest.approx(total / problem.n, rel=1e-5)


@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "LlamaForSequenceClassification"])
def test_sequence_classification(kind: str) -> None:
    make: Any = tiny.bert if kind.startswith("Bert") else tiny.llama
    model, tokenizer = make(kind, num_labels=3), tiny.tokenizer(template=kind.startswith("Bert"))
    labels = [0, 1, 2, 1, 0, 0, 1, 2]
    problem = load_problem(model, TEXTS.add_column("label", labels), LoadConfig(), tokenizer=tokenizer)
    expected = torch.stack(
        [
            model(input_ids=torch.tensor([tokenizer(t)["input_ids"]]), labels=torch.tensor([y])).loss
            for t, y in zip(tiny.SENTENCES, labels, strict=True)
        ]
    ).detach()
    torch.testing.assert_close(all_losses(problem), expected, rtol=1e-4, atol=1e-5)
    p = np.bincount(labels) / 8
    assert problem.trivial_loss == pytest.approx(-(p * np.log(p)).sum()) and problem.n == 8


def test_pairs_of_texts_are_read_as_pairs() -> None:
    model, tokenizer = tiny.bert("BertForSequenceClassification", num_labels=2), tiny.tokenizer(template=True)
    other = tiny.SENTENCES[::-1]
    data = Dataset.from_dict({"premise": tiny.SENTENCES, "hypothesis": other, "label": [0, 1] * 4})
    problem = load_problem(model, data, LoadConfig(), tokenizer=tokenizer)
    expected = []
    for i, (a, b) in enumerate(zip(tiny.SENTENCES, other, strict=True)):
        inputs = tokenizer(a, b, return_tensors="pt")
        assert int(inputs["token_type_ids"].sum()) > 0
        expected.append(model(**inputs, labels=torch.tensor([i % 2])).loss.detach())
    torch.testing.assert_close(all_losses(problem), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_labels_by_name_follow_the_models_order() -> None:
    model = tiny.bert("BertForSequenceClassification", label2id={"bad": 0, "Good": 1}, id2label={0: "bad", 1: "Good"})
    tokenizer = tiny.tokenizer(template=True)
    strings = TEXTS.add_column("label", ["good", "bad"] * 4)
    numbers = strings.cast_column("label", ClassLabel(names=["good", "bad"]))
    for data in (strings, numbers):
        assert load_problem(model, data, LoadConfig(), tokenizer=tokenizer).examples["labels"].tolist() == [1, 0] * 4
    with pytest.raises(InputError, match="a label that the model does not know, got 'fine'; allowed: bad, Good"):
        load_problem(model, TEXTS.add_column("label", ["fine"] * 8), LoadConfig(), tokenizer=tokenizer)


def test_several_labels_an_example() -> None:
    model, tokenizer = tiny.bert("BertForSequenceClassification", num_labels=3), tiny.tokenizer(template=True)
    hot = [[1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    ids = [[i for i, x in enumerate(row) if x] for row in hot]
    named = Dataset.from_dict(
        {"text": tiny.SENTENCES, "labels": ids},
        features=Features({"text": Value("string"), "labels": List(ClassLabel(names=["a", "b", "c"]))}),
    )
    for data in (TEXTS.add_column("labels", hot), named):
        problem = load_problem(model, data, LoadConfig(), tokenizer=tokenizer)
        assert problem.examples["labels"].tolist() == hot
    logits = [model(input_ids=torch.tensor([tokenizer(t)["input_ids"]])).logits[0].detach() for t in tiny.SENTENCES]
    expected = torch.stack(
        [
            -sum(F.logsigmoid(z if y else -z) for z, y in zip(row, target, strict=True))
            for row, target in zip(logits, hot, strict=True)
        ]
    )
    torch.testing.assert_close(all_losses(problem), expected, rtol=1e-4, atol=1e-5)
    p = np.mean(hot, axis=0)
    assert problem.trivial_loss == pytest.approx(-(p * np.log(p) + (1 - p) * np.log(1 - p)).sum())


def test_regression() -> None:
    model, tokenizer = tiny.bert("BertForSequenceClassification", num_labels=1), tiny.tokenizer(template=True)
    y = np.linspace(-1, 2, 8)
    problem = load_problem(model, TEXTS.add_column("label", y), LoadConfig(), tokenizer=tokenizer)
    expected = (
        torch.stack(
            [
                model(input_ids=torch.tensor([tokenizer(t)["input_ids"]]), labels=torch.tensor([[v]])).loss
                for t, v in zip(tiny.SENTENCES, y.astype(np.float32), strict=True)
            ]
        ).detach()
        / 2
    )
    torch.testing.assert_close(all_losses(problem), expected, rtol=1e-4, atol=1e-5)
    assert problem.unit == "nats per example (Gaussian, σ = 1)"
    assert problem.trivial_loss == pytest.approx(y.var() / 2, rel=1e-5)


def test_image_classification() -> None:
    from PIL import Image

    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 255, (10, 10, 3), dtype=np.uint8)) for _ in range(6)]
    labels = [0, 1, 2, 2, 1, 0]
    data = Dataset.from_dict({"img": images, "label": labels})
    model, processor = tiny.vit()
    problem = load_problem(model, data, LoadConfig(), tokenizer=processor)
    expected = torch.stack(
        [
            model(**processor(x, return_tensors="pt"), labels=torch.tensor([y])).loss
            for x, y in zip(images, labels, strict=True)
        ]
    ).detach()
    torch.testing.assert_close(all_losses(problem), expected, rtol=1e-4, atol=1e-5)
    pixels = problem.examples["pixel_values"]
    same = load_problem(model, (pixels, torch.tensor(labels)), LoadConfig())
    torch.testing.assert_close(all_losses(same), all_losses(problem))
    grey, processor = tiny.vit(channels=1)
    assert load_problem(grey, data, LoadConfig(), tokenizer=processor).examples["pixel_values"].shape == (6, 1, 8, 8)


def test_plain_module_is_left_as_found() -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Dropout(), torch.nn.Linear(5, 3)
    )
    model[0].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x, y = torch.randn(7, 4), torch.arange(7) % 3

    def loss_fn(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, labels, reduction="none")

    problem = load_problem(model, (x, y), LoadConfig(), loss_fn=loss_fn)
    assert model.training and not model[0].weight.requires_grad and problem.model is model
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert (problem.n, problem.unit, problem.task) == (7, "nats per example", "plain")
    model.eval()
    torch.testing.assert_close(all_losses(problem), loss_fn(model(x), y).detach())
    p = np.bincount(y) / 7
    assert problem.trivial_loss == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    check_vmap(problem)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_fn_that_sums_the_batch_is_refused(reduction: str) -> None:
    with pytest.raises(InputError, match=r'one loss for each example.*reduction="none"'):
        load_problem(
            torch.nn.Linear(4, 3),
            (torch.randn(5, 4), torch.zeros(5, dtype=torch.long)),
            LoadConfig(),
            loss_fn=torch.nn.CrossEntropyLoss(reduction=reduction),
        )


def test_plain_label_out_of_range_is_refused_wherever_it_stands() -> None:
    y = torch.tensor([0, 1, 2, 1, 9])
    with pytest.raises(InputError, match="out of range for the model's outputs, got 9"):
        load_problem(
            torch.nn.Linear(4, 3),
            (torch.randn(5, 4), y),
            LoadConfig(),
            loss_fn=torch.nn.CrossEntropyLoss(reduction="none"),
        )


def test_tied_weights_count_once_and_stay_tied(tmp_path: Any) -> None:
    model = tiny.llama(tie=True)
    model.save_pretrained(tmp_path)
    loaded = load_problem(str(tmp_path), {"input_ids": torch.ones(4, 8, dtype=torch.long)}, LoadConfig()).model
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.slow
def test_stories260k_has_its_known_loss(data_folder: Any) -> None:
    model, text = data_folder("stories260K"), data_folder("tinystories_val")
    problem = load_problem(model, str(text / "tinystories_val.txt"), LoadConfig(max_length=256))
    assert (problem.num_examples, problem.n) == (1535, 1535 * 255)
    assert problem.trivial_loss == pytest.approx(4.8294, abs=1e-4)
    assert float(all_losses(problem, 64).mean()) == pytest.approx(1.63336, abs=1e-5)
