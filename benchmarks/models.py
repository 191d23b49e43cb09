"""The four models of the step and memory benchmarks, each with a batch of data and its per-example loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_llc.problem import Problem


@dataclass
class Case:
    """One model on made-up data: `batch_size` examples a step out of `problem.num_examples`."""

    name: str
    problem: Problem
    batch_size: int
    is_language_model: bool

    @property
    def num_parameters(self) -> int:
        """Parameters of the model."""
        return sum(p.numel() for p in self.problem.model.parameters())


def canonical_estimator() -> Any:
    """canonical-interp's LLCEstimator.

    Raises:
        ImportError: the package is not installed.
    """
    if not hasattr(itertools, "batched"):  # Python 3.11 lacks what the package imports

        def batched(items: Any, size: int) -> Iterator[tuple[Any, ...]]:
            feed = iter(items)
            while part := tuple(itertools.islice(feed, size)):
                yield part

        itertools.batched = batched  # type: ignore[attr-defined]
    from canonical_interp.slt import LLCEstimator

    return LLCEstimator


def _token_losses(forward: Callable[..., Any], batch: Any) -> Tensor:
    ids = batch["input_ids"]
    out = forward(input_ids=ids, use_cache=False)
    logits = out.logits.float()[..., :-1, :]
    losses = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[..., 1:].reshape(-1), reduction="none")
    return losses.view(ids.shape[0], -1).mean(1)


def _squared_losses(forward: Callable[..., Any], batch: Any) -> Tensor:
    return ((forward(batch["inputs"]) - batch["labels"]) ** 2).sum(-1)


def _language_model(name: str, model: nn.Module, vocabulary: int, batch_size: int, length: int) -> Case:
    ids = torch.randint(vocabulary, (4 * batch_size, length), generator=torch.Generator().manual_seed(0))
    problem = Problem(model, {"input_ids": ids}, _token_losses, n=ids.numel(), unit="nats per token")
    return Case(name, problem, batch_size, True)


def _regression(name: str, model: nn.Module, inputs: int, outputs: int, batch_size: int) -> Case:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10 * batch_size, inputs, generator=generator)
    y = torch.randn(10 * batch_size, outputs, generator=generator)
    problem = Problem(model, {"inputs": x, "labels": y}, _squared_losses, n=len(x), unit="nats per example")
    return Case(name, problem, batch_size, False)


def cases(names: list[str], device: str = "cpu") -> list[Case]:
    """The cases called `names` (relu, linear, gpt2, attention-only), models and data on a device."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from hf_llc.models import AttentionOnlyConfig, AttentionOnlyForCausalLM

    def relu() -> Case:
        layers = [nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10)]
        return _regression("10-20-20-10 ReLU, batch 32", nn.Sequential(*layers), 10, 10, 32)

    def linear() -> Case:
        layers = [nn.Linear(100, 100, bias=False) for _ in range(5)]
        return _regression("5×100 linear, batch 500", nn.Sequential(*layers), 100, 100, 500)

    def gpt2() -> Case:
        config = GPT2Config(vocab_size=2000, n_positions=128, n_embd=128, n_layer=4, n_head=4)
        return _language_model("GPT-2-type LM, 8×128 tokens", GPT2LMHeadModel(config), 2000, 8, 128)

    def attention_only() -> Case:
        config = AttentionOnlyConfig(
            vocab_size=5000,
            hidden_size=256,
            num_hidden_layers=2,
            num_attention_heads=8,
            head_dim=32,
            max_position_embeddings=1024,
        )
        return _language_model("attention-only, 8×256 tokens", AttentionOnlyForCausalLM(config), 5000, 8, 256)

    makers = {"relu": relu, "linear": linear, "gpt2": gpt2, "attention-only": attention_only}
    torch.manual_seed(0)
    made = [makers[name]() for name in names]
    for case in made:
        case.problem.model.to(device).eval()
        for name, x in case.problem.examples.items():
            case.problem.examples[name] = x.to(device)
    return made
