"""Trials of large models on a CPU are short; those of small ones are as they were."""

from __future__ import annotations

import torch
from torch import nn

from hf_llc.loading.probe import _Probe
from hf_llc.loading.short_examples import is_costly, shortened
from hf_llc.loading.tasks.task import Encoded


def test_the_first_tokens_of_packed_text_alone() -> None:
    ids = torch.arange(600).view(2, 300)
    assert [x.shape for x in shortened({"input_ids": ids, "labels": ids}).values()] == [(2, 64), (2, 64)]
    for others in ({"attention_mask": ids}, {"labels": ids[:, :5]}, {"labels": ids[:, 0]}):
        assert shortened({"input_ids": ids, **others})["input_ids"] is ids


def test_what_is_costly_is_a_product_of_tokens_and_weights() -> None:
    ids = torch.zeros(2, 1000, dtype=torch.int64)
    with torch.device("meta"):
        large = nn.Linear(10_000, 10_000)
    assert not is_costly(large, {"input_ids": ids})  # it is not on the CPU
    model = nn.Linear(1000, 1000)
    assert not is_costly(model, {"input_ids": ids}) and not is_costly(nn.LayerNorm(3), {"input_ids": ids})
    assert is_costly(model, {"input_ids": ids.expand(2, 1000).repeat(1, 31)})


def test_a_costly_model_is_tried_on_fewer_examples() -> None:
    for length, few in ((10, 3), (40_000, 2)):
        ids = torch.zeros(20, length, dtype=torch.int64)
        encoded = Encoded({"input_ids": ids}, lambda forward, batch: batch["input_ids"].sum(1).float(), 20, "", None)
        assert len(_Probe(nn.Linear(1000, 1000), encoded, False).few) == few
