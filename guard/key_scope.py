"""Which targets apply to the requests of one API key, and how they are enforced there.

The operator's choice, bound to the key: nothing in a request can change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from detectors.targets import Enforcement


@dataclass(frozen=True, slots=True)
class KeyScope:
    """A target applies if it is among `targets`, or if it carries all of `labels`.

    Where both are None, all targets apply. Of them a key of a `tenant` has that tenant's and those
    of none; a key of no tenant has all. With `enforcement` observe the requests are judged and
    recorded as if the targets were enforced, and nothing is changed. `uld_weight` and `uld_rate`
    are the key's own for what assistants recall, in place of the targets'. `name` is the same for
    equal scopes only.
    """

    targets: frozenset[str] | None = None
    labels: frozenset[tuple[str, str]] | None = None
    enforcement: Enforcement = Enforcement.ENFORCE
    uld_weight: float | None = None
    uld_rate: float | None = None
    tenant: str | None = None
    name: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        targets = None if self.targets is None else sorted(self.targets)
        labels = None if self.labels is None else sorted(self.labels)
        uld = (self.uld_weight, self.uld_rate)
        told = (targets, labels, self.enforcement.value, *uld, self.tenant)
        object.__setattr__(self, "name", repr(told))

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """From the JSON that keys are stored and published with; what is missing is not limited."""
        targets, labels = document.get("targets"), document.get("labels")
        uld = document.get("uld") or {}
        return cls(
            None if targets is None else frozenset(targets),
            None if labels is None else frozenset(labels.items()),
            Enforcement(document.get("enforcement", Enforcement.ENFORCE)),
            uld.get("weight"),
            uld.get("filter"),
            document.get("tenant"),
        )

    @property
    def is_limited(self) -> bool:
        """Whether there may be targets that do not apply."""
        return self.targets is not None or self.labels is not None or self.tenant is not None

    def covers(
        self,
        target_id: str,
        labels: frozenset[tuple[str, str]] | None,
        tenant: str | None = None,
    ) -> bool:
        """Whether a target applies; one whose labels are not known does."""
        if self.tenant is not None and tenant not in (None, self.tenant):
            return False
        if self.targets is None and self.labels is None:
            return True
        if self.targets is not None and target_id in self.targets:
            return True
        return self.labels is not None and (labels is None or self.labels <= labels)


ALL_TARGETS = KeyScope()
