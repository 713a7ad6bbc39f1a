"""The registered assistants, as the admin API manages them.

Imports nothing heavy: the served model's fingerprints are read when the first one is registered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from guard.errors import AssistantUnreadable, GuardError
from guard.uld.card import Card
from guard.uld.shelf import Shelf
from guard.uld.steps import Step
from server.errors import Conflict, InvalidField, NotFound
from server.etags import require_match
from server.policy import Publisher
from server.resources import AssistantOut
from server.schemas import AssistantIn, TargetIn
from server.settings import Settings
from server.store import Store

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Assistants:
    """What is on the shelf, and who names it.

    `fits` raises a GuardError for a card that was made for another model or tokenizer. The ids that
    `in_training` gives are kept for trainings.
    """

    shelf: Shelf
    settings: Settings
    store: Store
    publisher: Publisher
    fits: Callable[[Card], None]
    in_training: Callable[[], Collection[str]] = tuple
    _changing: Lock = field(default_factory=Lock)

    def register(self, wanted: AssistantIn) -> AssistantOut:
        """Check an assistant and copy it to the shelf.

        Raises:
            Conflict: the name is taken; an assistant is never replaced.
            InvalidField: the folder holds none, or one for another model.
        """
        folder = Path(wanted.folder)
        if not folder.is_absolute():
            raise InvalidField("folder: must be an absolute path", param="folder")
        if wanted.id in self.in_training():
            raise Conflict("An assistant of that id is being trained.", param="id")
        return self.adopt(wanted.id, folder)

    def adopt(self, name: str, folder: Path) -> AssistantOut:
        """`register` for a training, to which the name belongs.

        Raises:
            Conflict, InvalidField: as `register`.
        """
        with self._changing:
            self.expect_free(name)
            try:
                self.fits(Card.read(folder))
                digest = self.shelf.put(name, folder)
            except GuardError as error:
                raise InvalidField(f"folder: {error}", param="folder") from None
        return self._described(name, digest, self._used())

    def expect_free(self, name: str) -> None:
        """Refuse a name that is taken.

        Raises:
            Conflict: there is an assistant of that name.
        """
        if self.holds(name):
            raise Conflict("There is an assistant of that id; give the new one another.")

    def holds(self, name: str) -> bool:
        """Whether there is an assistant of that name."""
        return name in self.shelf.names()

    def steps(self, name: str) -> list[Step]:
        """How a registered assistant was trained; nothing where it came without a log."""
        digest = self.shelf.names().get(name)
        return self.shelf.steps(digest) if digest is not None else []

    def page(self, after: str | None, limit: int) -> list[AssistantOut]:
        """Up to `limit` assistants with names greater than `after`, in order."""
        names = sorted(self.shelf.names().items())
        found = [entry for entry in names if entry[0] > (after or "")]
        used = self._used()
        return [self._described(*entry, used) for entry in found[:limit]]

    def one(self, name: str) -> AssistantOut:
        """A registered assistant.

        Raises:
            NotFound: there is none of that name.
        """
        digest = self.shelf.names().get(name)
        if digest is None:
            raise NotFound("There is no such assistant.")
        return self._described(name, digest, self._used())

    def remove(self, name: str, if_match: str | None = None) -> AssistantOut:
        """Take an assistant off the shelf.

        Raises:
            NotFound: there is none of that name.
            PreconditionFailed: `if_match` names another content.
            Conflict: a target or the policy in force names it.
        """
        with self._changing:
            found = self.one(name)
            require_match(assistant_etag(found), if_match, "assistant")
            if found.in_use:
                raise Conflict("A target names this assistant, or the policy in force does.")
            self.shelf.remove(name)
        return found

    def check(self, target: TargetIn) -> None:
        """Refuse a target whose subtraction could not be served.

        Raises:
            InvalidField: no such assistant, or no memory for it.
        """
        if target.uld is None:
            return
        name = target.uld.assistant
        # One whose training has not ended may yet be taken back.
        if name in self.in_training() or not self.holds(name):
            raise InvalidField("uld.assistant: is not registered", param="uld.assistant")
        if not self.settings.assistant_memory_gib:
            raise InvalidField("uld: needs the setting assistant_memory_gib above 0", param="uld")

    def _used(self) -> set[str]:
        """Names that targets give, and digests of what is in force."""
        return self._named() | self._in_force()

    def _described(self, name: str, digest: str, used: set[str]) -> AssistantOut:
        in_use = name in used or digest in used
        try:
            card = self.shelf.card(digest)
        except AssistantUnreadable:
            # Damaged on the disk: it must still be seen, and can be retired.
            return AssistantOut(id=name, digest=digest, in_use=in_use)
        return AssistantOut(
            id=name,
            digest=digest,
            layers=card.layers,
            base_layers=card.base_layers,
            num_pairs=card.data["forget"],
            trained_on=card.targets,
            metrics=card.metrics,
            in_use=in_use,
        )

    def _named(self) -> set[str]:
        """The names that targets give."""
        found: set[str] = set()
        after: str | None = None
        while page := self.store.target_page(after, _PAGE):
            for record in page:
                uld = self.store.target(record.id)[1].get("uld")
                found |= {uld["assistant"]} if uld else set()
            after = page[-1].id
        return found

    def _in_force(self) -> set[str]:
        active = self.publisher.read()
        if active is None:
            return set()
        path = self.settings.snapshots / active.digest / "uld.json"
        try:
            rules = json.loads(path.read_bytes())
        except FileNotFoundError:
            return set()
        return {rule["assistant"] for rule in rules if rule is not None}


def assistant_etag(assistant: AssistantOut) -> str:
    """Its content never changes under a name; another that takes the name has another."""
    return f'"{assistant.digest}"'


def fits_model(model: str, tokenizer: str, *, trust_remote_code: bool) -> Callable[[Card], None]:
    """A check of cards against the served model."""

    def check(card: Card) -> None:
        from guard.uld.fingerprints import expect, model_fingerprint, model_folder
        from guard.vocabulary import Vocabulary

        vocabulary = Vocabulary.load(tokenizer, trust=trust_remote_code)
        expect("tokenizer", card.tokenizer, vocabulary.fingerprint)
        expect("base model", card.base, model_fingerprint(model_folder(model)))

    return check
