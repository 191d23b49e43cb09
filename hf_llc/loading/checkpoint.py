"""A checkpoint's files against the model made from them: each tensor is used as it is stored, or it is said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from hf_llc.errors import InputError
from hf_llc.loading.weight_files import file_of, listed, weight_files

_FLOATS = ("F64", "F32", "F16", "BF16", "torch.float64", "torch.float32", "torch.float16", "torch.bfloat16")
_HARMLESS = re.compile(
    r"position_ids$|inv_freq$|(^|\.)pooler\.|seq_relationship\.|attn\.(masked_)?bias$|num_batches_tracked$"
)
"""Tensors that older files hold, or other heads use, and that do not bear on the loss."""
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def refuse_adapter(source: str, revision: str | None, shown: str | None) -> None:
    """Refuse a checkpoint with an adapter (LoRA and kin): it is loaded on top, or not, by which packages there are.

    Raises:
        InputError: the checkpoint holds an adapter.
    """
    found = next((name for name in _ADAPTERS if file_of(source, revision, name) is not None), None)
    if found is not None:
        raise InputError(
            f"the checkpoint holds an adapter ({found})",
            value=shown,
            remedy="merge it into its base model (merge_and_unload, save_pretrained) and give that; to sample the "
            "adapter's weights alone, give the loaded model as an object",
        )


def check_loaded(
    model: PreTrainedModel,
    info: Mapping[str, Any],
    *,
    source: str,
    revision: str | None,
    shown: str | None,
    task: str,
) -> str | None:
    """Check that the model holds what the checkpoint's files hold.

    Args:
        model: what `from_pretrained` made.
        info: its loading info.
        source: folder or Hub id.
        revision: commit, for a Hub id.
        shown: the checkpoint's name.
        task: name of the task.

    Returns:
        What the files hold besides, for the result: harmless for the loss, but not used; None if nothing.

    Raises:
        InputError: tensors are missing, of other shapes or types, or belong to modules that the model lacks.
    """
    _check_shapes(info, shown)
    _check_missing(model, sorted(info.get("missing_keys") or []), shown, task)
    _check_ties(model, shown)
    _check_types(model, source, revision, shown)
    unused = sorted(name for name in info.get("unexpected_keys") or [] if not _HARMLESS.search(name))
    if not unused:
        return None
    inside = [name for name in unused if _is_inside(name, model)]
    if inside:
        raise InputError(
            f"the checkpoint holds weights that the model does not use ({len(inside)}): {listed(inside)}",
            value=shown,
            remedy="does config.json fit the weights (number of layers, biases, model_type)?",
        )
    return f"{len(unused)} tensors: {listed(unused)}" if len(unused) > 1 else unused[0]


def _check_shapes(info: Mapping[str, Any], shown: str | None) -> None:
    wrong = sorted((name, tuple(theirs), tuple(ours)) for name, theirs, ours in info.get("mismatched_keys") or [])
    if wrong:
        name, theirs, ours = wrong[0]
        raise InputError(
            f"weights of the checkpoint have other shapes than config.json says ({len(wrong)}): "
            f"{name} is {theirs}, the model's is {ours}",
            value=shown,
            remedy="use the config.json that was saved with these weights",
        )


def _check_missing(model: PreTrainedModel, missing: Sequence[str], shown: str | None, task: str) -> None:
    if not missing:
        return
    head = model.get_output_embeddings()
    heads = {name for name, module in model.named_modules() if module is head}
    is_head = all(name.rpartition(".")[0] in heads for name in missing)
    raise InputError(
        f"weights are missing in the checkpoint ({len(missing)}): {listed(missing)}",
        value=shown,
        remedy=f"is it trained for {task}?" + (" Or should config.json say tie_word_embeddings?" if is_head else ""),
    )


def _check_ties(model: PreTrainedModel, shown: str | None) -> None:
    """Refuse weights that config.json ties and the file holds twice, with different values."""
    asked = model.get_expanded_tied_weights_keys(all_submodels=True)
    untied = sorted(name for name, other in asked.items() if _tensor(model, name) is not _tensor(model, other))
    if untied:
        raise InputError(
            "config.json ties weights (tie_word_embeddings) of which the checkpoint holds two that differ: "
            f"{untied[0]}, {asked[untied[0]]}",
            value=shown,
            remedy="set tie_word_embeddings to false in config.json, if that is how the model was trained",
        )


def untied_weights(model: PreTrainedModel) -> str | None:
    """Input and output embeddings that are equal, and that config.json does not tie: λ̂ counts both. None if not so."""
    try:
        pair = [model.get_input_embeddings(), model.get_output_embeddings()]
    except NotImplementedError:  # a model of pictures may have none
        return None
    weights = [getattr(module, "weight", None) for module in pair]
    one, other = weights
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)) or one is other:
        return None
    if one.shape != other.shape or not torch.equal(one, other):
        return None
    names = [name for name, module in model.named_modules() if any(module is each for each in pair)]
    return " and ".join(f"{name}.weight" for name in names)


def _tensor(model: PreTrainedModel, name: str) -> Any:
    return model.get_parameter_or_buffer(name)


def _check_types(model: PreTrainedModel, source: str, revision: str | None, shown: str | None) -> None:
    """Refuse weights that are not stored in floating point: cast to it, they are codes, not weights."""
    ours = {name for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    prefix = f"{model.base_model_prefix}."
    for name, kind in _stored_types(source, revision).items():
        is_ours = not ours.isdisjoint({name, prefix + name, name.removeprefix(prefix)}) or name.endswith(".weight")
        if kind not in _FLOATS and is_ours and not _HARMLESS.search(name):
            raise InputError(
                "weights of the checkpoint are not in floating point, as in quantised models",
                value=f"{shown}, {name}: {kind}",
                allowed="float64, float32, float16, bfloat16",
                remedy="load it dequantised, save it, and give that",
            )


def _stored_types(source: str, revision: str | None) -> dict[str, str]:
    """The type of each tensor in the files that transformers reads."""
    kinds: dict[str, str] = {}
    for path in weight_files(source, revision):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                kinds |= {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
        else:
            tensors = torch.load(path, map_location="meta", weights_only=True)
            kinds |= {name: str(x.dtype) for name, x in tensors.items() if isinstance(x, torch.Tensor)}
    return kinds


def _is_inside(name: str, model: PreTrainedModel) -> bool:
    """Whether an unused tensor belongs among the model's own: in one more layer, or in a module beside its weights.

    Otherwise it is of another part, such as the head of another task.
    """
    prefix = f"{model.base_model_prefix}."
    owners, layers = set(), set()
    for own in model.state_dict():
        owners.add(_pattern(own.rpartition(".")[0]))
        layers |= {_pattern(own[: match.end()]) for match in re.finditer(r"\.\d+(?=\.)", own)}
    for each in (name, prefix + name, name.removeprefix(prefix)):
        parts = {_pattern(each[: match.end()]) for match in re.finditer(r"\.\d+(?=\.)", each)}
        if parts & layers or (each.count(".") and _pattern(each.rpartition(".")[0]) in owners):
            return True
    return False


def _pattern(name: str) -> str:
    """The name with all layers alike."""
    return re.sub(r"\.\d+(?=\.|$)", ".#", name)
