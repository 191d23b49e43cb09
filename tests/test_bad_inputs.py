"""What goes wrong before the work begins: input → one line → exit code 2, no traceback, nothing left on disk.

`pytest tests/test_bad_inputs.py -rP -k table` prints the lines as a table.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from datasets import Dataset
from forked import Program

from hf_llc.cli.entry_point import main

Case = tuple[str, Callable[[Path], list[str]], str]


def _model(here: Path, **changes: object) -> list[str]:
    """`--model` of a sound tiny folder whose config has `changes`."""
    target = here / "model"
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return ["--model", str(target)]


def _without(here: Path, *names: str) -> list[str]:
    for name in names:
        (here / "model" / name).unlink()
    return ["--model", str(here / "model")]


def _pickle_only(here: Path) -> list[str]:
    torch.save(tiny.llama().state_dict(), here / "model" / "pytorch_model.bin")
    return _without(here, "model.safetensors")


def _truncated(here: Path) -> list[str]:
    weights = here / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return ["--model", str(here / "model")]


def _nan_weights(here: Path) -> list[str]:
    model = tiny.llama()
    with torch.no_grad():
        next(model.parameters())[0, 0] = torch.nan
    model.save_pretrained(here / "model")
    return ["--model", str(here / "model")]


def _remote_code(here: Path) -> list[str]:
    return _model(
        here,
        model_type="mystery",
        architectures=["MysteryForCausalLM"],
        auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"},
    )


def _file(here: Path, name: str, text: str) -> list[str]:
    (here / name).write_text(text)
    return ["--data", str(here / name)]


def _rows(here: Path, **columns: list[object]) -> list[str]:
    Dataset.from_dict(columns).to_parquet(str(here / "rows.parquet"))
    return ["--data", str(here / "rows.parquet")]


def _images(here: Path, *, label: int = 0, value: float = 0.0) -> list[str]:
    """An image classifier of three classes, and six images as numbers, the second with `label` and `value`."""
    model, _ = tiny.vit()
    model.save_pretrained(here / "vit")
    pixels = torch.zeros(6, 3, 8, 8)
    pixels[1] = value
    data = {"pixel_values": pixels.tolist(), "label": [0, label, 2, 0, 1, 2]}
    return ["--model", str(here / "vit"), *_rows(here, **data)]


def _yaml(here: Path, text: str) -> list[str]:
    (here / "run.yaml").write_text(text)
    return ["--config", str(here / "run.yaml")]


def _blocked(here: Path) -> list[str]:
    (here / "file").touch()
    return ["--output", str(here / "file" / "out")]


def _another_run(here: Path) -> list[str]:
    out = here / "old"
    out.mkdir()
    (out / "run.json").write_text('{"seed": 7}')
    return ["--output", str(out)]


CASES: list[Case] = [
    ("model folder missing", lambda here: ["--model", str(here / "no-model")], "no such model"),
    ("model is a file", lambda here: ["--model", str(here / "text.txt")], "the model is a file"),
    ("folder without config", lambda here: _without(here, "config.json"), "no config.json"),
    ("folder without weights", lambda here: _without(here, "model.safetensors"), "no weights"),
    ("pickled weights only", _pickle_only, "allow_pickle"),
    ("damaged weights", _truncated, "weights file is damaged"),
    ("weights that are NaN", _nan_weights, "a weight is NaN or infinite"),
    ("remote code needed", _remote_code, "needs its own Python code"),
    ("unknown architecture", lambda here: _model(here, model_type="mystery"), "model type `mystery`"),
    ("no network for the model", lambda _: ["--model", "me/not-in-the-cache"], "the Hub cannot be reached"),
    ("no network for the data", lambda _: ["--data", "me/not-in-the-cache"], "the Hub cannot be reached"),
    ("data file missing", lambda here: ["--data", str(here / "no.txt")], "no such data file"),
    ("empty data file", lambda here: _file(here, "empty.txt", ""), "the data file is empty"),
    ("data of an unknown kind", lambda here: _file(here, "data.xyz", "a"), "a file of this kind cannot be read"),
    ("damaged parquet", lambda here: _file(here, "bad.parquet", "PAR"), "cut off, or is not parquet"),
    ("empty data set", lambda here: _rows(here, text=[]), "the data set is empty"),
    ("one example", lambda here: [*_rows(here, text=["a cat"]), "--packing", "document"], "single example"),
    ("only padding", lambda here: [*_rows(here, text=["", "", ""]), "--packing", "document"], "no example has a token"),
    ("text too short", lambda here: [*_rows(here, text=["a cat"]), "--max-length", "64"], "the text is too short"),
    ("wrong column", lambda here: [*_rows(here, text=["a", "b"]), "--input-column", "txt"], "no such column"),
    ("no usable column", lambda here: _rows(here, foo=["a", "b"]), "no column that could be the input column"),
    ("column of numbers", lambda here: _rows(here, text=[1, 2, 3]), "does not hold text"),
    ("wrong split", lambda here: ["--data", str(here / "text.txt"), "--split", "dev"], "no such split"),
    ("NaN features", lambda here: _images(here, value=float("nan")), "the data contain NaN or infinity"),
    ("label out of range", lambda here: _images(here, label=9), "a label is out of range"),
    ("max_length beyond context", lambda _: ["--max-length", "100000"], "more than the model's context"),
    ("zero chains", lambda _: ["--num-chains", "0"], "num_chains is out of range"),
    ("negative step size", lambda _: ["--step-size", "-1e-5"], "step_size is out of range"),
    ("a word for a number", lambda _: ["--localization", "strong"], "localization has a value of the wrong kind"),
    ("batch larger than n", lambda _: ["--batch-size", "99999"], "batch_size is larger than the data"),
    ("nbeta and beta", lambda _: ["--nbeta", "10", "--beta", "0.1"], "nbeta and beta are both given"),
    ("unknown task", lambda _: ["--task", "chess"], "task has a value of the wrong kind"),
    ("task of another model", lambda _: ["--task", "fill-mask"], "the model is for another task"),
    ("unknown flag", lambda _: ["--num-chain", "4"], "unknown argument --num-chain"),
    ("unknown YAML key", lambda here: _yaml(here, "num_chain: 4\n"), "did you mean 'num_chains'"),
    ("YAML that is none", lambda here: _yaml(here, "a: [1\n"), "not YAML"),
    ("no such device", lambda _: ["--device", "cuda:7"], "no such device here"),
    ("no such attention", lambda _: ["--attn-implementation", "magic"], '`attn_implementation="magic"` is not'),
    ("streaming without bound", lambda here: ["--data", str(here / "text.txt"), "--streaming"], "needs a bound"),
    ("output cannot be made", _blocked, "cannot write to the output folder"),
    ("another run in the folder", _another_run, "holds another run"),
    ("nothing to resume", lambda here: ["--output", str(here / "new"), "--resume"], "nothing to resume there"),
]

_LINES: dict[str, str] = {}


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(("name", "spoil", "message"), CASES, ids=[name for name, _, _ in CASES])
def test_bad_input(
    name: str, spoil: Callable[[Path], list[str]], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with the message, code 2, within seconds, and the disk as it was."""
    argv = spoil(here)
    if "--model" in argv and "--data" not in argv:
        argv += ["--data", str(here / "text.txt")]
    if "--data" in argv and "--model" not in argv:
        argv += ["--model", str(here / "model")]
    capsys.readouterr()
    before, begun = _tree(here), time.monotonic()
    code = main(["estimate", *argv])
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert err.startswith("hf-llc: error: ") and err.count("\n") == 1, err
    assert message in err
    assert _tree(here) == before
    assert time.monotonic() - begun < 60  # refused before the work; a step alone takes longer on a real model
    _LINES[name] = err.removeprefix("hf-llc: error: ").replace(str(here), "…").strip()


def test_print_the_table() -> None:
    """Not a check: what was said, for a reader."""
    for name, line in _LINES.items():
        print(f"{name:<26} │ 2 │ {line}")
    assert len(set(_LINES.values())) == len(_LINES), "two inputs are refused in the same words"


def _limited(argv: list[str], size: int, script: Path) -> tuple[int | None, str]:
    """The command where no file may grow beyond `size` bytes, as on a full disk: its code, and what it says."""
    script.write_text(
        f"import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        "from hf_llc.cli.entry_point import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    program = Program(script, *argv)
    _, (said,) = program.end()
    return program.processes[0].exitcode, said


@pytest.mark.slow
@pytest.mark.parametrize(("size", "code"), [(1000, 2), (10_000, 1)], ids=["full from the start", "full on the way"])
def test_full_disk(size: int, code: int, here: Path) -> None:
    """Said in one line; no half-written file under a final name; the same command goes on when there is room."""
    small = ["--max-length", "16", "--num-chains", "2", "--num-draws", "10", "--num-burnin-steps", "5"]
    argv = ["estimate", "--model", str(here / "model"), "--data", str(here / "text.txt"), "--step-size", "1e-6", *small]
    argv += ["--output", str(here / "out"), "--quiet"]
    found, said = _limited(argv, size, here / "limited.py")
    assert found == code and said.startswith("hf-llc: error: ") and said.count("\n") == 1, said
    left = [path for path in (here / "out").rglob("*") if path.is_file()] if (here / "out").exists() else []
    assert all(path.suffix == ".json" and json.loads(path.read_text()) for path in left), left
    assert main(argv) in (0, 3)
    assert (here / "out" / "result.json").exists()
