"""What a user may call a model or data, where it is said to come from, and every refusal in one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tiny
import torch
import transformers
from datasets import Dataset, DatasetDict, Features, Image, Value
from torch.nn import functional as F

from hf_llc.config import LoadConfig
from hf_llc.datasource import pick_split
from hf_llc.errors import InputError
from hf_llc.loading import load_problem
from hf_llc.refusals import data_refusal, model_refusal, public_name

TEXTS = Dataset.from_dict({"text": tiny.SENTENCES})
IDS = {"input_ids": torch.arange(1, 33).reshape(4, 8)}
XY = (torch.randn(6, 4), torch.arange(6) % 3)


def cross_entropy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, labels, reduction="none")


def refused(match: str, model: Any, data: Any, *, loss_fn: Any = None, tokenizer: Any = None, **settings: Any) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load_problem(model, data, LoadConfig(**settings), loss_fn=loss_fn, tokenizer=tokenizer)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model with its tokenizer, saved."""
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny.llama().save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """`copy(drop=…)` → the model's folder again, to be spoilt."""

    def make(*, drop: str = "") -> Path:
        target = tmp_path / "spoilt"
        target.mkdir()
        for each in folder.iterdir():
            if each.name != drop:
                (target / each.name).write_bytes(each.read_bytes())
        return target

    return make


# Models


def test_folder_comes_with_tokenizer_and_provenance(folder: Path) -> None:
    problem = load_problem(folder, TEXTS, LoadConfig(max_length=8))
    assert not problem.model.training and problem.task == "text-generation"
    assert next(problem.model.parameters()).dtype == torch.float32
    about = json.loads(json.dumps(problem.provenance))
    assert about["model"]["id"] == "tiny-llama" and len(about["model"]["fingerprint"]) == 16
    assert about["model"]["revision"] is None and about["model"]["class"] == "LlamaForCausalLM"
    assert about["data"]["num_tokens"] == problem.n and about["data"]["num_examples"] == problem.num_examples
    assert {"split", "subset", "fingerprint", "max_length", "packing", "loss_normalization"} <= set(about["data"])
    assert str(folder.parent) not in json.dumps(about)


def test_dtype_device_and_attention_are_as_asked(folder: Path) -> None:
    config = LoadConfig(max_length=8, dtype="float64", device="cpu", attn_implementation="eager")
    problem = load_problem(str(folder), TEXTS, config)
    assert next(problem.model.parameters()).dtype == torch.float64
    assert problem.model.config._attn_implementation == "eager"
    losses = problem.losses(problem.model, problem.examples)
    assert losses.dtype == torch.float64 and losses.shape == (problem.num_examples,)


def test_pipeline_brings_its_tokenizer_and_is_not_changed(folder: Path) -> None:
    pipeline = transformers.pipeline("text-generation", model=str(folder))
    pipeline.model.train()
    problem = load_problem(pipeline, TEXTS, LoadConfig(max_length=8))
    assert problem.model is pipeline.model and pipeline.model.training
    assert problem.provenance["model"]["id"] == "tiny-llama"


def test_image_pipeline_brings_its_processor() -> None:
    model, processor = tiny.vit()
    pipeline = transformers.pipeline("image-classification", model=model, image_processor=processor)
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    data = Dataset.from_dict(
        {"image": list(images), "label": [0, 1, 2, 0]}, features=Features({"image": Image(), "label": Value("int64")})
    )
    assert load_problem(pipeline, data, LoadConfig()).examples["pixel_values"].shape == (4, 3, 8, 8)


def test_users_model_finds_the_tokenizer_it_was_saved_with(folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert load_problem(model, TEXTS, LoadConfig(max_length=8)).n > 0
    assert load_problem(tiny.llama(), TEXTS, LoadConfig(max_length=8, tokenizer=str(folder))).n > 0


@pytest.mark.parametrize("name", ["dtype", "device", "revision", "attn_implementation"])
def test_users_model_is_never_converted(name: str) -> None:
    value = {"dtype": "float64", "device": "cpu", "revision": "main", "attn_implementation": "eager"}[name]
    refused(f"{name} is for models loaded by id or folder.*yourself", tiny.llama(), IDS, **{name: value})


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
def test_transformer_lens_models_take_tokens_and_give_logits() -> None:
    lens = pytest.importorskip("transformer_lens")
    settings = lens.HookedTransformerConfig(
        n_layers=1,
        d_model=8,
        n_ctx=16,
        d_head=4,
        n_heads=2,
        d_vocab=320,
        act_fn="relu",
        device="cpu",
        init_weights=True,
        seed=0,
    )
    model = lens.HookedTransformer(settings)
    problem = load_problem(model, IDS, LoadConfig())
    expected = model(IDS["input_ids"], return_type="loss", loss_per_token=True).mean(1)
    torch.testing.assert_close(problem.losses(model, problem.examples), expected)
    assert problem.provenance["model"]["class"] == "HookedTransformer"
    refused("more than the model's context, got 17; allowed: at most 16", model, IDS, max_length=17)
    padded = load_problem(model, TEXTS, LoadConfig(packing="document"), tokenizer=tiny.tokenizer())
    first = torch.tensor([tiny.tokenizer()(tiny.SENTENCES[1])["input_ids"]])
    alone = model(first, return_type="loss", loss_per_token=True).sum()
    found = padded.losses(model, {k: x[1:2] for k, x in padded.examples.items()}) * padded.n / padded.num_examples
    torch.testing.assert_close(found[0], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_transformer_bridge_gives_the_loss_of_the_model_it_wraps(tmp_path: Path) -> None:
    bridge = pytest.importorskip("transformer_lens.model_bridge").TransformerBridge
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=320, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2
        )
    ).eval()
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    expected = torch.stack([model(input_ids=row[None], labels=row[None]).loss for row in IDS["input_ids"]])
    problem = load_problem(bridge.boot_transformers(str(tmp_path), device="cpu", hf_model=model), IDS, LoadConfig())
    torch.testing.assert_close(problem.losses(problem.model, problem.examples), expected)
    assert load_problem(problem.model, TEXTS, LoadConfig(max_length=8)).n > 0


def test_embedded_model_and_text_need_no_arguments() -> None:
    from hf_llc.embedded import model_path

    if not (model_path() / "model.safetensors").exists():
        pytest.skip("the embedded model is not built")
    problem = load_problem(None, None, LoadConfig(max_examples=4))
    assert problem.provenance["model"]["id"] == "hf_llc/embedded" and problem.num_examples == 4
    refused("no data given", tiny.llama(), None)


# Data


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


def test_split_of_a_folder_by_name_and_slice(folder: Path, tmp_path: Path) -> None:
    for name in ("train", "test"):
        TEXTS.to_json(tmp_path / f"{name}.jsonl")
    assert load_problem(folder, tmp_path, LoadConfig(packing="document")).provenance["data"]["split"] == "test"
    half = load_problem(folder, tmp_path, LoadConfig(packing="document", split="train[:50%]"))
    assert half.num_examples == 4
    refused("no such split, got 'dev'; allowed: .*train", folder, tmp_path, split="dev")
    refused("no such subset, got 'german'", folder, tmp_path, subset="german")


# Refusals: models


def test_missing_models(tmp_path: Path, folder: Path) -> None:
    refused("no such model folder", str(tmp_path / "none"), TEXTS)
    refused("neither a local folder nor in the cache, and the Hub cannot be reached", "nobody/nothing", TEXTS)
    (tmp_path / "empty").mkdir()
    refused("no config.json, got 'empty'", tmp_path / "empty", TEXTS)
    refused("the model is a file", folder / "model.safetensors", TEXTS)
    refused("kind that cannot be used, got 'int'", 3, TEXTS)


def test_folder_without_or_with_damaged_weights(copy: Callable[..., Path]) -> None:
    path = copy(drop="model.safetensors")
    refused("no weights, got 'spoilt'; allowed: ", path, TEXTS)
    torch.save({}, path / "pytorch_model.bin")
    refused("pickled weights only.*--allow-pickle", path, TEXTS)
    (path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{bad json")
    refused("the weights file is damaged", path, TEXTS)
    (path / "config.json").write_text("{")
    refused("config.json", path, TEXTS)


def test_pickled_weights_load_when_asked_for(copy: Callable[..., Path]) -> None:
    path = copy(drop="model.safetensors")
    torch.save(tiny.llama().state_dict(), path / "pytorch_model.bin")
    loaded = load_problem(path, TEXTS, LoadConfig(max_length=8, allow_pickle=True)).model
    assert torch.equal(loaded.lm_head.weight, tiny.llama().lm_head.weight)


def test_remote_code_is_not_run(copy: Callable[..., Path]) -> None:
    path = copy()
    (path / "modeling.py").write_text("raise SystemExit('ran')\n")
    settings = json.loads((path / "config.json").read_text())
    code = {"AutoConfig": "modeling.C", "AutoModelForCausalLM": "modeling.M"}
    settings |= {"model_type": "strange", "auto_map": code}
    (path / "config.json").write_text(json.dumps(settings))
    refused("needs Python code of its own, which is not run.*--trust-remote-code", path, TEXTS)


def test_weights_missing_in_the_checkpoint(copy: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    path = copy()
    weights = load_file(path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    refused("weights are missing in the checkpoint.*lm_head.weight", path, TEXTS)


def test_weights_that_are_not_finite() -> None:
    model = tiny.llama()
    with torch.no_grad():
        model.lm_head.weight[3, 4] = float("nan")
    refused("a weight is NaN or infinite, got 'lm_head.weight'", model, IDS)


def test_tasks_at_odds(folder: Path) -> None:
    for model in (folder, tiny.llama()):
        refused("for another task, got 'fill-mask'; allowed: text-generation", model, TEXTS, task="fill-mask")
    refused("task is not known.*give loss_fn", torch.nn.Linear(2, 2), XY)
    refused("a plain module needs a loss_fn", torch.nn.Linear(2, 2), XY, task="plain")
    refused("pairs of tensors are for plain modules", tiny.llama(), XY)


def test_device_that_is_not_there(folder: Path) -> None:
    for device in ("warp", "cuda:63"):
        refused("no such device here", folder, TEXTS, device=device)


def test_messages_for_what_only_the_hub_can_say() -> None:
    from huggingface_hub import errors

    def raised(kind: type[Exception], text: str) -> Exception:
        error = OSError("cannot load")
        error.__cause__ = kind.__new__(kind)
        error.__cause__.args = (text,)
        return error

    config = LoadConfig(revision="v9")
    assert "hf auth login" in str(model_refusal(raised(errors.GatedRepoError, "Access is gated"), "a/b", config))
    assert "no such revision of the model, got 'v9'" in str(
        model_refusal(raised(errors.RevisionNotFoundError, "404 Client Error"), "a/b", config)
    )
    unsafe = OSError("a/b does not appear to have a file named model.safetensors")
    assert "--allow-pickle" in str(model_refusal(unsafe, "a/b", config))
    assert "hf auth login" in str(data_refusal(raised(errors.GatedRepoError, "gated"), "a/b", config))


def test_folders_are_named_without_their_place() -> None:
    assert public_name("/home/someone/models/mine") == "mine" and public_name("org/model") == "org/model"
    assert public_name("") is None


# Refusals: data


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


def test_too_little_data(folder: Path) -> None:
    refused("the data set is empty", folder, TEXTS.select([]))
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
    refused("not a pair of tensors", linear, (XY[0],), loss_fn=cross_entropy)
    refused(
        "model or loss_fn fails on two examples of shape .7,", linear, (torch.randn(6, 7), XY[1]), loss_fn=cross_entropy
    )


def test_nothing_is_said_while_loading(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_problem(folder, Dataset.from_dict({"text": [" ".join(tiny.SENTENCES)] * 9}), LoadConfig(max_length=64))
    out, err = capfd.readouterr()
    assert out == "" and err == ""
