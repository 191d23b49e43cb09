"""scripts/pile_attention_only.py: the paper's sizes, its text, its training, what it claims, and a whole small run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import run
from hub import Hub
from hub.client import Done
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_llc.embedded import model_path, text_path
from hf_llc.errors import InputError
from hf_llc.models import AttentionOnlyConfig, AttentionOnlyForCausalLM, cut_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import pile_training
from pile_attention_only import PRESETS, Settings, claim, draw
from pile_figure import spread
from pile_training import make_model, train, windows

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "pile_attention_only.py"
SMOKE: Settings = PRESETS["smoke"]


# Tokenizer and text


def test_cut_tokenizer_keeps_the_first_tokens_and_writes_any_text() -> None:
    whole = AutoTokenizer.from_pretrained(model_path())
    cut = cut_tokenizer(whole, 280)
    text = text_path().read_text(encoding="utf-8")[:5000] + " λ̂ 🙂"
    ids = cut(text, verbose=False)["input_ids"]
    assert len(cut) == 280 and max(ids) == 279 and min(ids) >= 0
    assert cut.decode(ids) == text
    assert all(cut.convert_ids_to_tokens(i) == whole.convert_ids_to_tokens(i) for i in range(280))


def test_words_of_kept_tokens_are_written_as_before() -> None:
    whole = AutoTokenizer.from_pretrained(model_path())
    cut, kept = cut_tokenizer(whole, 280), 0
    for word in text_path().read_text(encoding="utf-8").split()[:3000]:
        ids = whole(word, verbose=False)["input_ids"]
        if max(ids) < 280:
            kept += 1
            assert cut(word, verbose=False)["input_ids"] == ids, word
    assert kept > 500


@pytest.mark.parametrize("size", [255, 321])
def test_tokenizers_are_not_cut_to_nothing_or_beyond_their_size(size: int) -> None:
    with pytest.raises(ValueError, match=f"cannot be cut to {size}"):
        cut_tokenizer(AutoTokenizer.from_pretrained(model_path()), size)


@pytest.mark.slow
def test_gpt2_tokenizer_cut_as_in_the_paper(data_folder: Callable[[str], Path]) -> None:
    cut = cut_tokenizer(AutoTokenizer.from_pretrained(data_folder("gpt2_tokenizer")), 5000)
    assert len(cut) == 5000
    assert cut.convert_ids_to_tokens([255, 262, 4999]) == ["Ń", "Ġthe", "Ġconfirmed"]
    assert cut("The antidisestablishmentarian")["input_ids"][0] == 464


def _documents(folder: Path, count: int) -> str:
    """A data set whose documents are each one letter, over and over: a window tells where it comes from."""
    folder.mkdir()
    rows = [{"text": chr(0x4E00 + i) * 40} for i in range(count)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(folder)


def test_held_out_documents_are_not_trained_on(tmp_path: Path) -> None:
    settings = replace(SMOKE, data=_documents(tmp_path / "data", 100), train_windows=1000, context=12)
    tokenizer = cut_tokenizer(AutoTokenizer.from_pretrained(model_path()), 256)
    windows(settings, tokenizer, tmp_path)
    parts = [np.load(tmp_path / f"{name}.npy") for name in ("train", "validation")]
    letters = [set(tokenizer.decode(part.flatten())) - {"\ufffd"} for part in parts]
    assert (len(letters[0]), len(letters[1])) == (95, 5)
    assert letters[0].isdisjoint(letters[1])
    assert [part.shape for part in parts] == [(950, 12), (50, 12)]


# Training


def test_paper_preset_has_the_papers_parameter_count_and_transformer_lens_initial_weights() -> None:
    model = make_model(PRESETS["paper"], seed=0)
    assert model.num_parameters() == 3_355_016
    assert float(model.unembed.weight.detach().std()) == pytest.approx(0.05, rel=0.01)


@pytest.fixture
def text(tmp_path: Path) -> tuple[Any, Path]:
    """The smoke preset's tokenizer and a folder with its windows."""
    tokenizer = cut_tokenizer(AutoTokenizer.from_pretrained(model_path()), SMOKE.vocab_size)
    windows(SMOKE, tokenizer, tmp_path)
    return tokenizer, tmp_path


@pytest.mark.slow
def test_training_lowers_the_loss_and_leaves_models_that_transformers_loads(text: tuple[Any, Path]) -> None:
    settings = replace(SMOKE, steps=60, learning_rate=1e-2)
    found = train(settings, 0, *text)
    assert found["curve"][0][0] == 1 and found["curve"][-1] == [60, found["loss"]]
    assert found["loss"] < found["curve"][0][1] - 1
    folder = text[1] / "models" / "seed-0"
    assert {path.name for path in folder.iterdir()} == {"step-0", "step-10", "step-60"}
    first, final = (AutoModelForCausalLM.from_pretrained(folder / f"step-{step}") for step in (0, 60))
    fresh = make_model(settings, seed=0)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), fresh.parameters(), strict=True))
    assert type(final) is AttentionOnlyForCausalLM
    assert len(AutoTokenizer.from_pretrained(folder / "step-60")) == 300


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(text: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    train(SMOKE, 1, *text)
    final = text[1] / "models" / "seed-1" / "step-20"
    whole = AutoModelForCausalLM.from_pretrained(final).state_dict()
    (final / "model.safetensors").unlink()
    monkeypatch.setattr(pile_training, "SAVE_SECONDS", 0)
    forward, calls = AttentionOnlyForCausalLM.forward, []

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 14:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(AttentionOnlyForCausalLM, "forward", killed)
    with pytest.raises(KeyboardInterrupt):
        train(SMOKE, 1, *text)
    train(SMOKE, 1, *text)
    assert len(calls) == 14 + 20 - 13
    again = AutoModelForCausalLM.from_pretrained(final).state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.slow
def test_training_without_its_weight_decay_ends_elsewhere(text: tuple[Any, Path]) -> None:
    ends = []
    for decay in (0.05, 0.0):
        train(replace(SMOKE, weight_decay=decay), 1, *text)
        ends.append(AutoModelForCausalLM.from_pretrained(text[1] / "models" / "seed-1" / "step-20"))
    first, other = (float(model.embed.weight.detach().norm()) for model in ends)
    assert first == pytest.approx(other * (1 - 0.05e-3) ** 20, rel=2e-4)
    assert first < other


def test_a_diverged_training_is_said_to_be_one(text: tuple[Any, Path]) -> None:
    with pytest.raises(InputError, match="training of seed 1 diverged by step"):
        train(replace(SMOKE, learning_rate=1e20), 1, *text)


# The claim


@pytest.mark.slow
def test_interval_of_the_spread_covers_the_truth_19_times_in_20() -> None:
    draw_from = np.random.default_rng(0)
    runs, truth = 2000, 0.05
    found = [spread(draw_from.normal(100, 100 * truth, 5)) for _ in range(runs)]
    covered = np.mean([low < truth < high for _, low, high in found])
    assert abs(covered - 0.95) < 3 * np.sqrt(0.95 * 0.05 / runs)  # false alarm in 1 of 400 seeds


def _rows(paper: Sequence[float | None], ours: Sequence[float | None]) -> list[dict[str, Any]]:
    values = {"init_loss": 3.0, "mean_loss": 6.0, "trivial_loss": 5.0, "verdict": "trustworthy", "stage": "llc"}
    return [
        {**values, "settings": way, "seed": seed, "step": 9, "llc": llc}
        for way, found in (("paper", paper), ("ours", ours))
        for seed, llc in enumerate(found)
    ]


def test_claim_says_what_the_numbers_say() -> None:
    close, wide = [100.0, 101.0, 99.0, 100.0], [100.0, 180.0, 20.0, 100.0, 60.0, 140.0]
    said = claim(_rows(close, wide))
    assert "the paper's settings seen (4 of 4 seeds, λ̂ = 100, standard deviation over seeds 0.8% of it" in said
    assert "hf_llc's settings not seen (6 of 6 seeds" in said
    assert "verdicts: 4 trustworthy; the chains' mean loss is 6, 3 at w*, 5 of a constant predictor" in said
    said = claim(_rows([100.0, 104.0, 97.0], [100.0, None, 99.0]))
    assert "the paper's settings cannot tell (3 of 3 seeds" in said
    assert "hf_llc's settings cannot tell from 2 of 3 seeds" in said
    lost = [{**row, "mean_loss": None, "verdict": "diverged"} for row in _rows([None] * 3, close)]
    assert "cannot tell from 0 of 3 seeds; verdicts: 3 diverged; the chains' mean loss is not finite, 3 at" in claim(
        lost
    )


def test_claim_of_a_single_model_says_what_it_is() -> None:
    rows = [{**row, "seed": None, "model": "attn-only-2l"} for row in _rows([44.0], [567.0])]
    said = claim(rows)
    assert said.startswith("attn-only-2l: λ̂ = 44 with the paper's settings (trustworthy; the chains' mean loss is 6,")
    assert "567 with hf_llc's settings" in said


# Whole runs


def _run(output: Path, *more: str, processes: int = 1) -> list[str]:
    return run(SCRIPT, "--preset", "smoke", "--output", str(output), *more, processes=processes)


def _found(output: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in (output / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    return {f"{row['stage']} {row.get('model', row['seed'])} {row.get('settings')}": row for row in rows}


@pytest.mark.slow
def test_two_processes_share_the_work_and_find_what_one_finds(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    [said] = _run(one, "--curve")
    assert "Figure L.1" in said
    assert {"figure.png", "figure.csv", "claim.txt", "rows.jsonl"} <= {path.name for path in one.iterdir()}
    rows = _found(one)
    assert len(rows) == 2 + 4 + 2
    assert rows["llc seed-0/step-10 paper"]["init_loss"] > rows["llc seed-0/step-20 paper"]["init_loss"]
    first, second = _run(two, "--curve", processes=2)
    assert "stage train, seed 0" in first and "stage train, seed 1" in second
    same = [name for name in rows["llc seed-0/step-20 ours"] if name not in ("seconds",)]
    for key, row in _found(two).items():
        assert {k: row.get(k) for k in same} == {k: rows[key].get(k) for k in same}, key
    trace = Path("estimates") / "seed-1-step-20-ours" / "trace.safetensors"
    assert (one / trace).read_bytes() == (two / trace).read_bytes()
    before = (one / "rows.jsonl").read_bytes()
    assert "Figure L.1" in _run(one, "--curve", "--plot-only")[0]
    assert (one / "rows.jsonl").read_bytes() == before


def _put_lens_model(hub: Hub, tmp_path: Path, weights: Any) -> None:
    """A small model where TransformerLens looks for attn-only-2l, in the format that it has there."""
    sizes = {"d_model": 16, "n_layers": 2, "d_mlp": 64, "d_head": 8, "n_heads": 2, "n_ctx": 16, "d_vocab": 320}
    rest = {"act_fn": "solu", "attn_only": True, "normalization": "LN", "shortformer_pos": True}
    torch.save(weights, tmp_path / "model_final.pth")
    files = {
        "config.json": json.dumps({**sizes, **rest, "tokenizer_name": "org/tokenizer"}),
        "model_final.pth": (tmp_path / "model_final.pth").read_bytes(),
    }
    hub.put("NeelNanda/Attn_Only_2L512W_C4_Code", files)
    hub.put("org/tokenizer", {p.name: p.read_bytes() for p in model_path().glob("tokenizer*")})


def _lens_run(hub: Hub, output: Path) -> Done:
    """The script on attn-only-2l, by somebody without a token."""
    argv = [str(SCRIPT), "--preset", "smoke", "--model", "attn-only-2l", "--output", str(output)]
    code = f"import runpy, sys; sys.argv = {argv}; sys.path.insert(0, {str(SCRIPT.parent)!r})"
    return hub.fork("-c", f"{code}; runpy.run_path(sys.argv[0], run_name='__main__')", user=None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TransformerLens warns of its own deprecations
def test_transformer_lens_model_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    from hf_llc.models import to_transformer_lens

    config = AttentionOnlyConfig(
        vocab_size=320, hidden_size=16, num_attention_heads=2, head_dim=8, max_position_embeddings=16
    )
    torch.manual_seed(0)
    _put_lens_model(hub, tmp_path, to_transformer_lens(AttentionOnlyForCausalLM(config)).state_dict())
    output = tmp_path / "out"
    done = _lens_run(hub, output)
    assert done.code == 0, done.err[-3000:]
    rows = _found(output / "attn-only-2l")
    assert set(rows) == {"llc attn-only-2l paper", "llc attn-only-2l ours"}
    assert all(row["num_parameters"] == 13_088 and row["llc"] is not None for row in rows.values())
    assert rows["llc attn-only-2l paper"]["init_loss"] == pytest.approx(np.log(320), abs=0.1)  # untrained


class _Code:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.slow
def test_code_in_weights_of_the_hub_does_not_run(hub: Hub, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    _put_lens_model(hub, tmp_path, _Code(marker))
    done = _lens_run(hub, tmp_path / "out")
    assert done.code != 0 and "Weights only load failed" in done.err
    assert not marker.exists()


def test_figure_of_diverged_estimates_is_drawn() -> None:
    numbers = {"nbeta": 21.7, "localization": 100.0, "step_size": 1e-3, "llc_se": None, "model": "m"}
    rows = [{**row, **numbers, "llc_per_chain": [None, row["llc"]]} for row in _rows([None, 3.0], [None, None])]
    rows[0]["verdict"] = "diverged"
    paper, ours = draw(rows).axes
    assert [each.lines[0].get_xydata().tolist() for each in paper.containers] == [[[1, 3.0]]]
    chains = [line.get_xydata().tolist() for line in paper.lines if line.get_marker() == "_"]
    assert chains == [[], [[1, 3.0]]] and not ours.containers
    assert paper.get_title() == ("the paper's settings: diverged, trustworthy\nnβ 21.7   γ 100   ε 0.001")
