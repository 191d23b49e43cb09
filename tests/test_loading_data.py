"""What a user may call data, where it is said to come from, and every refusal in one line."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny
import torch
from datasets import Dataset, DatasetDict
from test_loading import TEXTS, XY, cross_entropy, refused

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import pick_split
from hf_llc.loading.problem_loader import load_problem


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model with its tokenizer, saved."""
    return tiny.save_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


def _write(kind: str, path: Path) -> Path:
    rows = [{"text": text} for text in tiny.SENTENCES]
    file = path / f"data.{kind}"
    if kind == "txt":
        file.write_text("\n\n".join(tiny.SENTENCES))
    elif kind == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "json":
        file.write_text(json.dumps(rows))
    elif kind == "parquet":
        TEXTS.to_parquet(file)
    else:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["text"])
            writer.writeheader()
            writer.writerows(rows)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["txt", "json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # datasets leaves a streamed CSV file to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_files_and_folders_of_text(kind: str, as_folder: bool, folder: Path, tmp_path: Path) -> None:
    file = _write(kind, tmp_path)
    source = tmp_path if as_folder else file
    documents = load_problem(folder, source, LoadConfig(packing="document"))
    assert documents.num_examples == len(tiny.SENTENCES)
    assert documents.provenance["data"]["id"] == source.name
    streamed = load_problem(folder, source, LoadConfig(max_length=8, streaming=True, max_examples=3))
    whole = load_problem(folder, source, LoadConfig(max_length=8))
    assert torch.equal(streamed.examples["input_ids"], whole.examples["input_ids"][:3])


def test_list_of_files_and_saved_data_sets(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    files = [_write("jsonl", tmp_path), _write("jsonl", tmp_path / "more")]
    assert load_problem(folder, files, LoadConfig(packing="document")).num_examples == 2 * len(tiny.SENTENCES)
    TEXTS.save_to_disk(tmp_path / "saved")
    assert load_problem(folder, tmp_path / "saved", LoadConfig(packing="document")).num_examples == 8
    refused("no such data file", folder, [files[0], tmp_path / "none.jsonl"])


def test_text_file_is_one_stream_with_its_line_breaks(folder: Path, tmp_path: Path) -> None:
    text = "\n\n".join(tiny.SENTENCES)
    ids = tiny.tokenizer()(text, add_special_tokens=False)["input_ids"]
    problem = load_problem(folder, _write("txt", tmp_path), LoadConfig(max_length=8))
    assert problem.examples["input_ids"].flatten().tolist() == ids[: len(ids) // 8 * 8]


def test_max_examples_bounds_what_is_read(folder: Path) -> None:
    read = 0

    def rows() -> Any:
        nonlocal read
        for _ in range(10_000):
            read += 1
            yield {"text": tiny.SENTENCES[0]}

    stream = datasets.IterableDataset.from_generator(rows)
    assert load_problem(folder, stream, LoadConfig(max_length=8, max_examples=5)).num_examples == 5
    assert read < 200
    refused("a streamed data set needs a bound; give max_examples", folder, stream)


def test_image_folder(tmp_path: Path) -> None:
    from PIL import Image as Pillow

    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(3):
            Pillow.new("RGB", (8, 8), (40 * i, 90, 200)).save(tmp_path / label / f"{i}.png")
    model, processor = tiny.vit()
    problem = load_problem(model, tmp_path, LoadConfig(), tokenizer=processor)
    assert problem.examples["labels"].tolist() == [0, 0, 0, 1, 1, 1]
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    plain = load_problem(flat, tmp_path, LoadConfig(), loss_fn=cross_entropy)
    assert plain.examples["inputs"].shape == (6, 3, 8, 8) and float(plain.examples["inputs"].max()) <= 1


def test_tensors_in_every_wrapping() -> None:
    x, y = XY
    pairs = torch.utils.data.TensorDataset(x, y)
    for data in (
        XY,
        pairs,
        torch.utils.data.Subset(pairs, range(6)),
        {"x": x, "y": y},
        Dataset.from_dict({"x": x.tolist(), "y": y.tolist()}),
    ):
        problem = load_problem(torch.nn.Linear(4, 3), data, LoadConfig(max_examples=5), loss_fn=cross_entropy)
        torch.testing.assert_close(problem.examples["inputs"], x[:5])
        assert torch.equal(problem.examples["labels"], y[:5])


def test_which_split() -> None:
    splits = DatasetDict({"train": TEXTS, "validation": TEXTS.select([0, 1, 2])})
    problem = load_problem(tiny.llama(), splits, LoadConfig(packing="document"), tokenizer=tiny.tokenizer())
    assert problem.num_examples == 3 and problem.provenance["data"]["split"] == "validation"
    assert pick_split(["only"], None) == "only" and pick_split(["train", "test"], None) == "test"
    refused("no such split, got 'dev'; allowed: train, validation", tiny.llama(), splits, split="dev")
    with pytest.raises(InputError, match=r"several splits.*train, extra.*give split"):
        pick_split(["train", "extra"], None)


@pytest.mark.slow
def test_split_of_a_folder_by_name_and_slice(folder: Path, tmp_path: Path) -> None:
    for name in ("train", "test"):
        TEXTS.to_json(tmp_path / f"{name}.jsonl")
    assert load_problem(folder, tmp_path, LoadConfig(packing="document")).provenance["data"]["split"] == "test"
    half = load_problem(folder, tmp_path, LoadConfig(packing="document", split="train[:50%]"))
    assert half.num_examples == 4
    refused("no such split, got 'dev'; allowed: .*train", folder, tmp_path, split="dev")
    refused("no such subset, got 'german'", folder, tmp_path, subset="german")


@pytest.mark.slow
def test_rows_are_a_table(folder: Path) -> None:
    rows = load_problem(folder, [{"text": text} for text in tiny.SENTENCES], LoadConfig(max_length=8))
    for table in (TEXTS, {"text": tiny.SENTENCES}):
        whole = load_problem(folder, table, LoadConfig(max_length=8))
        assert torch.equal(rows.examples["input_ids"], whole.examples["input_ids"])
    refused("the rows do not make columns of one kind", folder, [{"text": "a"}, {"text": 3}])


@pytest.mark.slow
def test_fingerprint_is_that_of_the_examples(folder: Path, tmp_path: Path) -> None:
    """The same data have the same one wherever they lie and whenever they were written."""

    def fingerprint(data: Any, **settings: Any) -> str:
        return load_problem(folder, data, LoadConfig(packing="document", **settings)).provenance["data"]["fingerprint"]

    file = _write("jsonl", tmp_path)
    of_file = fingerprint(file)
    os.utime(file, (0, 0))
    assert (
        of_file == fingerprint(file) == fingerprint(TEXTS) == fingerprint(TEXTS.to_iterable_dataset(), max_examples=8)
    )
    assert of_file != fingerprint(TEXTS, max_examples=7)


@pytest.mark.parametrize("make", [list, "\n".join, "".join, lambda texts: [text * 9 for text in texts]])
def test_texts_are_not_names(make: Callable[[list[str]], Any], folder: Path) -> None:
    refused("give texts as a table: {'text': ", folder, make(tiny.SENTENCES))


# Refusals


def test_missing_data(folder: Path, tmp_path: Path) -> None:
    refused("no such data file or folder", folder, str(tmp_path / "none.txt"))
    refused("neither a local path nor in the cache, and the Hub cannot be reached", folder, "nobody/nothing")
    (tmp_path / "nothing").mkdir()
    refused("the data folder is empty", folder, tmp_path / "nothing")
    (tmp_path / "nothing.txt").touch()
    refused("the data file is empty", folder, tmp_path / "nothing.txt")
    (tmp_path / "book.pdf").write_bytes(b"%PDF")
    refused("a file of this kind cannot be read, got 'book.pdf'; allowed: .txt", folder, tmp_path / "book.pdf")
    refused("a model, not data", folder, folder)
    refused("data of this kind cannot be used, got 'int'", folder, 3)


def test_columns(folder: Path) -> None:
    refused("no such column, got 'story'; allowed: text", folder, TEXTS, input_column="story")
    refused("no column that could be the input column.*give input_column", folder, TEXTS.rename_column("text", "prose"))
    refused("does not hold text", folder, TEXTS.add_column("n", list(range(8))), input_column="n")
    refused(
        "no column that could be the label column",
        tiny.bert("BertForSequenceClassification"),
        TEXTS,
        tokenizer=tiny.tokenizer(template=True),
    )


@pytest.mark.slow
def test_too_little_data(folder: Path) -> None:
    refused("the data set is empty", folder, TEXTS.select([]))
    refused("the data set is empty", folder, [])
    refused("the text is too short.*two windows of 64", folder, TEXTS.select([1]))
    refused("a single example", folder, TEXTS.select([0]), packing="document")
    refused("fewer than two examples, got 1", torch.nn.Linear(4, 3), (XY[0][:1], XY[1][:1]), loss_fn=cross_entropy)
    refused(
        "no example has a token to predict",
        folder,
        {"input_ids": torch.zeros(3, 4, dtype=torch.long), "attention_mask": torch.zeros(3, 4)},
        packing="document",
    )


def test_lengths_and_vocabulary(folder: Path) -> None:
    refused("more than the model's context, got 65; allowed: at most 64", folder, TEXTS, max_length=65)
    refused(
        "token ids that the model does not have, got 320; allowed: 0 … 319",
        folder,
        {"input_ids": torch.full((4, 8), 320)},
    )
    refused("no tokenizer comes with the model", tiny.llama(), TEXTS)
    refused("the tokenizer is neither a local folder nor in the cache", folder, TEXTS, tokenizer="nobody/nothing")


def test_features_that_are_not_finite() -> None:
    x = XY[0].clone()
    x[4, 1] = float("inf")
    linear = torch.nn.Linear(4, 3)
    refused("NaN or infinity, got 'column inputs, row 4'", linear, (x, XY[1]), loss_fn=cross_entropy)
    data = Dataset.from_dict({"features": x.tolist(), "label": XY[1].tolist()})
    refused("NaN or infinity, got 'column features, row 4'", linear, data, loss_fn=cross_entropy)
    ragged = Dataset.from_dict({"features": [[1.0], [1.0, 2.0]], "label": [0, 1]})
    refused("does not hold numbers of one shape, got 'features'", linear, ragged, loss_fn=cross_entropy)
    refused(
        "does not hold numbers", linear, TEXTS.add_column("label", [0] * 8), loss_fn=cross_entropy, input_column="text"
    )


def test_labels_out_of_range() -> None:
    model, tokenizer = tiny.bert("BertForSequenceClassification", num_labels=2), tiny.tokenizer(template=True)
    for wrong in (2, -1):
        refused(
            f"a label is out of range, got {wrong}; allowed: 0 … 1",
            model,
            TEXTS.add_column("label", [0] * 7 + [wrong]),
            tokenizer=tokenizer,
        )
    refused(
        "a label is out of range, got 'none'", model, TEXTS.add_column("label", [0] * 7 + [None]), tokenizer=tokenizer
    )


def test_tensors_that_do_not_fit() -> None:
    linear = torch.nn.Linear(4, 3)
    refused("differ in length, got .6, 5.", linear, (XY[0], XY[1][:5]), loss_fn=cross_entropy)
    refused("not a pair of tensors.*got 'tuple of 1 .Tensor.'", linear, (XY[0],), loss_fn=cross_entropy)
    arrays = XY[0].numpy(), XY[1].numpy()
    refused("got 'tuple of 2 .ndarray.'; torch.as_tensor", linear, arrays, loss_fn=cross_entropy)
    refused(
        "model or loss_fn fails on two examples of shape .7,", linear, (torch.randn(6, 7), XY[1]), loss_fn=cross_entropy
    )
