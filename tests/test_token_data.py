"""Data that are not plain texts: token ids, chats, nested columns, marked files; and context lengths."""

from __future__ import annotations

import codecs
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from datasets import Dataset, Features, IterableDataset, List, Value
from test_loading import refused
from test_tasks import all_losses

from hf_llc.clock import TimeIsUp
from hf_llc.config import LoadConfig
from hf_llc.embedded import model_path, text_path
from hf_llc.loading.problem_loader import load_problem
from hf_llc.loading.tasks import long_documents
from hf_llc.loading.tasks.context_length import context_of, length_for
from hf_llc.problem import Problem
from hf_llc.progress import Watch, watch, watching

PAD = 0
TEXTS = {"text": tiny.SENTENCES}
LABELS = [0, 1, 2, 1, 0, 0, 1, 2]


def ids_of(template: bool = False) -> list[list[int]]:
    return [tiny.tokenizer(template=template)(text)["input_ids"] for text in tiny.SENTENCES]


def padded(rows: list[list[int]], value: int = PAD, *, left: bool = False) -> list[list[int]]:
    width = max(map(len, rows)) + 2
    return [[value] * (width - len(row)) + row if left else row + [value] * (width - len(row)) for row in rows]


def masks(rows: list[list[int]]) -> list[list[int]]:
    return padded([[1] * len(row) for row in rows])


def agree(one: Problem, other: Problem) -> None:
    assert one.n == other.n
    torch.testing.assert_close(all_losses(one), all_losses(other), rtol=1e-5, atol=1e-6)


# Token ids, for every task on text


@pytest.mark.slow
def test_token_ids_of_a_language_model() -> None:
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    config, rows = LoadConfig(packing="document"), ids_of()
    texts = load_problem(model, TEXTS, config, tokenizer=tokenizer)
    for data in (
        {"input_ids": rows},
        {"input_ids": padded(rows), "attention_mask": masks(rows)},
        {"input_ids": padded(rows, 7), "attention_mask": masks(rows)},
        {"input_ids": padded(rows)},
        {"input_ids": padded(rows, left=True)},
        {"input_ids": rows, "labels": rows},
        {"input_ids": padded(rows), "labels": padded(rows, -100)},
    ):
        agree(load_problem(model, data, config), texts)


def test_padding_without_a_mask_is_said() -> None:
    rows = ids_of()
    model, config = tiny.llama(), LoadConfig(packing="document")
    problem = load_problem(model, {"input_ids": padded(rows)}, config)
    assert problem.provenance["data"]["padding"].startswith("token 0 at the ends of rows, masked")
    assert "padding" not in load_problem(model, {"input_ids": rows}, config).provenance["data"]
    model.config.pad_token_id = None  # unknown: every token counts
    width = len(padded(rows)[0])
    problem = load_problem(model, {"input_ids": padded(rows)}, config)
    assert problem.n == len(rows) * (width - 1) and "padding" not in problem.provenance["data"]
    by_tokenizer = load_problem(model, {"input_ids": padded(rows)}, config, tokenizer=tiny.tokenizer())
    assert by_tokenizer.n == sum(map(len, rows)) - len(rows)


def test_padding_that_is_also_the_end_of_text_keeps_one() -> None:
    model, rows = tiny.llama(), ids_of()
    model.config.pad_token_id = model.config.eos_token_id
    problem = load_problem(model, {"input_ids": padded(rows, 2)}, LoadConfig(packing="document"))
    assert problem.n == sum(map(len, rows))  # each row and one end, the first token not predicted
    left = load_problem(model, {"input_ids": padded(rows, 2, left=True)}, LoadConfig(packing="document"))
    assert left.n == sum(map(len, rows)) - len(rows)  # it is no start of text
    model.config.bos_token_id = 2
    left = load_problem(model, {"input_ids": padded(rows, 2, left=True)}, LoadConfig(packing="document"))
    assert left.n == sum(map(len, rows))
    model.config.eos_token_id = [9, 2]
    agree(load_problem(model, {"input_ids": padded(rows, 2)}, LoadConfig(packing="document")), problem)


@pytest.mark.slow
def test_token_ids_of_masked_words() -> None:
    model, tokenizer = tiny.bert("BertForMaskedLM"), tiny.tokenizer(template=True)
    texts, rows = load_problem(model, TEXTS, LoadConfig(), tokenizer=tokenizer), ids_of(template=True)
    masked = [[t for t, keep in zip(x, m, strict=True) if keep] for x, m in zip(
        texts.examples["input_ids"].tolist(), texts.examples["attention_mask"].tolist(), strict=True)]  # fmt: skip
    labels = [y[: len(x)] for x, y in zip(masked, texts.examples["labels"].tolist(), strict=True)]
    agree(load_problem(model, {"input_ids": rows}, LoadConfig(), tokenizer=tokenizer), texts)
    agree(load_problem(model, {"input_ids": padded(rows)}, LoadConfig(), tokenizer=tokenizer), texts)
    for data in (
        {"input_ids": masked, "labels": labels},
        {"input_ids": padded(masked), "labels": padded(labels, -100), "attention_mask": masks(rows)},
    ):
        agree(load_problem(model, data, LoadConfig()), texts)  # no tokenizer is needed
    refused("no tokenizer comes with the model", model, {"input_ids": rows})


@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "LlamaForSequenceClassification"])
def test_token_ids_of_classified_texts(kind: str) -> None:
    is_bert = kind.startswith("Bert")
    make: Any = tiny.bert if is_bert else tiny.llama
    model, rows = make(kind, num_labels=3), ids_of(template=is_bert)
    texts = load_problem(model, {**TEXTS, "label": LABELS}, LoadConfig(), tokenizer=tiny.tokenizer(template=is_bert))
    for data in ({"input_ids": rows}, {"input_ids": padded(rows)},
                 {"input_ids": padded(rows), "attention_mask": masks(rows)}):  # fmt: skip
        agree(load_problem(model, {**data, "label": LABELS}, LoadConfig()), texts)


def test_token_ids_of_pairs_of_texts() -> None:
    model, tokenizer = tiny.bert("BertForSequenceClassification", num_labels=3), tiny.tokenizer(template=True)
    pairs = {"premise": tiny.SENTENCES, "hypothesis": tiny.SENTENCES[::-1], "label": LABELS}
    encoded = tokenizer(pairs["premise"], pairs["hypothesis"], padding=True)
    assert np.array(encoded["token_type_ids"]).sum() > 0
    agree(
        load_problem(model, {**encoded, "label": LABELS}, LoadConfig()),
        load_problem(model, pairs, LoadConfig(), tokenizer=tokenizer),
    )


def test_token_ids_of_tagged_words() -> None:
    model, tokenizer = tiny.bert("BertForTokenClassification", num_labels=3), tiny.tokenizer(template=True)
    words = [text.split() for text in tiny.SENTENCES]
    tags = [[len(w) % 3 for w in row] for row in words]
    texts = load_problem(model, {"tokens": words, "ner_tags": tags}, LoadConfig(), tokenizer=tokenizer)
    rows, labels = (texts.examples[name].tolist() for name in ("input_ids", "labels"))
    mask = texts.examples["attention_mask"].tolist()
    for data in ({"input_ids": rows, "labels": labels, "attention_mask": mask}, {"input_ids": rows, "labels": labels}):
        agree(load_problem(model, data, LoadConfig()), texts)


@pytest.mark.slow
def test_token_ids_of_sequence_to_sequence() -> None:
    model, rows = tiny.t5(), ids_of()
    targets = rows[::-1]
    texts = load_problem(
        model, {"source": tiny.SENTENCES, "target": tiny.SENTENCES[::-1]}, LoadConfig(), tokenizer=tiny.tokenizer()
    )
    for data in (
        {"input_ids": rows, "labels": targets},
        {"input_ids": padded(rows), "labels": padded(targets, -100)},
        {"input_ids": padded(rows), "labels": padded(targets), "attention_mask": masks(rows)},
    ):
        agree(load_problem(model, data, LoadConfig()), texts)


@pytest.mark.slow
def test_inputs_beside_the_token_ids() -> None:
    """Token types and decoder inputs of the data's own reach the model; what is not read is refused."""
    tokenizer, half = tiny.tokenizer(template=True), tiny.SENTENCES[::-1]
    encoded = tokenizer(tiny.SENTENCES, half)
    for kind, labels in (("BertForMaskedLM", encoded["input_ids"]), ("BertForTokenClassification", None)):
        model = tiny.bert(kind)
        labels = labels or [[t % 2 for t in row] for row in encoded["input_ids"]]
        data = {"input_ids": encoded["input_ids"], "labels": labels}
        typed = load_problem(model, {**data, "token_type_ids": encoded["token_type_ids"]}, LoadConfig())
        expected = count = 0.0
        for i, row in enumerate(data["input_ids"]):
            types = torch.tensor([encoded["token_type_ids"][i]])
            found = model(input_ids=torch.tensor([row]), token_type_ids=types, labels=torch.tensor([labels[i]]))
            expected, count = expected + float(found.loss.detach()) * len(row), count + len(row)
        assert float(all_losses(typed).mean()) == pytest.approx(expected / count, rel=1e-5)
        zeros = [[0] * len(row) for row in labels]
        agree(
            load_problem(model, {**data, "token_type_ids": zeros}, LoadConfig()),
            load_problem(model, data, LoadConfig()),
        )
    rows = ids_of()
    pairs = {"input_ids": rows, "labels": rows[::-1]}
    own = load_problem(tiny.t5(), {**pairs, "decoder_input_ids": [[0, *row[:-1]] for row in rows[::-1]]}, LoadConfig())
    agree(own, load_problem(tiny.t5(), pairs, LoadConfig()))
    other = load_problem(
        tiny.t5(), {**pairs, "decoder_input_ids": [[5, *row[:-1]] for row in rows[::-1]]}, LoadConfig()
    )
    assert not torch.allclose(all_losses(other), all_losses(own))
    refused("one decoder input for each label.*row 0", tiny.t5(), {**pairs, "decoder_input_ids": [[0]] * 8})
    for name in ("position_ids", "inputs_embeds"):
        refused(f"model inputs that are not read, got '{name}'", tiny.llama(), {"input_ids": rows, name: rows})


@pytest.mark.slow
def test_padding_outside_the_vocabulary() -> None:
    """A padding token that was added without resizing the model: it is masked wherever it stands."""
    rows = ids_of()
    model, config = tiny.llama(), LoadConfig(packing="document")
    expected = load_problem(model, {"input_ids": rows}, config)
    model.config.pad_token_id = 320
    agree(load_problem(model, {"input_ids": rows}, config), expected)
    agree(load_problem(model, {"input_ids": padded(rows, 320)}, config), expected)
    agree(load_problem(model, {"input_ids": padded(rows, -1), "attention_mask": masks(rows)}, config), expected)
    refused("token ids that the model does not have, got -1.*see example 0", model, {"input_ids": padded(rows, -1)},
            packing="document")  # fmt: skip
    for make in (lambda: tiny.bert("BertForMaskedLM"), lambda: tiny.bert("BertForSequenceClassification")):
        model, tokenizer = make(), tiny.tokenizer(template=True)
        data = {**TEXTS, "label": [0, 1] * 4} if "Sequence" in type(model).__name__ else TEXTS
        expected = load_problem(model, data, LoadConfig(), tokenizer=tokenizer)
        model.config.pad_token_id = 321
        agree(load_problem(model, data, LoadConfig(), tokenizer=tokenizer), expected)
    model = tiny.t5()
    pairs = {"source": tiny.SENTENCES, "target": tiny.SENTENCES[::-1]}
    expected = load_problem(model, pairs, LoadConfig(), tokenizer=tiny.tokenizer())
    model.config.pad_token_id = 320
    agree(load_problem(model, pairs, LoadConfig(), tokenizer=tiny.tokenizer()), expected)
    model = tiny.llama("LlamaForSequenceClassification", num_labels=3)
    model.config.pad_token_id = 320  # by which it would find a text's end
    refused("has none in its vocabulary", model, {**TEXTS, "label": LABELS}, tokenizer=tiny.tokenizer())


def test_the_first_row_may_be_empty() -> None:
    model, rows = tiny.llama(), ids_of()
    config = LoadConfig(packing="document", max_examples=9)
    expected = load_problem(model, {"input_ids": rows}, config)
    features = Features({"input_ids": List(Value("int64"))})
    whole = Dataset.from_dict({"input_ids": [[], *rows]}, features=features)
    stream = IterableDataset.from_generator(lambda: iter([{"input_ids": []}, *({"input_ids": r} for r in rows)]))
    for data in (whole, whole.to_iterable_dataset(), stream):
        with pytest.warns(UserWarning, match="1 examples without a token"):
            agree(load_problem(model, data, config), expected)


# Chats


TEMPLATE = "{% for m in messages %}[BOS]{{ m['role'] }}: {{ m['content'] }}[EOS]{% endfor %}"
CHATS = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}]
         for a, b in zip(tiny.SENTENCES, tiny.SENTENCES[::-1], strict=True)]  # fmt: skip


def chat_tokenizer() -> Any:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer().backend_tokenizer, pad_token="[PAD]", bos_token="[BOS]", eos_token="[EOS]"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_chats_go_through_the_template(column: str) -> None:
    model, tokenizer = tiny.llama(), chat_tokenizer()
    rows = [tokenizer(f"[BOS]user: {a['content']}[EOS][BOS]assistant: {b['content']}[EOS]")["input_ids"]
            for a, b in CHATS]  # fmt: skip
    expected = load_problem(model, {"input_ids": rows}, LoadConfig(packing="document"))
    for data in ({column: CHATS}, Dataset.from_dict({column: CHATS}).to_iterable_dataset()):
        config = LoadConfig(packing="document", max_examples=8)
        problem = load_problem(model, data, config, tokenizer=tokenizer)
        agree(problem, expected)
        assert problem.provenance["data"]["chats"] == "by the tokenizer's chat template"
        joined, count = [t for row in rows for t in row], sum(map(len, rows)) // 8
        packed = load_problem(model, data, LoadConfig(max_length=8, max_examples=count), tokenizer=tokenizer)
        assert packed.examples["input_ids"].flatten().tolist() == joined[: 8 * count]


def test_chats_that_cannot_be_read() -> None:
    model, tokenizer = tiny.llama(), chat_tokenizer()
    refused("the tokenizer has no chat template", model, {"messages": CHATS}, tokenizer=tiny.tokenizer())
    for bad in ([], None, [{"role": None, "content": "x"}]):
        refused("a row is not a chat, got 'column messages, row 2'", model, {"messages": [*CHATS[:2], bad, *CHATS]},
                tokenizer=tokenizer)  # fmt: skip
    shared = [[{"from": "human", "value": "x"}]] * 4
    refused("a row is not a chat.*each with role and content", model, {"conversations": shared}, tokenizer=tokenizer)
    tokenizer.chat_template = "{% if messages|length > 2 %}{{ raise_exception('two at most') }}{% endif %}x"
    refused("template does not take a row: .*two at most.*row 1", model, {"messages": [CHATS[0], CHATS[1] * 2]},
            tokenizer=tokenizer)  # fmt: skip


# Nested columns


@pytest.mark.slow
def test_columns_by_a_dotted_name() -> None:
    model, tokenizer = tiny.t5(), tiny.tokenizer()
    flat = {"source": tiny.SENTENCES, "target": tiny.SENTENCES[::-1]}
    pairs = [{"en": a, "fr": b} for a, b in zip(*flat.values(), strict=True)]
    expected = load_problem(model, flat, LoadConfig(), tokenizer=tokenizer)
    data = Dataset.from_dict({"id": list(range(8)), "translation": pairs})
    names: dict[str, Any] = {"input_column": "translation.en", "label_column": "translation.fr"}
    stream = IterableDataset.from_generator(lambda: ({"translation": pair} for pair in pairs))
    for each in (data, data.to_iterable_dataset(), stream, [{"translation": pair} for pair in pairs]):
        problem = load_problem(model, each, LoadConfig(**names, max_examples=8), tokenizer=tokenizer)
        agree(problem, expected)
        assert problem.provenance["data"]["input_column"] == "translation.en"
    deep = Dataset.from_dict({"a": [{"b": {"c": text}} for text in tiny.SENTENCES]})
    found = load_problem(tiny.llama(), deep, LoadConfig(input_column="a.b.c", max_length=8), tokenizer=tokenizer)
    plain = load_problem(tiny.llama(), TEXTS, LoadConfig(max_length=8), tokenizer=tokenizer)
    assert torch.equal(found.examples["input_ids"], plain.examples["input_ids"])
    refused("no column that could be the input column; allowed: id, translation.en, translation.fr", model, data,
            tokenizer=tokenizer)  # fmt: skip
    refused("no such column, got 'translation.de'; allowed: id, translation.en", model, data, tokenizer=tokenizer,
            input_column="translation.de")  # fmt: skip
    refused("does not hold text.*give input_column: translation.en", model, data, tokenizer=tokenizer,
            input_column="translation", label_column="translation.fr")  # fmt: skip
    dotted = Dataset.from_dict({"a.b": tiny.SENTENCES})  # a name like another
    assert load_problem(tiny.llama(), dotted, LoadConfig(input_column="a.b", max_length=8), tokenizer=tokenizer).n


# Byte order marks


def _text_file(kind: str, folder: Path, encoding: str, mark: bytes) -> Path:
    rows = [{"text": text} for text in tiny.SENTENCES]
    text = {
        "txt": "\n\n".join(tiny.SENTENCES),
        "csv": "text\n" + "\n".join(tiny.SENTENCES),
        "tsv": "text\tn\n" + "\n".join(f"{text}\t1" for text in tiny.SENTENCES),
        "jsonl": "\n".join(map(json.dumps, rows)),
        "json": json.dumps(rows),
    }[kind]
    folder.mkdir(exist_ok=True)
    (folder / f"data.{kind}").write_bytes(mark + text.encode(encoding))
    return folder / f"data.{kind}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "jsonl", "json"])
def test_byte_order_marks(kind: str, tmp_path: Path) -> None:
    model, tokenizer = tiny.llama(), tiny.tokenizer()

    def ids(source: Any) -> torch.Tensor:
        return load_problem(model, source, LoadConfig(max_length=8), tokenizer=tokenizer).examples["input_ids"]

    expected = ids(_text_file(kind, tmp_path / "plain", "utf-8", b""))
    marked = _text_file(kind, tmp_path / "marked", "utf-8", codecs.BOM_UTF8)
    assert torch.equal(ids(marked), expected) and torch.equal(ids(tmp_path / "marked"), expected)
    wide = _text_file(kind, tmp_path / "wide", "utf-16-le", codecs.BOM_UTF16_LE)
    if kind.startswith("json"):
        refused("a data file is not in UTF-8, got 'data.json.*: utf-16'", model, wide, tokenizer=tokenizer)
    else:
        assert torch.equal(ids(wide), expected)


# Context lengths


@pytest.mark.parametrize(
    "name",
    ["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length",
     "max_seq_length", "max_target_positions"],
)  # fmt: skip
def test_context_by_any_name(name: str) -> None:
    model: Any = torch.nn.Linear(1, 1)
    settings: Any = transformers.PretrainedConfig
    model.config = settings(**{name: 48})
    assert (context_of(model), length_for(model, LoadConfig())) == (48, 48)
    refusal = pytest.raises(ValueError, match="allowed: at most 48")
    with refusal:
        length_for(model, LoadConfig(max_length=49))
    for unlimited in (-1, 0, None):
        model.config = settings(**{name: unlimited})
        assert context_of(model) is None
        assert (length_for(model, LoadConfig()), length_for(model, LoadConfig(max_length=5000))) == (1024, 5000)
    model.config = settings(**{name: 10**30})
    assert length_for(model, LoadConfig()) == 1024


def test_context_of_encoder_and_decoder() -> None:
    settings: Any = transformers.PretrainedConfig
    model: Any = torch.nn.Linear(1, 1)
    model.config = settings(max_encoder_position_embeddings=40, max_decoder_position_embeddings=16)
    config = LoadConfig(max_length=30)
    assert length_for(model, config, "encoder") == 30 and length_for(model, config, "decoder") == 16
    t5 = tiny.t5()
    t5.config.n_positions = 12  # what it was trained at: it takes more, and by default no more
    assert length_for(t5, LoadConfig(), "encoder") == 12 and length_for(t5, LoadConfig(max_length=99)) == 99


@pytest.mark.parametrize(("pad", "context"), [(1, 64), (0, 65), (5, 60)])
def test_positions_that_begin_behind_the_padding(pad: int, context: int) -> None:
    settings = transformers.RobertaConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=66, pad_token_id=pad, is_decoder=True,
    )  # fmt: skip
    model = transformers.RobertaForCausalLM(settings).eval()
    ids = torch.full((2, context), 9)
    assert context_of(model) == context and model(input_ids=ids).logits.shape[1] == context
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((2, context + 1), 9))


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_LONG", 2000), ("_PIECE", 700), ("_CONTEXT", 100)):
        monkeypatch.setattr(long_documents, name, value)


LONG = text_path().read_text(encoding="utf-8")[:20_000] + "\n\n\n  naïve café\t🙂🙂 日本\n" * 100


@pytest.mark.usefixtures("short_pieces")
def test_a_long_document_has_the_tokens_of_the_whole() -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path())
    whole = tokenizer([LONG], add_special_tokens=False, verbose=False)["input_ids"][0]
    found, short = long_documents.ids_of([LONG, "short"], tokenizer)
    assert list(found) == whole and short == tokenizer("short", add_special_tokens=False)["input_ids"]
    few = long_documents.ids_of([LONG], tokenizer, most=500)[0]
    assert 500 <= len(few) < 1500 and list(few) == whole[: len(few)]


@pytest.mark.usefixtures("short_pieces")
def test_a_limit_ends_a_long_document_between_two_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, pieces = transformers.AutoTokenizer.from_pretrained(model_path()), itertools.count()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + next(pieces))
    with watching(Watch(max_seconds=8.0)), watch().until("load"), pytest.raises(TimeIsUp):
        long_documents.ids_of([LONG], tokenizer)
    assert next(pieces) < 20
