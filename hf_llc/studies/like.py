"""`Like`: an estimate that can be compared with another one takes over all that must be equal for that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_llc.errors import InputError
from hf_llc.loading.names import public_name
from hf_llc.publishing.card_section import LOADING, SAMPLING
from hf_llc.publishing.result_folder import RESULT
from hf_llc.result import LLCResult
from hf_llc.setting_checks import differences
from hf_llc.studies.calibration import JSON_FILE, SETTINGS_FILE, Calibration
from hf_llc.studies.shared_settings import KEPT, SHARED

_ALLOWED = (
    "a result, its folder, the folder or calibrated.yaml of a calibration, or a checkpoint of a training with an "
    "LLCCallback"
)

_TRAINER = "trainer_state.json"

_MODES = ("mixed_precision", "adapt_step_size", "batch_order", "draw_loss")

_NAMES = ("data", "data_revision", "subset", "split")


@dataclass(frozen=True)
class Like:
    """What a result or a calibration asks of an estimate that is to be compared with it. The model is free.

    Attributes:
        name: of the other run, for refusals.
        load: settings of the data, by name.
        sample: settings of the sampling, by name.
        data_fingerprint: of the examples; None: not known.
    """

    name: str
    load: dict[str, Any]
    sample: dict[str, Any]
    data_fingerprint: str | None = None

    def with_load(self, given: Mapping[str, Any], *, data: Any = None) -> dict[str, Any]:
        """The settings of model and data that are `given`, and those taken over.

        Args:
            given: settings by name.
            data: the data, if they are an object: then no name of data is taken over.

        Raises:
            InputError: one of `given` contradicts.
        """
        is_object = data is not None and not isinstance(data, (str, Path))
        taken = {name: value for name, value in self.load.items() if not (is_object and name in _NAMES)}
        if "data" in given and public_name(given["data"]) == taken.get("data"):
            taken = {**taken, "data": given["data"]}  # this machine's path to it
        return self._merged(given, taken)

    def with_sample(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of sampling that are `given`, and those taken over.

        Raises:
            InputError: one of `given` contradicts.
        """
        if given.get("beta") is not None:
            raise self._refusal(f"beta {given['beta']} (there nbeta {self.sample.get('nbeta')})")
        return self._merged(given, self.sample)

    def _merged(self, given: Mapping[str, Any], taken: Mapping[str, Any]) -> dict[str, Any]:
        both = [name for name in given if name in taken]
        wrong = differences({name: taken[name] for name in both}, {name: given[name] for name in both})
        if wrong:
            raise self._refusal("; ".join(wrong))
        return {**taken, **given}

    def _refusal(self, text: str) -> InputError:
        return InputError(f"settings contradict those of {self.name}", value=text, remedy="leave them out, or like")


def like(source: LLCResult | str | Path) -> Like:
    """Read what must be equal: nβ, γ, ε, the sampler, chains, draws, minibatches, the seed, the data and the mode.

    Args:
        source: a result, its folder, the folder or calibrated.yaml of a calibration, or the checkpoint of a Trainer
            whose `LLCCallback` has found settings.

    Raises:
        InputError: there is none of them.
    """
    if isinstance(source, LLCResult):
        return _like_result(source, str(source.folder or "the other result"))
    if not isinstance(source, (str, Path)):
        raise InputError("like has the wrong form", value=type(source).__name__, allowed=_ALLOWED)
    path = Path(source)
    folder = path.parent if path.name in (SETTINGS_FILE, JSON_FILE, RESULT) else path
    if (folder / JSON_FILE).exists() and path.name != RESULT:
        settings = Calibration.load(folder).settings
        return Like(str(source), {}, {name: value for name, value in settings.items() if value is not None})
    if not (folder / RESULT).exists() and (folder / _TRAINER).exists():
        return Like(str(source), {}, _of_a_training(folder))
    if not (folder / RESULT).exists():
        raise InputError("the folder has no result and no calibration", value=str(source), allowed=_ALLOWED)
    return _like_result(LLCResult.load(folder), str(source))


def _of_a_training(checkpoint: Path) -> dict[str, Any]:
    """What the `LLCCallback` of a training asked for and found, by the state that its Trainer saved.

    Raises:
        InputError: there was no such callback, or there were several with settings of their own.
    """
    path = checkpoint / _TRAINER
    try:
        store = json.loads(path.read_text(encoding="utf-8"))["stateful_callbacks"]
        found = [kept for name, kept in store.items() if name.split("/")[0] == KEPT]
        parts = [(kept["asked"], {name: kept["used"].get(name) for name in SHARED}) for kept in found]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "the folder is not a checkpoint that a Trainer wrote", value=str(path), allowed=_ALLOWED
        ) from error
    if len(parts) != 1:
        what = "several LLCCallbacks measured there" if parts else "no LLCCallback measured before this checkpoint"
        raise InputError(what, value=str(path), allowed=_ALLOWED)
    asked, used = parts[0]
    settings = {name: asked.get(name) for name in (*SAMPLING, *_MODES)} | used
    return {name: value for name, value in settings.items() if value not in (None, "auto")}


def _like_result(result: LLCResult, name: str) -> Like:
    data = result.data
    load = {key: data.get(key) for key in (*LOADING, "subset", "split")}
    if data.get("revision"):  # a data set of the Hub; a local one has no path in the result
        load |= {"data": data.get("id"), "data_revision": data.get("revision")}
    load |= {"max_examples": data.get("num_examples"), "task": result.task}
    load |= {} if result.dtype == "float32" else {"dtype": result.dtype}  # a model given as an object takes no dtype
    sample = {key: getattr(result, key) for key in (*SAMPLING, *_MODES)}
    if result.minimize is not None:
        sample |= {"minimize": True, "minimize_steps": result.minimize.get("steps")}
    known = ({key: value for key, value in part.items() if value is not None} for part in (load, sample))
    return Like(name, *known, data_fingerprint=data.get("fingerprint"))
