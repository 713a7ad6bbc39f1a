"""Corpora whose documents are vetoed in the worker, as they come to the compiler and leave it.

The worker gets keyed hashes of their runs of tokens (`tracing.successors`), never their text. What
the gateway and the operator need stands in the snapshot's `corpora` document: which corpora are in
the table, and in which state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.targets import Scope

DOCUMENT = "corpora"


@dataclass(frozen=True, slots=True)
class VetoedCorpus:
    """A corpus of which no steered answer may give a run of tokens.

    Attributes:
        scope: `always` if every request is to be steered for it.
        minimum_match: tokens of the shortest such run; None: what the policy's compiler is set to.
        state: differs whenever what is vetoed does.
        texts: its documents' texts, from the beginning at every call.
    """

    id: str
    scope: Scope
    minimum_match: int | None
    state: str
    texts: Callable[[], Iterable[str]]

    @property
    def owner(self) -> str:
        """Its name among the owners of texts; no target can have an id like this."""
        return f"@corpus/{self.id}"


def texts_of(corpora: Sequence[VetoedCorpus]) -> Iterator[tuple[str, str]]:
    """(owner, text) of every document, one after the other."""
    return ((corpus.owner, text) for corpus in corpora for text in corpus.texts())


def limits_of(corpora: Sequence[VetoedCorpus]) -> dict[str, int]:
    """The minimum matches of the corpora that have their own, by owner."""
    return {c.owner: c.minimum_match for c in corpora if c.minimum_match is not None}


def corpora_document(
    corpora: Sequence[VetoedCorpus], reports: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What a snapshot says of its corpora; `reports` are those of `guard.veto.compile_veto`."""
    return [
        {"id": c.id, "scope": c.scope, "state": c.state, "veto": reports.get(c.owner)}
        for c in corpora
    ]


def vetoes_always(document: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a snapshot's corpora ask for every request to be steered."""
    return any(Scope(corpus["scope"]) is Scope.ALWAYS for corpus in document)


def corpora_in(snapshot: Path) -> dict[str, dict[str, Any]]:
    """The corpora that a snapshot's directory tells of, by id; none where it tells of none."""
    try:
        document = json.loads((snapshot / f"{DOCUMENT}.json").read_bytes())
    except FileNotFoundError:
        return {}
    return {corpus["id"]: corpus for corpus in document}
