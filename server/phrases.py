"""The phrases of a target as its operator sees and edits them.

A listing shows every phrase with its reason and in how many harmless texts it occurs: what is often
said innocently should be struck. All of it is forget text, for admins only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from detectors.alias import PhraseIndex
from detectors.benign import benign_prompts
from detectors.extraction import ExtractedPhrase, extract, phrase_key
from server.errors import InvalidField
from server.field_types import PhraseText
from server.schemas import MAX_ITEMS, PhraseIn, TargetIn, plain_phrase

_Phrases = list[Annotated[PhraseIn, BeforeValidator(plain_phrase, json_schema_input_type=Any)]]


class PhraseEdit(BaseModel):
    """Phrases to forbid for the whole target, and phrases that may be said after all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    add: Annotated[_Phrases, Field(max_length=MAX_ITEMS)] = []
    strike: Annotated[list[PhraseText], Field(max_length=MAX_ITEMS)] = []


class PhraseOut(BaseModel):
    """A phrase that may not be said.

    `unit` says when: `target` whenever the target is matched, `item` only when its example number
    `item` is. `benign_touched` counts the harmless texts that it occurs in.
    """

    text: str
    whole_word: bool
    reason: str
    unit: Literal["target", "item"]
    item: int | None
    benign_touched: int


class PhraseList(BaseModel):
    """All phrases of one revision. Harmless are the built-in prompts and all retain examples."""

    target_id: str
    revision: int | None
    benign_texts: int
    phrases: list[PhraseOut]
    struck: list[str]


class Preview(BaseModel):
    """What a target would become: nothing of it is stored."""

    phrases: PhraseList
    calibration: dict[str, Any]
    warnings: list[str]


def retain_examples(targets: Iterable[TargetIn]) -> list[str]:
    """All that the operator gave as harmless."""
    return [text for target in targets for text in target.retain_examples]


def list_phrases(target: TargetIn, revision: int | None, retain: Sequence[str]) -> PhraseList:
    """The phrases of a target; `retain` are the retain examples of all other targets."""
    harmless = list(dict.fromkeys([*benign_prompts(), *target.retain_examples, *retain]))
    found = extract(target.to_target())
    placed: list[tuple[ExtractedPhrase, int | None]] = [(p, None) for p in found.target]
    placed += [(phrase, item) for item, phrases in enumerate(found.items) for phrase in phrases]
    touched = _touched([phrase for phrase, _ in placed], harmless)
    return PhraseList(
        target_id=target.id,
        revision=revision,
        benign_texts=len(harmless),
        phrases=[
            PhraseOut(
                text=phrase.text,
                whole_word=phrase.whole_word,
                reason=phrase.reason,
                unit="target" if item is None else "item",
                item=item,
                benign_touched=count,
            )
            for (phrase, item), count in zip(placed, touched, strict=True)
        ],
        struck=list(target.excluded_phrases),
    )


def phrase_warnings(listed: PhraseList) -> list[str]:
    """What a preview says of the phrases, without repeating one."""
    told = [p for p in listed.phrases if p.unit == "target" and p.benign_touched]
    if not listed.phrases:
        return ["no phrase was found: a matched answer would not be changed"]
    if not told:
        return []
    return [f"{len(told)} phrases of the whole target occur in harmless texts"]


def edited(target: TargetIn, edit: PhraseEdit) -> TargetIn:
    """The target with phrases added and struck.

    Raises:
        InvalidField: nothing is edited, a struck phrase is none of the target's, or too much or
            nothing would be left.
    """
    if not edit.add and not edit.strike:
        raise InvalidField("add or strike must name a phrase.", param="add")
    struck = {phrase_key(text): f"strike[{n}]" for n, text in enumerate(edit.strike)}
    added = {phrase_key(phrase.text): phrase for phrase in edit.add}
    for key in struck.keys() & added.keys():
        raise InvalidField(f"{struck[key]}: is added by the same request", param=struck[key])
    _check_known(target, struck)
    kept = [p for p in target.phrases if phrase_key(p.text) not in struck.keys() | added.keys()]
    excluded = {phrase_key(text): text for text in target.excluded_phrases}
    excluded = {key: text for key, text in excluded.items() if key not in added}
    excluded |= {phrase_key(text): text for text in edit.strike}
    phrases = [*kept, *added.values()]
    if max(len(phrases), len(excluded)) > MAX_ITEMS:
        raise InvalidField(f"add: a target has at most {MAX_ITEMS} phrases", param="add")
    if not (phrases or target.examples or target.documents):
        raise InvalidField("strike: must leave the target some evidence", param="strike")
    changed = {"phrases": phrases, "excluded_phrases": list(excluded.values())}
    return target.model_copy(update=changed)


def _check_known(target: TargetIn, struck: dict[str, str]) -> None:
    """What is struck must be a phrase now, or already be struck."""
    found = extract(target.to_target())
    known = {phrase_key(phrase.text) for phrase in found.target}
    known |= {phrase_key(phrase.text) for phrases in found.items for phrase in phrases}
    known |= {phrase_key(text) for text in target.excluded_phrases}
    for key, path in struck.items():
        if key not in known:
            raise InvalidField(f"{path}: is not a phrase of this target", param=path)


def _touched(phrases: Sequence[ExtractedPhrase], texts: Sequence[str]) -> list[int]:
    """In how many of the texts each phrase occurs."""
    counts = [0] * len(phrases)
    for borders in (True, False):
        places = [n for n, phrase in enumerate(phrases) if phrase.whole_word is borders]
        index = PhraseIndex(phrases[n].text for n in places)
        for text in texts:
            for found in index.find(text, borders=borders):
                counts[places[found]] += 1
    return counts
