"""The seams of the job worker: what compiles a policy, and what puts one into force."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from detectors.targets import ForgetTarget
from guard.vetoed import VetoedCorpus


@dataclass(frozen=True, slots=True)
class Compilation:
    """A compiled policy: its snapshot's digest, and a JSON report per target id."""

    digest: str
    reports: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Pointer:
    """What the pointer to the active policy names."""

    generation: int
    digest: str


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """A live gateway or worker process: what it acknowledged, what it failed to load and why.

    `node` is where it runs, "" for beside the control process. The node itself is one of the kind
    "node": it has put in force there what it names.
    """

    kind: str
    pid: int
    generation: int | None
    digest: str | None
    failed_generation: int | None = None
    error: str | None = None
    node: str = ""


class Compiler(Protocol):
    """Turns targets into a snapshot directory, whole or not at all."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever older snapshots can no longer be loaded.

        Stands for the tokenizer, the encoder, the settings and the compiler's format.
        """
        ...

    def compile(
        self,
        targets: Sequence[ForgetTarget],
        progress: Callable[[str, float], None],
        corpora: Sequence[VetoedCorpus] = (),
    ) -> Compilation:
        """Compile all targets; `progress` is called with a stage and a fraction in 0..1.

        The documents of `corpora` are vetoed.

        Raises:
            CompileError: these targets cannot be compiled.
        """
        ...

    def preview(self, target: ForgetTarget, others: Sequence[ForgetTarget]) -> Mapping[str, Any]:
        """The calibration report that `target` would have beside `others`; nothing is kept."""
        ...


class Publisher(Protocol):
    """The pointer to the active policy, and who follows it."""

    def read(self) -> Pointer | None:
        """What the pointer names; None before the first policy."""
        ...

    def claim(self, epoch: int) -> None:
        """Keep those who led before the lead `epoch` from moving the pointer.

        Raises:
            LeaseLost: another process leads by now.
        """
        ...

    def publish(self, generation: int, digest: str) -> None:
        """Move the pointer, durably and in one step.

        Raises:
            LeaseLost: another process leads by now; the pointer stays as it is.
        """
        ...

    def followers(self) -> Sequence[FollowerStatus]:
        """The live followers."""
        ...

    def holds(self, digest: str) -> bool:
        """Whether the snapshot of this digest is there."""
        ...
