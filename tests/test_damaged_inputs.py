"""Files of data and models that are there but are not what their names say: each refused in words that are true."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from datasets import Dataset

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError, reason_of
from hf_llc.loading.problem_loader import load_problem

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
LFS = "the file is only a pointer of git-lfs, got '{}'; run `git lfs pull`"
ROWS = [{"text": text} for text in tiny.SENTENCES * 4]
TEXTS = Dataset.from_list(ROWS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("damaged") / "model")


def load(model: Any, data: Any, **settings: Any) -> Any:
    return load_problem(model, data, LoadConfig(max_length=8, **settings))


def refused(model: Any, data: Any, line: str, *, here: Path, **settings: Any) -> None:
    """One line that holds `line`, and no folder of this machine."""
    with pytest.raises(InputError) as caught:
        load(model, data, **settings)
    text = str(caught.value)
    assert line in text and "\n" not in text and str(here) not in text and len(text) < 700, text


def contents(tmp_path: Path) -> dict[str, bytes]:
    """Sound files of one column, by kind."""
    TEXTS.to_parquet(str(tmp_path / "sound.parquet"))
    parquet = (tmp_path / "sound.parquet").read_bytes()
    (tmp_path / "sound.parquet").unlink()
    lines = "".join(f'"{row["text"]}"\n' for row in ROWS)
    return {
        "txt": "\n\n".join(row["text"] for row in ROWS).encode(),
        "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
        "json": json.dumps(ROWS, indent=1).encode(),
        "csv": f"text\n{lines}".encode(),
        "tsv": f"text\n{lines}".encode(),
        "parquet": parquet,
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_pointers_of_git_lfs_are_no_data(whole: Path, tmp_path: Path) -> None:
    """Of every kind: as a file, beside a sound one in a folder, in a stream, and where `save_to_disk` wrote."""
    for kind, sound in contents(tmp_path).items():
        folder = tmp_path / kind
        folder.mkdir()
        (folder / f"a.{kind}").write_bytes(sound)
        assert load(str(whole), str(folder)).n > 8  # sound files are taken
        (folder / f"b.{kind}").write_bytes(POINTER)
        for data in (folder / f"b.{kind}", folder):
            refused(str(whole), str(data), LFS.format(f"b.{kind}"), here=tmp_path)
        stream = {"streaming": True, "max_examples": 8}
        refused(str(whole), str(folder / f"b.{kind}"), LFS.format(f"b.{kind}"), here=tmp_path, **stream)
    for kind in ("npz", "pt", "npy", "arrow", "jsonl.gz"):
        (tmp_path / f"b.{kind}").write_bytes(POINTER)
        refused(str(whole), str(tmp_path / f"b.{kind}"), LFS.format(f"b.{kind}"), here=tmp_path)
    TEXTS.save_to_disk(str(tmp_path / "saved"))
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    arrow.write_bytes(POINTER)
    refused(str(whole), str(tmp_path / "saved"), LFS.format(arrow.name), here=tmp_path)
    arrow.unlink()
    refused(str(whole), str(tmp_path / "saved"), "the saved data set is damaged", here=tmp_path)


CUT = {
    "parquet": (-9, "the data file is cut off, or is not parquet, got 'a.parquet'"),
    "jsonl": (-9, "the data file is not JSON at line 32, got 'a.jsonl'; is it cut off?"),
    "json": (-40, "the data file is not JSON at line "),
    "csv": (-9, "the data set cannot be read"),
    "tsv": (-9, "the data set cannot be read"),
}


@pytest.mark.parametrize("kind", CUT)
def test_files_that_are_cut_off(kind: str, whole: Path, tmp_path: Path) -> None:
    """None passes for one that the Hub should have, and each is named, in a folder too if its kind tells."""
    end, line = CUT[kind]
    path = tmp_path / "folder" / f"a.{kind}"
    path.parent.mkdir()
    path.write_bytes(contents(tmp_path)[kind][:end])
    for data in (path, path.parent):
        refused(str(whole), str(data), line, here=tmp_path)


def test_a_broken_line_is_named(whole: Path, tmp_path: Path) -> None:
    for name, lines, at in (("a.jsonl", 5, 3), ("a.json", 5, 3), ("b.jsonl", 1, 1)):
        text = [json.dumps(row) for row in ROWS[:lines]]
        text[at - 1] = text[at - 1][:-4]
        (tmp_path / name).write_text("\n".join(text))
        refused(str(whole), str(tmp_path / name), f"not JSON at line {at}, got '{name}'", here=tmp_path)


def test_text_of_another_encoding(whole: Path, tmp_path: Path) -> None:
    for name, text in (("a.txt", "\n\n".join(tiny.SENTENCES)), ("a.csv", "text\n" + "\n".join(tiny.SENTENCES))):
        (tmp_path / name).write_bytes(text.encode("utf-16-le"))  # without a mark it is UTF-8, with null characters
        refused(str(whole), str(tmp_path / name), "not text in UTF-8: it has null characters", here=tmp_path)


# Model folders

TOKENIZER = "the tokenizer that comes with the model "


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def in_shards(folder: Path) -> list[Path]:
    (folder / "model.safetensors").unlink()
    tiny.llama().save_pretrained(folder, max_shard_size="10KB")
    return sorted(folder.glob("model-*.safetensors"))


def pickled(name: str, keep: int | None = None) -> Callable[[Path], object]:
    """The weights in a file of torch.save, of which the first bytes are kept."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(tiny.llama().state_dict(), folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:keep])

    return spoil


def instead(name: str, content: bytes) -> Callable[[Path], object]:
    """Another file in place of the weights."""
    return lambda folder: ((folder / "model.safetensors").unlink(), (folder / name).write_bytes(content))


def without_shards(folder: Path) -> None:
    for path in in_shards(folder):
        path.unlink()


BIN_INDEX = json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model-00001-of-00002.bin"}}).encode()
FOLDERS: dict[str, tuple[Callable[[Path], object], str, dict[str, Any]]] = {
    "weights": (write("model.safetensors", POINTER), LFS.format("model.safetensors"), {}),
    "a shard": (lambda f: in_shards(f)[1].write_bytes(POINTER), "git lfs pull", {}),
    "an index": (lambda f: (in_shards(f), write("model.safetensors.index.json", POINTER)(f)), "git lfs pull", {}),
    "pickled weights": (instead("pytorch_model.bin", POINTER), LFS.format("pytorch_model.bin"), {}),
    "pickled weights allowed": (instead("pytorch_model.bin", POINTER), "git lfs pull", {"allow_pickle": True}),
    "weights of another name": (instead("weights.pt", POINTER), LFS.format("weights.pt"), {"allow_pickle": True}),
    "config": (write("config.json", POINTER), LFS.format("config.json"), {}),
    "tokenizer": (write("tokenizer.json", POINTER), LFS.format("tokenizer.json"), {}),
    "a chat template": (write("chat_template.jinja", POINTER), LFS.format("chat_template.jinja"), {}),
    "shard cut": (lambda f: in_shards(f)[1].write_bytes(b"x" * 50), "file is damaged, got 'model-00002-of", {}),
    "pickle cut": (pickled("pytorch_model.bin", 900), "damaged, got 'pytorch_model.bin'", {"allow_pickle": True}),
    "no shard": (without_shards, "weights are missing (4): model-00001-of-00004.safetensors, ", {}),
    "no shard, pickles allowed": (without_shards, "weights are missing (4): ", {"allow_pickle": True}),
    "no pickled shard": (
        instead("pytorch_model.bin.index.json", BIN_INDEX),
        "weights are missing (1): pytorch_model-00001-of-00002.bin",
        {"allow_pickle": True},
    ),
    "pickled shards, not allowed": (instead("pytorch_model.bin.index.json", BIN_INDEX), "give allow_pickle", {}),
    "pickled shards without index": (
        pickled("pytorch_model-00001-of-00002.bin"),
        "add pytorch_model.bin.index.json",
        {"allow_pickle": True},
    ),
    "pickles of training only": (instead("training_args.bin", b"x"), "the model folder has no weights, got", {}),
    "weights for others": (instead("model.gguf", b"x"), "no weights that torch reads, only model.gguf", {}),
    "tokenizer cut": (write("tokenizer.json", b'{"version'), TOKENIZER + "is damaged, got 'tokenizer.json'", {}),
    "tokenizer empty": (write("tokenizer.json", b""), TOKENIZER + "is damaged, got 'tokenizer.json'", {}),
    "tokenizer of nothing": (write("tokenizer.json", b"{}"), TOKENIZER + "cannot be loaded", {}),
    "tokenizer gone": (lambda f: (f / "tokenizer.json").unlink(), TOKENIZER + "cannot be loaded", {}),
    "its settings cut": (write("tokenizer_config.json", b'{"a'), "is damaged, got 'tokenizer_config.json'", {}),
    "its settings a list": (write("tokenizer_config.json", b"[]"), "is damaged, got 'tokenizer_config.json'", {}),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("*token*")], "no tokenizer comes with the model", {}),
    "tokenizer nowhere": (lambda f: None, "no such folder of the tokenizer", {"tokenizer": "./nowhere"}),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_model_folders(name: str, whole: Path, tmp_path: Path) -> None:
    spoil, line, settings = FOLDERS[name]
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    spoil(folder)
    refused(str(folder), TEXTS, line, here=tmp_path, **settings)


def test_a_damaged_tokenizer_is_needed_for_texts_only(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    (folder / "tokenizer.json").write_bytes(b'{"version')
    problem = load(str(folder), {"input_ids": torch.arange(1, 33).reshape(4, 8)})
    assert problem.n > 4 and problem.provenance["model"]["tokenizer"] is None
    assert load(str(folder), TEXTS, tokenizer=str(whole)).n > 4


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
def test_a_tokenizer_without_a_vocabulary(kind: str, tmp_path: Path) -> None:
    # transformers makes one of these all the same, in which each word is unknown, or nothing
    model = {
        "bert": lambda: tiny.bert("BertForMaskedLM"),
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=320, n_embd=16, n_layer=1, n_head=2)
        ),
        "t5": tiny.t5,
    }[kind]()
    folder, data = tmp_path / kind, [{"text": text, "summary": "a dog"} for text in tiny.SENTENCES]
    model.save_pretrained(folder)
    refused(str(folder), data, "no tokenizer comes with the model", here=tmp_path)
    empty = transformers.AutoTokenizer.from_pretrained(folder)
    with pytest.raises(InputError, match="the tokenizer knows no words"):
        load_problem(model, data, LoadConfig(), tokenizer=empty)
    refused(model, data, f"the tokenizer knows no words, got '{kind}'", here=tmp_path, tokenizer=str(folder))
    empty.save_pretrained(folder)
    refused(str(folder), data, TOKENIZER + f"knows no words, got '{kind}'", here=tmp_path)
    tiny.tokenizer().save_pretrained(folder)
    assert load(str(folder), data).n > 4


def test_a_damaged_image_processor(tmp_path: Path) -> None:
    from test_pictures import COLOUR, table

    model, processor = tiny.vit()
    model.save_pretrained(tmp_path / "vit")
    processor.save_pretrained(tmp_path / "vit")
    pictures = table([COLOUR[0].tolist()] * 3)
    for content, line in ((POINTER, "git lfs pull"), (b"{", "image processor that comes with the model is damaged")):
        (tmp_path / "vit" / "preprocessor_config.json").write_bytes(content)
        refused(str(tmp_path / "vit"), pictures, line, here=tmp_path)


def test_reasons_name_no_folder_of_this_machine() -> None:
    for text, shown in (
        ("no file '/home/me/my data/x.arrow' there", "no file 'x.arrow' there"),
        ("using /tmp/a/b.csv\n(at /srv/c)", "using b.csv (at c)"),
        (r"C:\Users\me\x.txt", "x.txt"),
        ("see https://huggingface.co/a/b: 3/4 of a/b", "see https://huggingface.co/a/b: 3/4 of a/b"),
    ):
        assert reason_of(ValueError(text)) == f"ValueError: {shown}"
