"""Some 300 bad inputs over the whole surface: each ends in one line, at once, and leaves nothing on the disk.

Here stands what a caller can do wrong with names, settings, objects, files and commands. Faults of single rows are in
test_row_faults.py and test_pictures.py, and are tried here as whole estimates with an output folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import test_pictures
import test_row_faults
import tiny
import torch
import transformers
from datasets import Dataset
from test_loading import cross_entropy

from hf_llc import LLCEvaluator, LLCResult
from hf_llc.cli.arguments import kinds_of
from hf_llc.cli.entry_point import main
from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.metrics import estimate_from_losses
from hf_llc.theory import deep_linear

X, Y = torch.randn(6, 4), torch.arange(6) % 3
TEXTS = {"text": tiny.SENTENCES}
IDS = {"input_ids": torch.arange(1, 33).reshape(4, 8)}


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """`untouched()` once all is prepared: from then on no file may come or go."""
    before: list[set[Path]] = []

    def tree() -> set[Path]:
        return set(tmp_path.rglob("*"))

    yield lambda: before.append(tree())
    if before:
        assert tree() == before[0]


def refused(call: Callable[[], Any], what: str = "") -> None:
    """The call ends in one line, that of the reason."""
    with pytest.raises(InputError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and len(line) < 2000 and what in line, line


def command(argv: list[str], capsys: pytest.CaptureFixture[str], what: str = "") -> None:
    """The command ends with code 2 and one line on stderr."""
    capsys.readouterr()
    code = main(argv)
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), (code, err)
    assert err.startswith("hf-llc: error: ") and err.count("\n") == 1 and what in err, err


# Settings, in Python and on the command line


def _bad_values(item: Any, hint: Any) -> list[Any]:
    """What no setting of this kind takes."""
    kinds, words = kinds_of(hint)
    wrong: list[Any] = [[1], b"1", object(), *([] if "dict" in str(hint) else [{"a": 1}])]
    if bool not in kinds:
        wrong.append(True)
    if str not in kinds:
        wrong += ["", "magic"]
    if float in kinds or int in kinds:
        wrong += [float("nan"), float("inf"), -(10**400), 10**400, -1, "1"]
    if int in kinds and float not in kinds:
        wrong += [1.5, 1e9]
    if item.default is not None and type(None) not in kinds:
        wrong.append(None)
    harmless = {"max_seconds": (10**400,), "save_seconds": (10**400,), "target_se": (10**400,)}
    return [value for value in wrong if not (words and value in words) and value not in harmless.get(item.name, ())]


def _hints() -> dict[str, Any]:
    from typing import get_type_hints

    return get_type_hints(SampleConfig)


SETTINGS = [(item.name, value) for item in fields(SampleConfig) for value in _bad_values(item, _hints()[item.name])]


@pytest.mark.parametrize("name", [item.name for item in fields(SampleConfig)])
def test_settings(name: str) -> None:
    """Each value on its own; a setting that only some samplers take is asked of one of them."""
    sampler = {"sampler": "baoab"} if name == "friction" else {}
    for value in (value for other, value in SETTINGS if other == name):
        with pytest.raises(InputError) as caught:
            LLCEvaluator(**{**sampler, name: value})
        line = str(caught.value)
        assert "\n" not in line and len(line) < 1500, line
        assert name in line or (value == 10**400 and "steps" in line), (value, line)


FLAGS = {
    "--num-chains": ["0", "-1", "1.5", "1e400", "four", "nan", "10000000", "1" * 5000],
    "--num-draws": ["0", "1000000000000", "2e3.5"],
    "--num-burnin-steps": ["-1", "soon", "1e12"],
    "--num-steps-between-draws": ["0", "0.5"],
    "--batch-size": ["0", "half", "1e12", "-5"],
    "--step-size": ["0", "-1e-6", "1e300", "1e-320", "inf", "-inf", "nan", "small", "1,5e-6", "0x10"],
    "--friction": ["0", "1e300", "none"],
    "--localization": ["-1", "1e300", "nan", "strong"],
    "--nbeta": ["0", "-3", "1e308", "1e-320", "inf", "two"],
    "--beta": ["0", "1e300", "nan"],
    "--seed": ["-1", str(2**70), "0.5", "today"],
    "--sampler": ["adam", "SGLD"],
    "--gradient": ["noisy"],
    "--target-se": ["0", "-0.1", "5%"],
    "--max-seconds": ["0", "-1", "1h"],
    "--save-seconds": ["-1"],
    "--chain-batch-size": ["0", "some"],
    "--mixed-precision": ["fp16"],
    "--max-length": ["1", "0", "-1", "1e30"],
    "--max-examples": ["1", "0", "1e30"],
    "--packing": ["tight"],
    "--dtype": ["bf16", "float16"],
    "--device": ["meta", "cuda:99", "gpu", "cpu:x", "mps:7"],
    "--task": ["chess", "Text-Generation"],
    "--loss-normalization": ["char"],
    "--observe": ["nothing", ",", "parameter-norms,"],
    "--data-parallel": ["0", "2"],
    "--parameter-parallel": ["2"],
    "--attn-implementation": ["magic"],
    "--input-column": ["nowhere", "text.en", "."],
    "--label-column": ["label"],
    "--second-input-column": ["text"],
    "--split": ["dev", "train[", "train[:-1000000%]"],
    "--subset": ["german"],
    "--data-revision": ["v1"],
    "--tokenizer": ["nobody/nothing", "/nowhere/at/all", "a\tb"],
    "--output": ["x" * 300, "a/" + "y" * 300, "é" * 200],
    "--model": ["nobody/nothing", "../nowhere", "x" * 300, "é" * 200, "a/b/c", "~nobody/x", "https://huggingface.co/a/b"],
    "--data": ["nobody/nothing", "../nowhere", "x" * 300, "a/b/c", "no.csv", "https://huggingface.co/datasets/a/b"],
    "--config": ["nowhere.yaml", ".", "x" * 300],
}  # fmt: skip


@pytest.mark.parametrize(("flag", "value"), [(f, v) for f, vs in FLAGS.items() for v in vs], ids=lambda x: x[:30])
def test_flags(
    flag: str, value: str, here: Path, capsys: pytest.CaptureFixture[str], untouched: Callable[[], None]
) -> None:
    argv = ["estimate", "--model", str(here / "model"), "--data", str(here / "text.txt"), "--max-examples", "20"]
    untouched()
    command([*argv, f"{flag}={value}"], capsys)


@pytest.mark.parametrize(
    "argv",
    [
        ["--resume"], ["--resume", "--overwrite"], ["--streaming"], ["--nbeta", "3", "--beta", "0.1"],
        ["--sampler", "sgld", "--friction", "1"], ["--sampler", "hmc"], ["--sampler", "rmsprop-sgld"],
        ["--sampler", "psgld", "--num-burnin-steps", "0"], ["--max-steps", "5"], ["stray"], ["--num-chain", "4"],
        ["--num-chains"], ["--gradient-checkpointing", "--compile"], ["--step-in-backward", "true", "--compile"],
        ["--parameter-parallel", "2", "--minimize"], ["--output", "/dev/null/x"], ["--output", "/proc/nothing"],
        ["--batch-size", "21"], ["--max-length", "65"], ["--task", "fill-mask"], ["--json=yes"],
        ["--minimize", "--help-me"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_flags_together(
    argv: list[str], here: Path, capsys: pytest.CaptureFixture[str], untouched: Callable[[], None]
) -> None:
    common = ["estimate", "--model", str(here / "model"), "--data", str(here / "text.txt")]
    common += [] if argv == ["--streaming"] else ["--max-examples", "20"]
    untouched()
    command([*common, *argv], capsys)


YAML: dict[str, bytes] = {
    "not YAML": b"a: [1\n",
    "a list": b"- num_chains\n- 4\n",
    "a word": b"num_chains\n",
    "a tab": b"num_chains:\t4\n\tnum_draws: 3\n",
    "nested": b"num_chains: {a: 1}\n",
    "a list of values": b"num_chains: [1, 2]\n",
    "unknown": b"num_chian: 4\n",
    "a number for a key": b"3: 4\n",
    "no key": b": 4\n",
    "a list for a key": b"? [a, b]\n: 4\n",
    "bytes": b"\xff\xfe\x00num",
    "Latin-1": "model: caf\u00e9\n".encode("latin-1"),
    "null characters": b"model: a\x00b\n",
    "two documents": b"num_chains: 4\n---\nnum_draws: 5\n",
    "an unknown anchor": b"num_chains: *n\n",
    "a tag": b"num_chains: !!python/object/apply:os.system [ls]\n",
    "sexagesimal": b"num_chains: 1:30\n",
    "a word for a number": b"step_size: strong\n",
    "a fraction": b"num_chains: 3.5\n",
    "a bool for a number": b"num_chains: true\n",
    "a number for a bool": b"minimize: 1\n",
    "an unset variable": b"model: ''\nnum_chains: ''\n",
    "an interval": b"num_chains: 1..4\n",
    "a flag": b"--num-chains 4\n",
    "no such choice": b"sampler: adam\n",
}


@pytest.mark.parametrize("kind", YAML)
@pytest.mark.parametrize("name", ["estimate", "calibrate"])
def test_config_files(
    kind: str, name: str, here: Path, capsys: pytest.CaptureFixture[str], untouched: Callable[[], None]
) -> None:
    (here / "run.yaml").write_bytes(YAML[kind])
    untouched()
    command([name, "--data", str(here / "text.txt"), "--config", str(here / "run.yaml")], capsys)


COMMANDS = [
    [], ["estimates"], ["--json"], ["show"], ["show", "nowhere"], ["show", "."], ["show", "model"],
    ["show", "text.txt"],
    ["show", ""], ["publish"], ["publish", "nowhere", "--repo", "a/b"], ["publish", ".", "--repo", "a/b"],
    ["publish", "nowhere"], ["publish", ".", "--repo", "a/b", "--card", "README.md"], ["publish", "", "--repo", "a/b"],
    ["publish", ".", "--repo", ""], ["publish", ".", "--card", ""], ["publish-metric"],
    ["publish-metric", "--repo", "llc"], ["publish-metric", "--repo", "a/b"], ["publish-metric", "--repo", "a/b/llc"],
    ["theory"], ["theory", "dln"], ["theory", "dln", "--widths", "3"],
    ["theory", "dln", "--widths", "a,b", "--rank", "1"],
    ["theory", "dln", "--widths", "3,3", "--rank", "9"], ["theory", "dln", "--widths", "3,3", "--rank", "-1"],
    ["theory", "dln", "--widths", "3,0,3", "--rank", "1"], ["theory", "dln", "--widths", "3,,3", "--rank", "1"],
    ["theory", "dln", "--widths", "3,3", "--layer-ranks", "1,2"], ["theory", "dln", "--widths", "3,3", "--rank", "1.5"],
    ["theory", "dln", "--widths", "", "--rank", "1"], ["theory", "dln", "--widths", "3,3"],
    ["benchmark", "--sampler", "adam"], ["benchmark", "--step-size", "big"], ["benchmark", "--seed", "-1"],
    ["benchmark", "--targets", "moon"], ["benchmark", "--output", "x" * 300], ["benchmark", "--seed", "1.5"],
    ["doctor", "--model", "nobody/nothing"], ["doctor", "--model", ""], ["doctor", "--model", "nowhere/"],
    ["doctor", "--batch-size", "0"], ["doctor", "--data", "x"], ["doctor", "--model", "x" * 300],
    ["curve"], ["curve", "--output", "c"], ["curve", "--output", "c", "--data", "text.txt"],
    ["curve", "--output", "c", "--checkpoints", "nowhere", "--data", "text.txt"],
    ["curve", "--output", "c", "--checkpoints", "cwd", "--data", "text.txt"],
    ["curve", "--output", "c", "--checkpoints", "."], ["curve", "--output", "", "--checkpoints", "."],
    ["curve", "--output", "c", "--revisions", "step*", "--data", "text.txt"],
    ["curve", "--output", "c", "--weight-files", "a.bin", "--data", "text.txt"],
    ["curve", "--output", "c", "--weight-files", "a.safetensors", "--factory", "no_such:thing", "--data", "text.txt"],
    ["curve", "--output", "c", "--weight-files", "a.safetensors", "--factory", "nothing", "--data", "text.txt"],
    ["curve", "--output", "c", "--checkpoints", ".", "--x-scale", "cubic", "--data", "text.txt"],
    ["curve", "--output", "c", "--checkpoints", ".", "--model", "m", "--data", "text.txt"],
    ["curve", "--output", "c", "--checkpoints", ".", "--data", "nowhere.txt", "--quiet"],
    ["calibrate", "--model", "nowhere", "--data", "text.txt"], ["calibrate", "--output", "x" * 300],
    ["calibrate", "--model", "model"], ["calibrate", "--resume"], ["calibrate", "--num-chains", "0"],
]  # fmt: skip


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: " ".join(argv)[:60])
def test_commands(
    argv: list[str],
    here: Path,
    capsys: pytest.CaptureFixture[str],
    untouched: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(here)
    untouched()
    command(argv, capsys)


# Models, data and settings given as objects


def _lazy() -> torch.nn.Module:
    return torch.nn.LazyLinear(3)


def _without_parameters() -> torch.nn.Module:
    return torch.nn.Flatten()


def _frozen() -> torch.nn.Module:
    return torch.nn.Linear(4, 3).requires_grad_(False)


class _Raises(torch.nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        raise KeyError("inside")


class _Two(torch.nn.Linear):
    def forward(self, input: torch.Tensor) -> Any:
        return super().forward(input), input


def _plain(model: Any = None, data: Any = (X, Y), **more: Any) -> Callable[[], Any]:
    """An estimate of a plain module with an output folder, one of its arguments bad."""

    def call() -> Any:
        module = torch.nn.Linear(4, 3) if model is None else model
        module = module if isinstance(module, torch.nn.Module) or not callable(module) else module()
        given = {"loss_fn": cross_entropy, "output": "out", "progress": False, **more}
        return LLCEvaluator(num_chains=2, num_draws=4, num_burnin_steps=1).compute(module, data, **given)

    return call


def _text(model: Any = tiny.llama, data: Any = TEXTS, **more: Any) -> Callable[[], Any]:
    given = {"tokenizer": tiny.tokenizer(), "loss_fn": None, **more}
    return _plain(model, data, **given)


OBJECTS: dict[str, tuple[Callable[[], Any], str]] = {
    "model a number": (_plain(3), "kind that cannot be used"),
    "model a function": (_plain(lambda: len), "kind that cannot be used"),
    "model a state_dict": (_plain(torch.nn.Linear(4, 3).state_dict()), "kind that cannot be used"),
    "model a class": (_plain(lambda: torch.nn.Linear), "kind that cannot be used"),
    "model a list of modules": (_plain([torch.nn.Linear(4, 3)]), "kind that cannot be used"),
    "model a tokenizer": (_plain(tiny.tokenizer), "kind that cannot be used"),
    "model empty": (_plain(""), "model is empty"),
    "model blank": (_plain("  "), "model is empty"),
    "model lazy": (_plain(_lazy), ""),
    "model on meta": (_plain(lambda: torch.nn.Linear(4, 3, device="meta")), ""),
    "model without parameters": (_plain(_without_parameters, (torch.randn(6, 3), Y)), ""),
    "model frozen": (_plain(_frozen), ""),
    "model complex": (_plain(lambda: torch.nn.Linear(4, 3, dtype=torch.cfloat)), ""),
    "model raises": (_plain(lambda: _Raises(4, 3)), "KeyError"),
    "model returns two": (_plain(lambda: _Two(4, 3)), "model or loss_fn fails"),
    "model of another width": (_plain(lambda: torch.nn.Linear(5, 3)), "model or loss_fn fails"),
    "model with NaN": (_plain(lambda: _nan(torch.nn.Linear(4, 3))), "NaN"),
    "no loss_fn": (_plain(loss_fn=None), "give loss_fn"),
    "loss_fn a word": (_plain(loss_fn="cross_entropy"), "loss_fn cannot be called"),
    "loss_fn a class": (_plain(loss_fn=torch.nn.CrossEntropyLoss), ""),
    "loss_fn the mean": (_plain(loss_fn=torch.nn.CrossEntropyLoss()), 'reduction="none"'),
    "loss_fn None": (_plain(loss_fn=lambda a, b: None), "one loss for each example"),
    "loss_fn a number": (_plain(loss_fn=lambda a, b: 1.0), "one loss for each example"),
    "loss_fn of one argument": (_plain(loss_fn=lambda a: a), "fails on two examples"),
    "loss_fn without gradient": (_plain(loss_fn=lambda a, b: cross_entropy(a, b).detach()), "no gradient"),
    "loss_fn NaN": (_plain(loss_fn=lambda a, b: cross_entropy(a, b) * torch.nan), ""),
    "loss_fn complex": (_plain(loss_fn=lambda a, b: cross_entropy(a, b) + 1j), ""),
    "loss_fn of integers": (_plain(loss_fn=lambda a, b: b), ""),
    "data None": (_plain(data=None), "no data given"),
    "data a number": (_plain(data=3), "data of this kind"),
    "data empty": (_plain(data=""), "data is empty"),
    "data a list of nothing": (_plain(data=[]), "empty"),
    "data a list of numbers": (_plain(data=[1, 2, 3]), ""),
    "data a set": (_plain(data={1, 2}), "data of this kind"),
    "data a generator": (_plain(data=(x for x in X)), "data of this kind"),
    "data an array": (_plain(data=X.numpy()), "data of this kind"),
    "data one tensor": (_plain(data=X), "data of this kind"),
    "data three tensors": (_plain(data=(X, Y, Y)), "not a pair"),
    "data arrays": (_plain(data=(X.numpy(), Y.numpy())), "torch.as_tensor"),
    "data of two lengths": (_plain(data=(X, Y[:3])), "differ in length"),
    "data without axis": (_plain(data=(torch.tensor(1.0), torch.tensor(1))), "example axis"),
    "data without rows": (_plain(data=(X[:0], Y[:0])), "fewer than two"),
    "data of one row": (_plain(data=(X[:1], Y[:1])), "fewer than two"),
    "data with NaN": (_plain(data=(X * torch.nan, Y)), "row 0"),
    "labels out of range": (_plain(data=(X, Y + 1)), "out of range"),
    "labels floats": (_plain(data=(X, Y.float())), ""),
    "inputs of integers": (_plain(data=(Y[:, None].expand(6, 4), Y)), ""),
    "dictionary without names": (_plain(data={"a": X, "b": Y}), "no column that could be the input column"),
    "dictionary without labels": (_plain(data={"x": X}), "no column that could be the label column"),
    "dictionary of lists": (_plain(data={"x": X.tolist(), "y": Y.tolist()}), "not a pair of tensors"),
    "dictionary of nothing": (_plain(data={}), "no column"),
    "table without rows": (_plain(data=Dataset.from_dict({"x": [], "y": []})), "empty"),
    "table without columns": (_plain(data=Dataset.from_dict({})), "empty"),
    "a loader": (_plain(data=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y))), "data of this kind"),
    "stream without bound": (_text(data=Dataset.from_dict(TEXTS).to_iterable_dataset()), "needs a bound"),
    "stream without rows": (_text(data=datasets.IterableDataset.from_generator(lambda: iter(())), max_examples=4,
                                  packing="document"), "the streamed data set is empty"),
    "stream that fails": (_text(data=datasets.IterableDataset.from_generator(lambda: iter([{"text": "a"}, 3])),
                                max_examples=4), ""),
    "split of a table": (_text(split="train"), "split cannot be chosen"),
    "subset of a table": (_text(subset="en"), "subset cannot be chosen"),
    "revision of a table": (_text(data_revision="v1"), "data_revision is for data of the Hub"),
    "pair for a language model": (_text(data=(X, Y)), "pairs of tensors"),
    "column unknown": (_text(input_column="story"), "no such column"),
    "column a number": (_text(input_column=3), "input_column has a value of the wrong kind"),
    "label column of text": (_text(label_column="text"), "label_column"),
    "mapping for text": (_text(label_mapping={"A": 0}), "label_mapping is for"),
    "no tokenizer": (_text(tokenizer=None), "no tokenizer"),
    "tokenizer a function": (_text(tokenizer=str.split), ""),
    "tokenizer a number": (_text(tokenizer=3), ""),
    "tokenizer of a larger vocabulary": (_text(lambda: _resized(100)), "token ids that the model does not have"),
    "two tokenizers": (_text(feature_extractor=tiny.tokenizer()), "both given"),
    "device of an object": (_text(device="cpu:0", data=IDS), "device is for models loaded by id"),
    "dtype of an object": (_text(dtype="float64"), "dtype is for models loaded by id"),
    "revision of an object": (_text(revision="main"), "revision is for models loaded by id"),
    "task of another model": (_text(task="text-classification"), "another task"),
    "setting of the other": (_text(num_chains=3), "it is a setting of LLCEvaluator"),
    "setting unknown": (_text(inputcolumn="text"), "did you mean 'input_column'"),
    "output a number": (_text(output=3), "output is not a folder"),
    "output empty": (_text(output=""), "output is not a folder"),
    "output too long": (_text(output="x" * 300), "cannot write"),
    "output null": (_text(output="a\0b"), "cannot write"),
    "output a file": (_text(output="/dev/null"), ""),
    "resume nothing": (_text(resume=True), "nothing to resume"),
    "resume without folder": (_text(resume=True, output=None), "give output"),
    "pipeline of another kind": (_text(lambda: transformers.pipeline("text-generation", model=tiny.llama(),
                                 tokenizer=tiny.tokenizer()), tokenizer=None, task="fill-mask"), "another task"),
    "text shorter than two windows": (_text(data={"text": ["a"]}), "the text is too short"),
    "max_length beyond context": (_text(max_length=65), "more than the model's context"),
    "batch beyond data": (lambda: LLCEvaluator(batch_size=999).compute(tiny.llama(), IDS, output="out"), "batch_size"),
    "pictures for a language model": (_text(data=test_pictures.table([test_pictures.COLOUR[0].tolist()] * 3)), ""),
    "result of nowhere": (lambda: LLCResult.load("nowhere"), ""),
    "config of another class": (lambda: LLCEvaluator(config={"num_chains": 3}), ""),  # type: ignore[arg-type]
    "theory of one width": (lambda: deep_linear([3], 1), ""),
    "theory of a negative rank": (lambda: deep_linear([3, 3], -1), ""),
}  # fmt: skip


def _nan(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        next(module.parameters()).fill_(torch.nan)
    return module


def _resized(size: int) -> Any:
    model = tiny.llama()
    model.resize_token_embeddings(size)
    return model


@pytest.mark.parametrize("name", OBJECTS)
def test_objects(name: str, here: Path, untouched: Callable[[], None]) -> None:
    call, what = OBJECTS[name]
    untouched()
    refused(call, what)


@pytest.mark.parametrize("name", test_row_faults.CASES)
def test_rows(name: str, here: Path, untouched: Callable[[], None]) -> None:
    """Faults of single rows, with an output folder."""
    _, make, data, settings = test_row_faults.CASES[name]
    model = make()
    tokenizer = tiny.tokenizer(template=type(model).__name__.startswith("Bert"))
    untouched()
    refused(_text(model, data, tokenizer=tokenizer, **settings))


# Model folders


def _config(folder: Path, **changes: Any) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **changes}))


def _index(folder: Path, **shards: str) -> None:
    (folder / "model.safetensors").unlink()
    weight_map = {f"{name}.weight": file for name, file in shards.items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


FOLDERS: dict[str, Callable[[Path], object]] = {
    "no config": lambda f: (f / "config.json").unlink(),
    "config empty": lambda f: (f / "config.json").write_text(""),
    "config cut": lambda f: (f / "config.json").write_text('{"model_type": "lla'),
    "config a list": lambda f: (f / "config.json").write_text("[]"),
    "config of bytes": lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"),
    "config without type": lambda f: _config(f, model_type=None, architectures=None),
    "config of an unknown type": lambda f: _config(f, model_type="mystery"),
    "config of another type": lambda f: _config(f, model_type="bert", architectures=["BertForMaskedLM"]),
    "config without task": lambda f: _config(f, architectures=["LlamaModel"]),
    "config of a wider model": lambda f: _config(f, hidden_size=32),
    "config of a deeper model": lambda f: _config(f, num_hidden_layers=3),
    "config of a shallower model": lambda f: _config(f, num_hidden_layers=1),
    "config of text": lambda f: _config(f, hidden_size="wide"),
    "config of no layers": lambda f: _config(f, num_attention_heads=0),
    "config of another vocabulary": lambda f: _config(f, vocab_size=10),
    "quantized": lambda f: _config(f, quantization_config={"quant_method": "gptq", "bits": 4}),
    "remote code": lambda f: _config(f, model_type="x", auto_map={"AutoConfig": "c.C"}),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "weights empty": lambda f: (f / "model.safetensors").write_bytes(b""),
    "weights cut": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
    "weights a pointer of git-lfs": lambda f: (f / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
    "weights pickled": lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
    "index without shards": lambda f: _index(f, lm_head="model-00001-of-00002.safetensors"),
    "tokenizer cut": lambda f: (f / "tokenizer.json").write_text('{"version'),
    "no tokenizer": lambda f: [p.unlink() for p in f.glob("*token*")],
    "an adapter": lambda f: (f / "adapter_config.json").write_text("{}"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_model_folders(
    name: str, here: Path, capsys: pytest.CaptureFixture[str], untouched: Callable[[], None]
) -> None:
    FOLDERS[name](here / "model")
    untouched()
    argv = ["estimate", "--model", str(here / "model"), "--data", str(here / "text.txt"), "--output", "out"]
    command([*argv, "--max-examples", "20"], capsys)


FILES: dict[str, tuple[str, bytes]] = {
    "empty text": ("a.txt", b""),
    "blank text": ("a.txt", b"\n\n \n"),
    "text in Latin-1": ("a.txt", "caf\u00e9 ".encode("latin-1") * 400),
    "text of null characters": ("a.pdf", b"%PDF"),
    "JSON cut": ("a.json", b'[{"text": "a"'),
    "JSON of numbers": ("a.json", b"[1, 2, 3]"),
    "JSON of one word": ("a.json", b'"text"'),
    "JSON lines cut": ("a.jsonl", b'{"text": "a"}\n{"text": \n'),
    "JSON lines of two kinds": ("a.jsonl", b'{"text": "a"}\n{"text": 3}\n' * 9),
    "JSON of nothing": ("a.json", b"[]"),
    "JSON in UTF-16": ("a.jsonl", '{"text": "a"}\n'.encode("utf-16")),
    "CSV without rows": ("a.csv", b"text\n"),
    "CSV ragged": ("a.csv", b"text\na,b,c\nd\n"),
    "CSV of another column": ("a.csv", b"prose\na\nb\n"),
    "CSV with a gap": ("a.csv", b"text,n\na,1\n,2\nb,3\n"),
    "CSV of bytes": ("a.csv", b"\xff\x00\xfe" * 50),
    "parquet cut": ("a.parquet", b"PAR1\x00\x00"),
    "parquet of text": ("a.parquet", b"hello"),
    "a zip": ("a.zip", b"PK\x03\x04"),
    "no ending": ("data", b"text"),
}


@pytest.mark.parametrize("name", FILES)
def test_data_files(name: str, here: Path, capsys: pytest.CaptureFixture[str], untouched: Callable[[], None]) -> None:
    file, content = FILES[name]
    (here / file).write_bytes(content)
    untouched()
    command(["estimate", "--model", str(here / "model"), "--data", str(here / file), "--output", "out"], capsys)


# The metric

DRAWS = 1 + np.random.default_rng(0).random((2, 9))
METRIC: dict[str, dict[str, Any]] = {
    "no nbeta": {"nbeta": None},
    "nbeta zero": {"nbeta": 0.0},
    "nbeta negative": {"nbeta": -1.0},
    "nbeta NaN": {"nbeta": float("nan")},
    "burnin all": {"burnin": 9},
    "burnin negative": {"burnin": -1},
    "between zero": {"num_steps_between_draws": 0},
    "between too many": {"num_steps_between_draws": 10},
    "ragged": {"losses": [[1.0, 2.0], [1.0]]},
    "ragged references": {"init_losses": [[1.0, 2.0], [1.0]]},
}


@pytest.mark.parametrize("name", METRIC)
def test_metric(name: str) -> None:
    given = {"losses": DRAWS, "init_losses": [1.0, 1.0], "nbeta": 10.0, **METRIC[name]}
    refused(lambda: estimate_from_losses(given.pop("losses"), given.pop("init_losses"), **given))


def test_how_many_they_are() -> None:
    tables = (SETTINGS, [v for vs in FLAGS.values() for v in vs], YAML, COMMANDS, OBJECTS, test_row_faults.CASES)
    assert sum(map(len, (*tables, FOLDERS, FILES, METRIC, test_pictures.BAD))) > 300
