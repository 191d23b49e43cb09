"""A plain module on the command line: a file of its weights, and what builds it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hf_llc.cli.arguments import like_fingerprint
from hf_llc.config import LoadConfig
from hf_llc.errors import InputError

if TYPE_CHECKING:
    from hf_llc.workflow.opened_run import Given


def add_plain_module(parser: argparse.ArgumentParser) -> None:
    """Add --weight-file and --factory."""
    plain = parser.add_argument_group("a plain module")
    plain.add_argument("--weight-file", metavar="F", help="its weights, in place of --model")
    plain.add_argument("--factory", metavar="MODULE:NAME", help="returns (module, loss_fn) for --weight-file")


def check_plain_module(args: argparse.Namespace, load: LoadConfig) -> None:
    """Check that a file of weights comes with what builds its module, with data, and with no other model.

    Raises:
        InputError: it does not.
    """
    check_factory("--weight-file", args.weight_file, args.factory)
    if args.weight_file is None:
        return
    if load.model is not None or load.revision is not None:
        raise InputError("--model and --weight-file are two models", remedy="give one of them")
    check_data(load)


def check_factory(flag: str, weights: object, factory: str | None) -> None:
    """Check that `flag`, which names files of weights, comes with what builds their module.

    Raises:
        InputError: only one of the two is given.
    """
    if (weights is None) != (factory is None):
        raise InputError(f"{flag} and --factory go together", remedy="give both")


def check_data(load: LoadConfig) -> None:
    """Check that data are given.

    Raises:
        InputError: they are not.
    """
    if load.data is None:
        raise InputError("no data given", remedy="give --data: a Hub id, a folder or a file")


def given(args: argparse.Namespace, load: LoadConfig) -> Given:
    """What is given as objects: a plain module and its loss, and what --like says of the data."""
    from hf_llc.studies.checkpoint_series import weight_files
    from hf_llc.workflow.opened_run import Given

    fingerprint = like_fingerprint(args)
    if args.weight_file is None:
        return Given(data_fingerprint=fingerprint)
    (file,) = weight_files([args.weight_file], args.factory, allow_pickle=load.allow_pickle)
    assert file.open is not None
    model, loss_fn = file.open()
    return Given(model=model, loss_fn=loss_fn, data_fingerprint=fingerprint)
