"""Faults to plant: each makes a sampler wrong in one way, for the length of a test."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from torch import Tensor

from hf_llc.backend.random_streams import NoiseStream
from hf_llc.posterior.law import Law
from hf_llc.samplers import psgld
from hf_llc.samplers.langevin import force
from hf_llc.samplers.segment import Segment
from hf_llc.samplers.walk import Walk


def doubled_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of variance 2."""
    fill = NoiseStream.fill
    monkeypatch.setattr(NoiseStream, "fill", lambda self, out, **at: fill(self, out, **at).mul_(math.sqrt(2)))


def lost_localization(monkeypatch: pytest.MonkeyPatch) -> None:
    """γ = 0."""
    start = Law.__init__
    monkeypatch.setattr(Law, "__init__", lambda self, **given: start(self, **{**given, "localization": 0.0}))


def wrong_n(monkeypatch: pytest.MonkeyPatch) -> None:
    """nβ of half the data."""
    start = Law.__init__
    monkeypatch.setattr(Law, "__init__", lambda self, **given: start(self, **{**given, "nbeta": given["nbeta"] / 2}))


def no_root_a(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise of arXiv 2308.12108, eq. 27: without A."""

    def diffuse(walk: Walk, s: Segment, grad: Tensor, a: Tensor, step_size: float) -> None:
        s.w.addcmul_(a, force(walk, s, grad), value=-step_size / 2)
        s.w.add_(s.noise, alpha=math.sqrt(step_size))

    monkeypatch.setattr(psgld, "preconditioned_diffuse", diffuse)


def wrong_friction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Momentum loses twice what the noise gives back."""
    wrong = SimpleNamespace(sqrt=math.sqrt, expm1=math.expm1, tanh=math.tanh, exp=lambda x: math.exp(2 * x))
    monkeypatch.setattr("hf_llc.samplers.baoab.math", wrong)
