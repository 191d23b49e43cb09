"""The attention-only transformer, and the tiny one that comes with the package."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import hf_llc.models
from hf_llc.config import LoadConfig
from hf_llc.embedded import model_path, text_path
from hf_llc.loading.problem_loader import load_problem
from hf_llc.models import AttentionOnlyConfig, AttentionOnlyForCausalLM, from_transformer_lens, to_transformer_lens

PAPER_PARAMETERS = 3_355_016
MAX_BYTES = 1_500_000
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "max_position_embeddings": 12}


def tiny(**kwargs: Any) -> AttentionOnlyForCausalLM:
    """A model with random biases and norms too, so that no parameter can be mixed up or dropped unseen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AttentionOnlyForCausalLM(AttentionOnlyConfig(**{**SIZES, **kwargs})).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def tokens(batch: int = 3, length: int = 12) -> Tensor:
    return torch.randint(SIZES["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(1))


# Architecture


def test_paper_sizes_give_the_papers_parameter_count() -> None:
    with torch.device("meta"):
        model = AttentionOnlyForCausalLM(AttentionOnlyConfig())
    assert model.num_parameters() == PAPER_PARAMETERS


def test_no_position_sees_a_later_one() -> None:
    model, ids = tiny(), tokens()
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % SIZES["vocab_size"]
    torch.testing.assert_close(model(changed).logits[:, :6], model(ids).logits[:, :6])
    assert not torch.allclose(model(changed).logits[:, 6:], model(ids).logits[:, 6:])


def test_positions_are_read_by_queries_and_keys_only() -> None:
    model, ids = tiny(), tokens(length=1)
    before = model(ids).logits
    with torch.no_grad():
        model.position.weight += 1.0
    torch.testing.assert_close(model(ids).logits, before)  # one token attends to itself whatever its query says
    before = model(tokens()).logits
    with torch.no_grad():
        model.position.weight[3] += 1.0
    assert not torch.allclose(model(tokens()).logits, before)


def test_loss_is_the_mean_over_predicted_tokens_and_leaves_out_minus_100() -> None:
    model, ids = tiny(), tokens()
    labels = ids.clone()
    labels[0, 5:] = -100
    logits = model(ids).logits
    assert model(ids).loss is None
    kept = [(0, t) for t in range(4)] + [(row, t) for row in (1, 2) for t in range(11)]
    expected = -torch.stack([logits[row, t].log_softmax(-1)[ids[row, t + 1]] for row, t in kept]).mean()
    torch.testing.assert_close(model(ids, labels=labels).loss, expected)


def test_sdpa_and_eager_attention_agree() -> None:
    sdpa, eager = tiny(attn_implementation="sdpa"), tiny(attn_implementation="eager")
    assert (sdpa.config._attn_implementation, eager.config._attn_implementation) == ("sdpa", "eager")
    torch.testing.assert_close(sdpa(tokens()).logits, eager(tokens()).logits, atol=1e-5, rtol=1e-5)


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="13 tokens an example; the model has 12 positions"):
        tiny()(tokens(length=13))


def test_generates_past_its_context() -> None:
    """Greedily, each token from the twelve before it."""
    model = tiny()
    out = model.generate(tokens(1, 4), max_new_tokens=12, do_sample=False)
    assert out.shape == (1, 16) and torch.equal(out[:, :4], tokens(1, 4))
    for place in range(4, 16):
        logits = model(out[:, max(0, place - 12) : place]).logits
        assert out[0, place] == logits[0, -1].argmax(), place


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_vmap_over_parameters_equals_one_by_one(attention: str) -> None:
    models = [tiny(attn_implementation=attention) for _ in range(3)]
    with torch.no_grad():
        for i, model in enumerate(models):
            for parameter in model.parameters():
                parameter *= 1 + 0.1 * i
    stacked, _ = torch.func.stack_module_state(models)
    ids = torch.stack([tokens().roll(i, 0) for i in range(3)])

    def loss(parameters: dict[str, Tensor], batch: Tensor) -> Tensor:
        return torch.func.functional_call(models[0], parameters, (batch,), {"labels": batch}).loss

    with warnings.catch_warnings():
        if attention == "sdpa":  # torch has no batching rule for it yet: right, but no faster than one by one
            warnings.filterwarnings("ignore", "There is a performance drop")
        grads, losses = torch.vmap(torch.func.grad_and_value(loss))(stacked, ids)
    for i, model in enumerate(models):
        expected = model(ids[i], labels=ids[i]).loss
        torch.testing.assert_close(losses[i], expected)
        expected.backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(grads[name][i], parameter.grad, atol=1e-5, rtol=1e-4)


# Files and names


def test_saved_model_loads_by_auto_class_bit_for_bit(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is AttentionOnlyForCausalLM and not loaded.training
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    for (name, ours), (other, theirs) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert name == other and torch.equal(ours, theirs), name
    assert torch.equal(model(tokens()).logits, loaded(tokens()).logits)


def test_registering_twice_does_no_harm() -> None:
    importlib.reload(hf_llc.models)
    assert type(AutoConfig.for_model("attention_only")).__name__ == "AttentionOnlyConfig"


# TransformerLens


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # its import warns of its own deprecations
def test_transformer_lens_has_the_same_parameter_count_at_the_papers_sizes() -> None:
    hooked = _hooked(n_layers=2, d_model=256, d_head=32, n_heads=8, n_ctx=1024, d_vocab=5000)
    model = from_transformer_lens(hooked)
    assert sum(p.numel() for p in hooked.parameters()) == model.num_parameters() == PAPER_PARAMETERS
    ids = torch.randint(5000, (2, 100), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model(ids).logits, hooked(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_transformer_lens_round_trip_keeps_logits_and_weights() -> None:
    pytest.importorskip("transformer_lens")
    model = tiny(num_hidden_layers=3, head_dim=5, layer_norm_eps=1e-3)  # heads·head_dim ≠ hidden: no shape fits by luck
    hooked = to_transformer_lens(model)
    torch.testing.assert_close(hooked(tokens()), model(tokens()).logits, atol=1e-5, rtol=1e-5)
    back = from_transformer_lens(hooked)
    assert back.config.layer_norm_eps == 1e-3
    for (name, ours), theirs in zip(model.named_parameters(), back.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.filterwarnings("ignore")
def test_transformer_lens_model_of_another_architecture_is_refused() -> None:
    hooked = _hooked(n_layers=1, d_model=8, d_head=4, n_ctx=8, d_vocab=9, positional_embedding_type="standard")
    with pytest.raises(ValueError, match="'standard'"):
        from_transformer_lens(hooked)


def _hooked(**kwargs: Any) -> Any:
    lens = pytest.importorskip("transformer_lens")
    fixed = {"attn_only": True, "normalization_type": "LN", "positional_embedding_type": "shortformer", "seed": 0}
    cfg = lens.HookedTransformerConfig(**{**fixed, **kwargs})
    hooked = lens.HookedTransformer(cfg).eval()
    with torch.no_grad():  # biases start at zero, which would hide a bias forgotten
        for parameter in hooked.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    return hooked


# The embedded model and text


def test_embedded_files_are_small_and_safe() -> None:
    files = [p for p in model_path().rglob("*") if p.is_file()]
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= {
        p.name for p in files
    }
    assert {p.suffix for p in files} <= {".json", ".safetensors", ".md"}
    assert sum(p.stat().st_size for p in files) + text_path().stat().st_size < MAX_BYTES


def test_embedded_tokenizer_loses_nothing() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    for text in (text_path().read_text(encoding="utf-8"), " λ̂ ≈ 12\t\n\n  naïve 🙂 "):
        ids = tokenizer(text, verbose=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_embedded_model_has_the_losses_its_card_says() -> None:
    card = (model_path() / "README.md").read_text(encoding="utf-8")
    row = re.search(r"\| `text.txt` \| ([\d.]+) \| ([\d.]+) \|", card)
    assert row is not None, card
    problem = load_problem(None, None, LoadConfig())
    with torch.no_grad():
        parts = [
            problem.losses(problem.model, {k: v[i : i + 64] for k, v in problem.examples.items()})
            for i in range(0, problem.num_examples, 64)
        ]
    loss = float(torch.cat(parts).mean())
    assert loss == pytest.approx(float(row[1]), abs=1e-3)
    assert problem.trivial_loss == pytest.approx(float(row[2]), abs=1e-3)
    assert problem.trivial_loss is not None and loss < problem.trivial_loss - 1.5


@pytest.mark.slow
def test_embedded_model_loads_in_a_fresh_process_without_network() -> None:
    code = (
        "import hf_llc.models\n"
        "from hf_llc.embedded import model_path\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(model_path())\n"
        "ids = AutoTokenizer.from_pretrained(model_path())('Good morrow', return_tensors='pt')\n"
        "print(type(model).__name__, tuple(model(**ids).logits.shape)[-1] == model.config.vocab_size)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["AttentionOnlyForCausalLM", "True"], ran.stderr


@pytest.mark.slow
def test_training_script_makes_the_same_files_twice(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "scripts" / "train_embedded.py"
    small = ["--steps", "3", "--batch", "4", "--hidden", "8", "--heads", "2", "--context", "16", "--vocabulary", "270"]
    for name in ("first", "second"):
        run(script, "--text", str(text_path()), "--output", str(tmp_path / name), *small)
    files = sorted(p.relative_to(tmp_path / "first") for p in (tmp_path / "first").rglob("*") if p.is_file())
    assert Path("model/model.safetensors") in files and Path("text.txt") in files
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_rescaling_after_training_leaves_the_logits_alone() -> None:
    spec = importlib.util.spec_from_file_location(
        "train_embedded", Path(__file__).parents[1] / "scripts" / "train_embedded.py"
    )
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    model = tiny(layer_norm_eps=1e-12).double()
    before, old = model(tokens()).logits.detach(), [p.detach().clone() for p in model.parameters()]
    script.balance(model, tokens(64))
    torch.testing.assert_close(model(tokens()).logits, before, atol=1e-9, rtol=1e-9)
    assert sum(not torch.equal(p, q) for p, q in zip(model.parameters(), old, strict=True)) > 15
    assert float(model.embed.weight.detach().std()) == pytest.approx(1.0)
