"""A step inside the backward pass, w* in 16 bits, activations computed twice: the same draws in fewer bytes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import llama
from torch import Tensor, nn

from hf_llc.backend import random_streams
from hf_llc.backend.activation_checkpointing import checkpointed, repeated_layers
from hf_llc.backend.torch_modes import own_modes
from hf_llc.chains.chain_store import ChainStore
from hf_llc.chains.run_chains import run_chains
from hf_llc.errors import InputError
from hf_llc.loading.loaded_weights import narrow_if_lossless
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.records.trace import Trace
from hf_llc.samplers import make_kernel, sgld
from hf_llc.samplers.segment import Segment
from hf_llc.samplers.walk import Walk

LAW = Law(nbeta=20.0, localization=5.0)
IN_BACKWARD = ("sgld", "leimkuhler-matthews", "psgld", "rmsprop-sgld", "baoab", "sgnht")
NEEDS_WHOLE_GRADIENTS = ("accept_prob", "heat")
FREEZE_AFTER = 5


class Net(nn.Module):
    """Tied weights, one parameter that nothing uses in between, a scalar, one that is used last and made first."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(7, 7)
        self.unused = nn.Parameter(torch.randn(11))
        self.two, self.out = nn.Linear(7, 7), nn.Linear(7, 3)
        self.two.weight = self.one.weight
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(torch.tanh(self.two(torch.tanh(self.one(inputs))))) * self.scale


def problem(net: type[nn.Module] = Net) -> Problem:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x, y = net(), torch.randn(12, 7), torch.randn(12, 3)
    return Problem(model, {"x": x, "y": y}, lambda f, b: ((f(b["x"]) - b["y"]) ** 2).sum(-1), n=12, unit="nats")


def run(
    problem: Problem, folder: Path, sampler: str = "sgld", *, size: int = 4, eps: float = 1e-3, **options: object
) -> tuple[Trace, Tensor, dict[str, Tensor]]:
    """Trace, last weights and kernel's state of 45 steps of one chain."""
    with preserved(problem.model):
        posterior = Posterior(problem, **options)  # type: ignore[arg-type]
        store = ChainStore(folder)
        trace = run_chains(
            lambda: Walk(posterior, LAW, [3], seed=1, batch_size=size),
            make_kernel(sampler, eps, freeze_after=FREEZE_AFTER),
            [3],
            until=45,
            store=store,
        )
        w, _, state = store.load([3], torch.device("cpu"))
    assert w is not None
    return trace, w, state


def assert_same(one: tuple, other: tuple, *, but: tuple[str, ...] = ()) -> None:
    """Bit for bit."""
    for name, value in vars(one[0]).items():
        if name not in but:
            np.testing.assert_array_equal(value, getattr(other[0], name), err_msg=name)
    assert torch.equal(one[1], other[1])
    assert one[2].keys() == other[2].keys() and all(torch.equal(one[2][k], other[2][k]) for k in one[2])


@pytest.mark.parametrize("chunk", [10, 2**15])
@pytest.mark.parametrize("sampler", IN_BACKWARD)
def test_steps_in_backward_are_the_steps(
    sampler: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks within parameters and chunks over all of them; what needs two whole gradients is not measured."""
    monkeypatch.setitem(random_streams.CHUNK, "cpu", chunk)
    monkeypatch.setattr("hf_llc.posterior.chain_buffer._FLAT_LIMIT", 0)
    whole = run(problem(), tmp_path / "a", sampler)
    within = run(problem(), tmp_path / "b", sampler, step_in_backward=True)
    assert_same(whole, within, but=NEEDS_WHOLE_GRADIENTS)
    assert all(np.isnan(getattr(within[0], name)).all() for name in NEEDS_WHOLE_GRADIENTS)
    measured = {"sgld": "accept_prob", "leimkuhler-matthews": "heat", "baoab": "heat"}.get(sampler)
    assert measured is None or np.isfinite(getattr(whole[0], measured)[:, ::20]).all()


@pytest.mark.parametrize("sampler", ["sgld", "baoab"])
def test_steps_in_backward_under_autocast(sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_llc.posterior.chain_buffer._FLAT_LIMIT", 0)
    whole = run(problem(), tmp_path / "a", sampler, mixed_precision="bf16")
    within = run(problem(), tmp_path / "b", sampler, mixed_precision="bf16", step_in_backward=True)
    assert_same(whole, within, but=NEEDS_WHOLE_GRADIENTS)


def test_small_models_draw_the_same_in_backward(tmp_path: Path) -> None:
    """Whole gradients of small models come in one piece; elementwise steps do not see that."""
    whole, within = run(problem(), tmp_path / "a"), run(problem(), tmp_path / "b", step_in_backward=True)
    assert torch.equal(whole[1], within[1]) and np.array_equal(whole[0].loss, within[0].loss)


def test_noise_of_another_chunk_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: one noise buffer for all chunks, as steps in order may have."""
    monkeypatch.setitem(random_streams.CHUNK, "cpu", 10)
    whole = run(problem(), tmp_path / "a")
    monkeypatch.setattr("hf_llc.samplers.walk.replace", lambda s, **_: s)
    within = run(problem(), tmp_path / "b", step_in_backward=True)
    assert not np.array_equal(whole[0].loss, within[0].loss)


@pytest.mark.parametrize(("options", "size"), [({"micro_batch_size": 3}, 4), ({"micro_batch_size": 5}, 12)])
def test_micro_batches_take_whole_gradients(options: dict, size: int, tmp_path: Path) -> None:
    whole = run(problem(), tmp_path / "a", size=size, **options)
    within = run(problem(), tmp_path / "b", size=size, step_in_backward=True, **options)
    np.testing.assert_array_equal(whole[0].loss, within[0].loss)
    assert np.isfinite(within[0].accept_prob[:, 0]).all(), "this is a step in backward"


@pytest.mark.parametrize("sampler", ["sgld", "baoab"])
def test_a_chain_that_breaks_breaks_at_the_same_step(sampler: str, tmp_path: Path) -> None:
    whole = run(problem(), tmp_path / "a", sampler, eps=30.0)
    within = run(problem(), tmp_path / "b", sampler, eps=30.0, step_in_backward=True)
    np.testing.assert_array_equal(whole[0].loss, within[0].loss)
    assert np.isnan(within[0].loss[0, -1]), "pick a larger step"


def test_gradients_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a kernel is served a gradient, no parameter holds another one."""
    given, seen = problem(), []
    diffuse = sgld.diffuse

    def watched(walk: Walk, s: Segment, grad: Tensor, step_size: float, *, step: int) -> None:
        seen.append((grad.numel(), sum(p.grad is not None for p in given.model.parameters())))
        diffuse(walk, s, grad, step_size, step=step)

    monkeypatch.setattr(sgld, "diffuse", watched)
    with preserved(given.model):
        walk = Walk(Posterior(given, step_in_backward=True), LAW, [0], seed=0, batch_size=4)
        make_kernel("sgld", 1e-3).step(walk, walk.batches.indices(1), step=1, measure=False)
    assert sorted(size for size, _ in seen) == sorted(p.numel() for p in given.model.parameters())
    assert not any(others for _, others in seen)


def test_a_weight_read_beside_its_gradient_is_refused(tmp_path: Path) -> None:
    """A detached use has no part in when the gradient is ready: the step would move it too early."""

    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(7, 3), nn.Parameter(torch.randn(3, 3))

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.tanh(self.first(inputs)) @ self.last.detach() @ self.last

    run(problem(Detached), tmp_path / "a")
    with pytest.raises(InputError, match=r"reads a weight.*Detached.*step_in_backward false"):
        run(problem(Detached), tmp_path / "b", step_in_backward=True)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"step_in_backward": True}, {"gradient_checkpointing": True}])
@pytest.mark.parametrize("is_narrow", [False, True])
def test_the_model_is_left_as_found(options: dict, is_narrow: bool, tmp_path: Path) -> None:
    given = _language_problem()
    if is_narrow:
        _round(given.model)
        narrow_if_lossless(given.model)
    before = {k: (v.clone(), v.dtype) for k, v in given.model.state_dict().items()}
    pointers = [p.data_ptr() for p in given.model.parameters()]
    given.model.train()
    norm = given.model.model.norm.weight  # type: ignore[union-attr]
    norm.grad = torch.ones_like(norm)
    run(given, tmp_path, **options)
    for key, value in given.model.state_dict().items():
        assert torch.equal(value, before[key][0]) and value.dtype == before[key][1], key
    assert [p.data_ptr() for p in given.model.parameters()] == pointers
    assert all(m.training for m in given.model.modules())
    assert all(p.grad is None for p in given.model.parameters() if p is not norm) and norm.grad.sum() == 16  # type: ignore
    assert not any("forward" in vars(m) for m in given.model.modules())
    assert not any(p._post_accumulate_grad_hooks for p in given.model.parameters())


def _language_problem() -> Problem:
    ids = torch.randint(3, 320, (12, 9), generator=torch.Generator().manual_seed(0))

    def losses(forward, batch):  # type: ignore[no-untyped-def]
        logits = forward(input_ids=batch["ids"], use_cache=False).logits[:, :-1]
        return nn.functional.cross_entropy(logits.mT, batch["ids"][:, 1:], reduction="none").mean(-1)

    return Problem(llama(tie=True), {"ids": ids}, losses, n=12 * 8, unit="nats")


def _round(model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
    """Weights that a 16-bit checkpoint holds, in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sampler", [*IN_BACKWARD, "mala"])
def test_a_narrow_anchor_is_the_anchor(
    sampler: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same draws as around a float32 w* of the same values, w* in two bytes a parameter and nowhere else."""
    monkeypatch.setattr("hf_llc.posterior.chain_buffer._FLAT_LIMIT", 0)
    wide, narrow = _language_problem(), _language_problem()
    for each in (wide, narrow):
        _round(each.model, dtype)
    narrow_if_lossless(narrow.model)
    assert {p.dtype for p in narrow.model.parameters()} == {dtype}
    assert_same(run(wide, tmp_path / "a", sampler), run(narrow, tmp_path / "b", sampler))
    with preserved(narrow.model):
        posterior = Posterior(narrow)
        homes = {p.data_ptr() for p in narrow.model.parameters()}
        assert {a.dtype for a in posterior.buffer.anchor} == {dtype} and posterior.dtype == torch.float32
        assert {a.data_ptr() for a in posterior.buffer.anchor} == homes, "w* was copied"


@pytest.mark.slow
def test_only_what_is_exact_is_narrowed() -> None:
    """One weight that 16 bits do not hold keeps them all as they are."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    _round(model)
    with torch.no_grad():
        model[1].bias[2] = 1 + 2**-20
    before = [p.clone() for p in model.parameters()]
    narrow_if_lossless(model)
    assert all(p.dtype == torch.float32 and torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("step_in_backward", [False, True])
def test_gradient_checkpointing_changes_no_bit(step_in_backward: bool, tmp_path: Path) -> None:
    plain = run(_language_problem(), tmp_path / "a", step_in_backward=step_in_backward)
    twice = run(_language_problem(), tmp_path / "b", step_in_backward=step_in_backward, gradient_checkpointing=True)
    assert_same(plain, twice)


@pytest.mark.slow
def test_gradient_checkpointing_keeps_less() -> None:
    """Kept in eval mode for the backward pass: the input of each layer alone. A model without layers is refused."""

    def kept(model: nn.Module, layers: list[nn.Module]) -> int:
        found = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: found.append(x.numel()) or x, lambda x: x)
        with hooks, checkpointed(layers):
            model(torch.randn(64, 7))
        return sum(found)

    block = lambda: nn.Sequential(nn.Linear(7, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 7))  # noqa: E731
    model = nn.Sequential(block(), block(), block()).eval()
    layers = repeated_layers(model)
    assert layers == list(model)
    assert kept(model, layers) == 3 * 64 * 7 < 0.2 * kept(model, [])
    marked = repeated_layers(llama())
    assert len(marked) == 2 and {type(m).__name__ for m in marked} == {"LlamaDecoderLayer"}
    with pytest.raises(InputError, match="no repeated layers"):
        repeated_layers(Net())


@pytest.mark.parametrize("own", [None, "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_freed_memory_is_kept_for_the_next_pass(own: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of glibc that the environment sets stay. Whether a heap would give memory back depends on its past."""
    asked: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda name, value: asked.append((name, value)))
    monkeypatch.setattr("hf_llc.backend.memory.ctypes.CDLL", lambda name: library)
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    if own is not None:
        monkeypatch.setenv(own, "1")
    with own_modes():
        assert asked == ([(-1, 2**27), (-3, 2**25)] if own is None else [])
