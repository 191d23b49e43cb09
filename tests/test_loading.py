"""What a user may call a model, where it is said to come from, and every refusal in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from datasets import Dataset, Features, Image, Value
from torch.nn import functional as F

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.checkpoint import untied_weights
from hf_llc.loading.hub_errors import data_refusal, model_refusal
from hf_llc.loading.names import public_name
from hf_llc.loading.problem_loader import load_problem

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
    return tiny.save_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


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


def test_a_result_says_how_a_model_by_name_was_loaded_unless_as_usual(folder: Path) -> None:
    names = ("attn_implementation", "trust_remote_code", "allow_pickle")
    usual = load_problem(folder, TEXTS, LoadConfig(max_length=8)).provenance["model"]
    config = LoadConfig(max_length=8, attn_implementation="eager", trust_remote_code=True)
    asked = load_problem(folder, TEXTS, config).provenance["model"]
    assert not [name for name in names if name in usual]
    assert [asked.get(name) for name in names] == ["eager", True, None]


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
    expected = load_problem(model, TEXTS, LoadConfig(max_length=8), tokenizer=tiny.tokenizer()).examples["input_ids"]
    found = load_problem(model, TEXTS, LoadConfig(max_length=8))
    assert torch.equal(found.examples["input_ids"], expected)
    found = load_problem(tiny.llama(), TEXTS, LoadConfig(max_length=8, tokenizer=str(folder)))
    assert torch.equal(found.examples["input_ids"], expected)


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
    joined: list[int] = []  # its tokenizer puts [BOS] before a text, which then parts documents
    for text in tiny.SENTENCES:
        joined += [*([1] if joined else []), *tiny.tokenizer()(text)["input_ids"]]
    found = load_problem(problem.model, TEXTS, LoadConfig(max_length=8)).examples["input_ids"]
    assert found.flatten().tolist() == joined[: len(joined) // 8 * 8]


def test_embedded_model_and_text_need_no_arguments() -> None:
    from hf_llc.embedded import model_path

    if not (model_path() / "model.safetensors").exists():
        pytest.skip("the embedded model is not built")
    problem = load_problem(None, None, LoadConfig(max_examples=4))
    assert problem.provenance["model"]["id"] == "hf_llc/embedded" and problem.num_examples == 4
    refused("no data given", tiny.llama(), None)


# Refusals


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
    refused("needs its own Python code, which hf_llc does not run.*--trust-remote-code", path, TEXTS)


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


def test_types_that_no_class_of_the_task_takes(tmp_path: Path) -> None:
    # their classes end in the names of tasks on text
    for settings, name in (
        (transformers.WhisperConfig(), "WhisperForConditionalGeneration"),
        (transformers.Wav2Vec2Config(), "Wav2Vec2ForSequenceClassification"),
        (transformers.LlavaConfig(), "LlavaForConditionalGeneration"),
    ):
        settings.architectures = [name]
        settings.save_pretrained(tmp_path / name)
        (tmp_path / name / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
        refused(f"models of this type are not for text.*, got '{name}'.*loss_fn", tmp_path / name, TEXTS)


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


def test_nothing_is_said_while_loading(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_problem(folder, Dataset.from_dict({"text": [" ".join(tiny.SENTENCES)] * 9}), LoadConfig(max_length=64))
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def test_a_model_without_input_embeddings_has_none_that_are_untied() -> None:
    """The base class of transformers says so of a ResNet by an error."""
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    assert untied_weights(transformers.ResNetForImageClassification(config)) is None
