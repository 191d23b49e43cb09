"""Weights that are not what they seem: refused in one line, or named in the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import nn

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.model_sources import skeleton
from hf_llc.loading.problem_loader import load_problem
from hf_llc.problem import Problem

X = torch.randn(4, 4)
TEXTS = Dataset.from_dict({"text": tiny.SENTENCES})


def loss_fn(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return ((outputs - labels) ** 2).sum(-1)


def module_refused(match: str, model: nn.Module) -> None:
    with pytest.raises(InputError, match=match) as refused:
        load_problem(model, (X, torch.zeros(4, 4)), LoadConfig(), loss_fn=loss_fn)
    assert len(str(refused.value).splitlines()) == 1


# Quantised models


@pytest.mark.filterwarnings("ignore")
def test_dynamic_int8() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    module_refused("quantised .0: Linear of torch", torch.ao.quantization.quantize_dynamic(model, {nn.Linear}))


class Int8Linear(nn.Module):
    """As libraries of quantised layers hold them: integers and a scale."""

    def __init__(self, name: str, values: torch.Tensor, *, as_buffer: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        if as_buffer:
            self.register_buffer(name, values)
        else:
            setattr(self, name, values)
        self.name = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ getattr(self, self.name).float() * self.scale


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("codes", torch.arange(-8, 8, dtype=torch.int8).view(4, 4)),
        ("qweight", torch.arange(16, dtype=torch.int32).view(4, 4)),
        ("codes", torch.arange(16, dtype=torch.uint8).view(4, 4)),
        ("weight_int", torch.arange(16).view(4, 4)),
        ("w", torch.ones(4, 4).to(torch.float8_e4m3fn)),
    ],
)
def test_weights_in_integers(name: str, values: torch.Tensor) -> None:
    for as_buffer in (True, False):
        module_refused(f"quantised .{name}: .*load it dequantised", Int8Linear(name, values, as_buffer=as_buffer))


class Wrapped(torch.Tensor):
    """A subclass with operations of its own, as torchao's."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


class Named(nn.Parameter):
    """A subclass that is a parameter like others."""


def test_tensor_subclasses() -> None:
    model = nn.Linear(4, 4)
    model.weight = nn.Parameter(torch.randn(4, 4).as_subclass(Wrapped))
    module_refused("quantised .weight: Wrapped, a tensor subclass", model)
    model.weight = Named(torch.randn(4, 4))
    load_problem(model, (X, torch.zeros(4, 4)), LoadConfig(), loss_fn=loss_fn)


@pytest.mark.parametrize("sign", ["is_quantized", "hf_quantizer", "quantization_config"])
def test_what_transformers_says_of_quantised_models(sign: str) -> None:
    model = tiny.llama()
    setattr(model.config if sign == "quantization_config" else model, sign, {"quant_method": "gptq"})
    with pytest.raises(InputError, match=f"quantised .{sign}.*load it dequantised"):
        load_problem(model, TEXTS, LoadConfig(max_length=8), tokenizer=tiny.tokenizer())


def test_buffers_that_are_no_weights_are_taken() -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("relative_position_index", torch.arange(16).view(4, 4))
    model.register_buffer("distance", torch.arange(-8, 8).view(4, 4))
    model.register_buffer("mask", torch.ones(4, 4, dtype=torch.uint8).tril())
    model.register_buffer("class_weight", torch.tensor([1, 2]))
    model.register_buffer("rotations", torch.ones(2, 2, dtype=torch.complex64))
    load_problem(model, (X, torch.zeros(4, 4)), LoadConfig(), loss_fn=loss_fn)


# Weights that cannot be sampled


def with_weight(weight: nn.Parameter) -> nn.Module:
    model = nn.Linear(4, 4)
    model.weight = weight
    return model


def made_under_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(4, 4)


def with_meta_buffer() -> nn.Module:
    model = nn.Linear(4, 4)
    model.register_buffer("b", torch.zeros(2, device="meta"))
    return model


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: nn.Embedding(4, 4, sparse=True), "sparse gradients, got 'Embedding"),
        (lambda: nn.Sequential(nn.EmbeddingBag(4, 4, sparse=True)), "sparse gradients, got '0: EmbeddingBag"),
        (lambda: with_weight(nn.Parameter(torch.eye(4).to_sparse())), "a weight is a sparse tensor, got 'weight"),
        (lambda: with_weight(nn.Parameter(torch.eye(4, dtype=torch.complex64))), "a weight is complex.*'weight"),
        (lambda: nn.Linear(4, 4, device="meta"), "device meta.*'weight'"),
        (with_meta_buffer, "device meta.*'b'"),
        (lambda: nn.LazyLinear(4), "a lazy module.*'weight'"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.LazyBatchNorm1d()), "a lazy module.*'1.weight'"),
        (made_under_inference_mode, "torch.inference_mode.*'weight'"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning", "ignore:Sparse")
def test_weights_that_cannot_be_sampled(make: Callable[[], nn.Module], match: str) -> None:
    module_refused(match, make())


# Checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("weights") / "llama")


class Checkpoint:
    """A copy of the checkpoint whose files can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def config(self, **changes: Any) -> Checkpoint:
        file = self.path / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return self

    def tensors(self, change: Callable[[dict[str, torch.Tensor]], object]) -> Checkpoint:
        tensors = load_file(self.path / "model.safetensors")
        change(tensors)
        save_file(tensors, self.path / "model.safetensors", metadata={"format": "pt"})
        return self

    def load(self) -> Problem:
        return load_problem(str(self.path), TEXTS, LoadConfig(max_length=8))

    def refused(self, match: str) -> None:
        with pytest.raises(InputError, match=match) as refused:
            self.load()
        assert str(self.path.parent) not in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Checkpoint:
    return Checkpoint(Path(shutil.copytree(folder, tmp_path / "copy")))


def test_a_sound_checkpoint_has_nothing_unused(copy: Checkpoint) -> None:
    assert copy.load().provenance["model"]["unused_weights"] is None


def test_fewer_layers_than_the_file(copy: Checkpoint) -> None:
    copy.config(num_hidden_layers=1).refused(r"the model does not use \(9\): model.layers.1.input_layernorm.weight")


@pytest.mark.parametrize("part", ["q_proj.bias", "q_norm.weight"])
def test_parts_of_a_layer_that_the_config_leaves_out(copy: Checkpoint, part: str) -> None:
    name = f"model.layers.0.self_attn.{part}"
    copy.tensors(lambda tensors: tensors.update({name: torch.ones(16)})).refused(f"does not use .1.: {name}")


def test_another_head_is_named_and_the_harmless_are_not(copy: Checkpoint) -> None:
    more = {
        "v_head.summary.weight": torch.ones(1, 16),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.pooler.dense.weight": torch.ones(16, 16),
        "model.embeddings.position_ids": torch.arange(8),
    }
    copy.tensors(lambda tensors: tensors.update(more))
    assert copy.load().provenance["model"]["unused_weights"] == "v_head.summary.weight"


def test_missing_weights_are_named(copy: Checkpoint) -> None:
    copy.tensors(lambda tensors: tensors.pop("lm_head.weight")).refused(
        r"missing in the checkpoint \(1\): lm_head.weight.*should config.json say tie_word_embeddings"
    )


def test_ties_that_the_file_contradicts(copy: Checkpoint) -> None:
    copy.config(tie_word_embeddings=True).refused("config.json ties weights .* two that differ: lm_head.weight")


def test_a_tied_checkpoint_that_holds_both_is_taken(copy: Checkpoint) -> None:
    copy.config(tie_word_embeddings=True)
    copy.tensors(lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    assert copy.load().provenance["model"]["unused_weights"] is None


def test_equal_embeddings_that_the_config_does_not_tie_are_named(copy: Checkpoint) -> None:
    """They were trained as one tensor, most likely; the config makes two of them, and λ̂ counts both."""
    assert copy.load().provenance["model"]["untied_weights"] is None
    copy.tensors(lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    assert copy.load().provenance["model"]["untied_weights"] == "model.embed_tokens.weight and lm_head.weight"
    copy.config(tie_word_embeddings=True)
    assert copy.load().provenance["model"]["untied_weights"] is None


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int64])
def test_weights_that_are_stored_as_codes(copy: Checkpoint, dtype: torch.dtype) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    copy.tensors(lambda tensors: tensors.update({name: tensors[name].mul(8).to(dtype)}))
    copy.refused(f"not in floating point.*{name}.*load it dequantised")


def test_shapes_other_than_the_configs_are_named(copy: Checkpoint) -> None:
    copy.config(vocab_size=300).refused(
        r"other shapes .* \(2\): lm_head.weight is \(320, 16\), the model's is \(300, 16\)"
    )


def test_quantized_checkpoints(copy: Checkpoint) -> None:
    copy.config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    copy.refused(r"quantised \(quantization_config \(bitsandbytes\)\).*load it dequantised")
    with pytest.raises(InputError, match="load it dequantised"):
        skeleton(LoadConfig(model=str(copy.path)))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_without_its_config(copy: Checkpoint, name: str) -> None:
    (copy.path / name).write_bytes(b"x")
    copy.refused(f"holds an adapter .{name}.")


@pytest.mark.parametrize("whole", [True, False])
def test_adapters(copy: Checkpoint, whole: bool) -> None:
    (copy.path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "me/base"}')
    save_file({"a": torch.ones(1)}, copy.path / "adapter_model.safetensors")
    if not whole:
        (copy.path / "config.json").unlink()
        (copy.path / "model.safetensors").unlink()
    copy.refused("holds an adapter .*merge it into its base model")


# Files that are missing, or named otherwise


def shards(path: Path) -> list[Path]:
    """The checkpoint again, in several files."""
    model = tiny.llama()
    (path / "model.safetensors").unlink()
    model.save_pretrained(path, max_shard_size="10KB")
    return sorted(path.glob("model-*.safetensors"))


def test_shards_are_taken_and_one_that_is_missing_is_named(copy: Checkpoint) -> None:
    whole = copy.load().provenance["model"]["fingerprint"]
    files = shards(copy.path)
    assert len(files) > 1 and copy.load().provenance["model"]["fingerprint"] == whole
    files[1].unlink()
    copy.refused(f"files of weights are missing .1.: {files[1].name}")


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_shards_without_a_sound_index(copy: Checkpoint, text: str | None) -> None:
    shards(copy.path)
    index = copy.path / "model.safetensors.index.json"
    if text is None:
        index.unlink()
        copy.refused("the file that lists them is missing.*add model.safetensors.index.json")
    else:
        index.write_text(text)
        copy.refused("model.safetensors.index.json is damaged")


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "weights.safetensors"])
def test_weights_under_another_name(copy: Checkpoint, name: str) -> None:
    (copy.path / "model.safetensors").rename(copy.path / name)
    copy.refused(f"a name that hf_llc does not look for: {name}.*allowed: model.safetensors")


def test_long_values_are_cut() -> None:
    assert str(InputError("bad", value="x" * 200)).count("x") == 199
    assert str(InputError("bad", value=[0] * 10_000)).endswith("… (30,000 characters)")
    assert len(str(InputError("bad", value=[0] * 10_000))) < 250
