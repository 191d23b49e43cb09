"""A stretch of the path of all chains: from where to where they go together."""

from __future__ import annotations

from dataclasses import dataclass

from hf_llc.chains.chain_store import ChainStore


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A stretch of the path of all chains.

    Attributes:
        until: step at which it ends.
        burnin: steps that those who watch see no λ̂ of.
        title: for those who watch.
        origin: states of the chains that it continues at other settings; None: it begins at w*.
        number: of that continuation.
        stage: of the watch, by whose end chains stop.
        among: numbers of the chains, whole batches of them; None: all.
    """

    until: int
    burnin: int
    title: str
    origin: ChainStore | None = None
    number: int = 0
    stage: str = "sample"
    among: range | None = None
