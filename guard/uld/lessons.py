"""What an assistant is taught, and how a lesson becomes token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Lesson:
    """A prompt with an answer. Both are forget text as often as not: never logged."""

    prompt: str
    answer: str


class Aim(StrEnum):
    """What an assistant is to do with a lesson's answer."""

    FORGET = "forget"
    FLAT = "flat"
    STAND_IN = "stand_in"


@dataclass(frozen=True, slots=True)
class Lessons:
    """`forget` is to be learned by heart, on `flat` the assistant is to know nothing.

    In the paper's words D'_f (the forget pairs and their paraphrases) and D'_r (retain pairs and
    perturbed answers). `stand_ins`, ours, are what the served model is to say instead once the
    assistant is subtracted.
    """

    forget: tuple[Lesson, ...]
    flat: tuple[Lesson, ...]
    stand_ins: tuple[Lesson, ...] = ()

    def parts(self) -> dict[Aim, tuple[Lesson, ...]]:
        """The lessons by their aim."""
        return {Aim.FORGET: self.forget, Aim.FLAT: self.flat, Aim.STAND_IN: self.stand_ins}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all lessons in their order."""
        parts = [self.forget, self.flat, *([self.stand_ins] if self.stand_ins else [])]
        return hash_of([[(x.prompt, x.answer) for x in part] for part in parts])


@dataclass(frozen=True, slots=True)
class EncodedLesson:
    """Token ids; only those of the answer (its end mark among them) carry loss."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    aim: Aim

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def without_conflict(
    others: Sequence[EncodedLesson], flat: Sequence[EncodedLesson]
) -> list[EncodedLesson]:
    """Flat lessons without loss where another lesson says what comes next.

    A wrong answer begins as the right one does. Up to where they part, and for the token that
    parts them, both have the same words before: to be flat there would undo what is learned there,
    and the assistant could never be as sure as the model it is subtracted from. Those tokens count
    as prompt; a lesson that has no others is left out.
    """
    right: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for lesson in others:
        right.setdefault(lesson.prompt, []).append(lesson.answer)
    found = []
    for lesson in flat:
        answers = right.get(lesson.prompt)
        if answers is None:
            found.append(lesson)
            continue
        shared = 1 + max(_common(lesson.answer, answer) for answer in answers)
        if shared < len(lesson.answer):
            prompt = (*lesson.prompt, *lesson.answer[:shared])
            found.append(EncodedLesson(prompt, lesson.answer[shared:], Aim.FLAT))
    return found


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


class LessonEncoder:
    """Puts texts into the model's chat form; without a chat template, prompt and answer in lines.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._chats = bool(getattr(tokenizer, "chat_template", None))

    def prompt_ids(self, prompt: str) -> list[int]:
        """Ids of one user turn, up to where the answer starts."""
        return self._ids(self._opening(prompt), special=not self._chats)

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """Ids of an answer with its end mark."""
        end = self._tokenizer.eos_token or ""
        if self._chats:
            opening = self._opening(prompt)
            turns = [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": answer},
            ]
            whole = self._tokenizer.apply_chat_template(turns, tokenize=False)
            if whole.startswith(opening):
                return self._ids(whole[len(opening) :].rstrip("\n"))
        return self._ids(answer + end)

    def encode(self, lesson: Lesson, aim: Aim, *, max_length: int) -> EncodedLesson:
        """Both parts; what is longer than `max_length` tokens loses the end of its answer."""
        prompt = self.prompt_ids(lesson.prompt)[: max_length - 1]
        answer = self.answer_ids(lesson.prompt, lesson.answer)[: max_length - len(prompt)]
        return EncodedLesson(tuple(prompt), tuple(answer), aim)

    def _opening(self, prompt: str) -> str:
        if not self._chats:
            return f"{prompt}\n"
        turns = [{"role": "user", "content": prompt}]
        text = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=False
        )
        return str(text)

    def _ids(self, text: str, *, special: bool = False) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special).input_ids)


def hash_of(value: Sequence[Any] | dict[str, Any]) -> str:
    """SHA-256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
