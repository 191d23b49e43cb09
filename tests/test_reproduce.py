"""The command under "Reproduce" on a card gives the same λ̂ again, or the card says that none can."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import tiny
import train_worker
from curve_factory import series
from worker import examples, network, squared_error

from hf_llc import LLCCallback, LLCEvaluator, LLCResult
from hf_llc.cli.entry_point import main
from hf_llc.publishing.card_section import render_section

QUICK = {"step_size": 1e-6, "num_chains": 2, "num_draws": 5, "num_burnin_steps": 3, "batch_size": 4}
FLAGS = [word for name, value in QUICK.items() for word in (f"--{name.replace('_', '-')}", str(value))]
OBJECTS = "objects in Python, so no command line names them"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_llc.cli.console.hush", lambda quiet: None)
    Path("text.txt").write_text("\n\n".join(tiny.SENTENCES * 3), encoding="utf-8")


def command_on(card: str) -> list[str]:
    """The words of the card's command."""
    (block,) = re.findall(r"```bash\nhf-llc (estimate.*?)\n```", card, re.S)
    return shlex.split(block.replace("\\\n", " "))


def check(folder: str) -> str:
    """Run the command of the card in `folder`: the same λ̂ per chain. Returns the card."""
    result = LLCResult.load(folder)
    card = (Path(folder) / "card.md").read_text(encoding="utf-8")
    assert card == render_section(result)
    assert main([*command_on(card), "--output", f"{folder}-again", "--quiet"]) in (0, 3)
    again = LLCResult.load(f"{folder}-again")
    assert again.llc_per_chain == result.llc_per_chain and again.llc_se == result.llc_se
    assert again.init_loss == result.init_loss and again.model["fingerprint"] == result.model["fingerprint"]
    return card


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        pytest.param([], id="estimate"),
        pytest.param(["--minimize", "--minimize-steps", "7"], id="minimized"),
        pytest.param(["--dtype", "float64", "--max-length", "16", "--packing", "document"], id="other examples"),
        pytest.param(["--sampler", "baoab", "--friction", "0.5", "--gradient", "control-variate"], id="baoab"),
        pytest.param(["--weights", "l0"], id="a part of the weights"),
    ],
)
def test_a_local_model(more: list[str]) -> None:
    """Names of local files, not their paths, stand on the card, which says so."""
    tiny.save_llama(Path("m"))
    command = ["estimate", "--model", "m", "--data", "text.txt", *FLAGS, *more, "--output", "run", "--quiet"]
    assert main(command) in (0, 3)
    assert "`m` and `text.txt` are local names: give their paths" in check("run")


@pytest.mark.slow
def test_by_the_defaults_of_calibration_and_like_another_run() -> None:
    tiny.save_llama(Path("m"))
    base = ["estimate", "--data", "text.txt", "--quiet"]
    auto = ["--num-chains", "2", "--num-draws", "20", "--max-steps", "60", "--model", "m"]
    assert main([*base, *auto, "--output", "run"]) in (0, 3)
    check("run")
    tiny.save_llama(Path("other"), seed=2)
    assert main([*base, "--model", "other", "--like", "run", "--output", "two"]) in (0, 3)
    check("two")


@pytest.mark.slow
def test_a_checkpoint_of_a_curve() -> None:
    for step, seed in ((2, 1), (10, 2)):
        tiny.save_llama(Path(f"all/step{step}"), seed=seed)
    command = ["curve", "--checkpoints", "all", "--data", "text.txt", *FLAGS, "--output", "out", "--quiet"]
    assert main(command) in (0, 3)
    card = (Path("out/step2/card.md")).read_text(encoding="utf-8")
    words = command_on(card)
    assert words[words.index("--model") + 1] == "step2" and "`step2` and `text.txt` are local names" in card
    words[words.index("--model") + 1] = "all/step2"  # where it lies
    assert main([*words, "--output", "again", "--quiet"]) in (0, 3)
    assert LLCResult.load("again").llc_per_chain == LLCResult.load("out/step2").llc_per_chain


def test_a_model_of_the_hub_is_named_with_its_revision() -> None:
    from test_result import make_result

    model, data = {"id": "me/m", "revision": "abc"}, {"id": "me/d", "revision": "def", "num_examples": 9}
    section = render_section(make_result(model=model, data=data))
    words = command_on(section)
    for name, value in (("--model", "me/m"), ("--revision", "abc"), ("--data", "me/d"), ("--data-revision", "def")):
        assert words[words.index(name) + 1] == value
    assert "local name" not in section


@pytest.mark.slow
def test_what_no_command_line_can_name(tmp_path: Path) -> None:
    """A plain factory, a module in memory, and a model that a Trainer trains: the card invents no name for them."""
    files = series(tmp_path, (2, 10))
    command = ["curve", "--weight-files", *files, "--factory", "curve_factory:make", "--data", "data.jsonl", *FLAGS]
    assert main([*command, "--nbeta", "30", "--output", "out", "--quiet"]) in (0, 3)
    point = LLCResult.load("out/step2")
    cards = [render_section(point), render_section(point, repo_id="me/m")]
    settings: dict[str, Any] = {**QUICK, "nbeta": 30.0, "localization": 5.0}
    model = network()
    in_memory = LLCEvaluator(**settings).compute(model, data=examples(model), loss_fn=squared_error)
    cards += [render_section(in_memory), render_section(in_memory, repo_id="me/m")]
    trainer = train_worker.trainer(tmp_path, max_steps=2)
    train_worker.TEXTS.to_json("rows.jsonl")
    trained: Any = trainer.model
    trained.config._name_or_path = "me/pretrained"  # as from_pretrained sets it; trained on since
    callback = LLCCallback(trainer, every=2, data="rows.jsonl", **train_worker.SETTINGS)
    trainer.add_callback(callback)
    trainer.train()
    cards.append(render_section(callback.results[2]))
    for card in cards:
        assert OBJECTS in card and "```bash" not in card and "--model" not in card
