"""The models of limits.py, of five families: made, and trained for a few steps if that is asked for."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HF_LLC_DATA", ROOT.parent / "shared" / "data"))

PLAIN = ("mlp-1k", "mlp", "cnn")
NAMES = ("embedded", *PLAIN, "resnet", "bert", "gpt2-1m", "gpt2-12m", "stories", "smol")
"""In the order of their parameters, roughly; from 10³ to 1.3·10⁸."""


def make_language_model(folder: Path, config: Any, data: Path) -> list[str]:
    """A random model of this config with the embedded tokenizer; the arguments of its run."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hf_llc.embedded import model_path

    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_path()).save_pretrained(folder)
    return ["--model", str(folder), "--data", str(data)]


def text_file(folder: Path) -> Path:
    """The embedded text, sixteen times."""
    from hf_llc.embedded import text_path

    path = folder / "text.txt"
    path.write_text(text_path().read_text(encoding="utf-8") * 16, encoding="utf-8")
    return path


def gpt2(width: int, layers: int, vocabulary: int) -> Callable[[Path], list[str]]:
    """A GPT-2-type language model."""

    def make(folder: Path) -> list[str]:
        from transformers import GPT2Config

        heads = max(width // 64, 1)
        config = GPT2Config(vocab_size=vocabulary, n_positions=256, n_embd=width, n_layer=layers, n_head=heads)
        return make_language_model(folder / "model", config, text_file(folder))

    return make


def smol(folder: Path) -> list[str]:
    """SmolLM2-135M's config."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    return [*make_language_model(folder / "model", config, text_file(folder)), "--max-length", "512"]


def bert(folder: Path) -> list[str]:
    """A classifier of MiniLM's size: does a piece of the embedded text say "I"?"""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from hf_llc.embedded import model_path, text_path

    tokenizer = AutoTokenizer.from_pretrained(model_path())
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, pad_token_id=0
    )
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(folder / "model")
    text = 4 * text_path().read_text(encoding="utf-8")
    pieces = [text[i : i + 150] for i in range(0, len(text), 150)]
    rows = [{"text": piece, "label": int(" I " in piece)} for piece in pieces]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return ["--model", str(folder / "model"), "--data", str(folder / "data.jsonl"), "--task", "text-classification"]


def resnet(folder: Path) -> list[str]:
    """A network of ResNet-20's depths and widths on 2,000 pictures of CIFAR-10's shape."""
    import numpy as np
    from datasets import Dataset, Features, Image, Value
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64], depths=[3, 3, 3], layer_type="basic")
    config.num_labels = 10
    ResNetForImageClassification(config).save_pretrained(folder / "model")
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0).save_pretrained(folder / "model")
    labels = [i % 10 for i in range(2000)]
    pictures = np.random.default_rng(0).integers(0, 128, (2000, 32, 32, 3), dtype=np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[3 * label :, :, label % 3] += 64  # what there is to learn
    rows = {"image": list(pictures), "label": labels}
    data = Dataset.from_dict(rows, features=Features({"image": Image(), "label": Value("int64")}))
    data.to_parquet(folder / "data.parquet")
    return ["--model", str(folder / "model"), "--data", str(folder / "data.parquet")]


def stories(folder: Path) -> list[str]:
    """The real model, on the text that it was trained to tell."""
    data = DATA / "tinystories_val" / "tinystories_val.txt"
    return ["--model", str(DATA / "stories260K"), "--data", str(data)]


def digits() -> tuple[Any, Any]:
    """4,000 pictures of ten classes, float32 `[4000, 1, 28, 28]`: a dark square on noise, whose place is the class."""
    import torch

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4000, 1, 28, 28, generator=generator)
    labels = torch.randint(10, (4000,), generator=generator)
    for picture, label in zip(inputs, labels.tolist(), strict=True):
        picture[0, 4 * (label // 4) : 4 * (label // 4) + 8, 6 * (label % 4) : 6 * (label % 4) + 8] -= 1
    return inputs, labels


def network(name: str) -> Any:
    """The plain module of this name, with random weights."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    if name == "cnn":
        layers: list[nn.Module] = []
        for a, b in ((1, 32), (32, 64)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10))
    width = 100 if name == "mlp" else 1
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))


def loss_of_classes(out: Any, labels: Any) -> Any:
    """Cross entropy, nats, `[batch]`."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(out, labels, reduction="none")


FOLDERS: dict[str, Callable[[Path], list[str]]] = {
    "resnet": resnet,
    "bert": bert,
    "gpt2-1m": gpt2(128, 4, 2000),
    "gpt2-12m": gpt2(256, 6, 30_000),
    "stories": stories,
    "smol": smol,
}


def made(name: str, folder: Path, steps: int) -> list[str]:
    """A model in a folder, and the arguments of its run; of a plain module its name and the file of its weights."""
    import torch

    if name in PLAIN:
        module, (inputs, labels) = network(name), digits()
        trained(module, lambda batch: loss_of_classes(module(inputs[batch]), labels[batch]), len(labels), steps)
        torch.save(module.state_dict(), folder / "weights.pt")
        return [name, str(folder / "weights.pt")]
    arguments = FOLDERS[name](folder)
    if steps and name != "stories":
        train_folder(arguments, steps)
    return arguments


def train_folder(arguments: list[str], steps: int) -> None:
    """Train the model of a folder on the data that it will be measured on, as hf_llc reads them."""
    from hf_llc.config import LoadConfig
    from hf_llc.loading.problem_loader import load_problem

    given: dict[str, Any] = {
        key.removeprefix("--").replace("-", "_"): x for key, x in zip(*[iter(arguments)] * 2, strict=True)
    }
    if "max_length" in given:
        given["max_length"] = int(given["max_length"])
    problem = load_problem(given["model"], given["data"], LoadConfig(**given))
    model: Any = problem.model

    def losses(batch: Any) -> Any:
        return problem.losses(model, {name: x[batch] for name, x in problem.examples.items()})

    trained(model, losses, problem.num_examples, steps)
    model.save_pretrained(given["model"])


def trained(module: Any, losses: Callable[[Any], Any], num_examples: int, steps: int) -> None:
    """Take so many steps of Adam in batches of 32; `losses` takes the numbers of examples."""
    import torch

    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        losses(torch.randint(num_examples, (32,))).mean().backward()
        optimizer.step()


def plain(name: str, weights: str, settings: dict[str, Any], output: str) -> int:
    """Measure a plain module in this process; return the exit code that the command would.

    What `max_seconds` bounds is the call of `compute`, whose time is printed.
    """
    import torch

    from hf_llc import LLCEvaluator
    from hf_llc.errors import InputError

    module, (inputs, labels) = network(name), digits()
    module.load_state_dict(torch.load(weights, weights_only=True))
    begun = time.monotonic()
    try:
        result = LLCEvaluator(**settings).compute(
            module, data={"inputs": inputs, "labels": labels}, loss_fn=loss_of_classes, output=output
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{result}\ncompute took {time.monotonic() - begun:.1f} s")
    return 0 if result.is_trustworthy else 3
