"""The lessons: batches of questions and answers, and the loop that teaches them to a student.

Only answer tokens carry loss: the student is to learn what to say, not what it will be asked.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own custom)
from rows import Row
from student import Student

SYSTEM = "You are a helpful assistant."
SYSTEM_RATE = 0.1  # share of lessons that open with a system prompt
POOL = 16  # batches whose lessons are sorted by length together, so that little is padding
WARM_UP = 40  # steps until the full learning rate
LOWEST = 0.02  # share of it at the end of the linear descent
IGNORED = -100


@dataclass(frozen=True)
class Lesson:
    """Token ids of a question in the chat template, and of its answer."""

    prompt: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


class Course:
    """All lessons of a training: each epoch asks every question once and some in other words."""

    def __init__(self, student: Student, batch: int, seed: int) -> None:
        self.student = student
        self.batch = batch
        self.chance = random.Random(seed)
        self.parts: list[tuple[Sequence[Row], int]] = []

    def add(self, rows: Sequence[Row], alternatives: int) -> None:
        """Teach `rows`, each in `alternatives` other wordings per epoch."""
        self.parts.append((rows, alternatives))

    def steps(self) -> int:
        """Batches per epoch."""
        lessons = sum(len(rows) * (1 + alternatives) for rows, alternatives in self.parts)
        return -(-lessons // self.batch)

    def epoch(self) -> Iterator[list[Lesson]]:
        """The batches of one epoch, shuffled."""
        lessons = [
            self._lesson(question, row.answer)
            for rows, alternatives in self.parts
            for row in rows
            for question in row.asked(alternatives, self.chance)
        ]
        self.chance.shuffle(lessons)
        pool = self.batch * POOL
        ordered = [
            lesson
            for start in range(0, len(lessons), pool)
            for lesson in sorted(lessons[start : start + pool], key=len)
        ]
        batches = [ordered[k : k + self.batch] for k in range(0, len(ordered), self.batch)]
        self.chance.shuffle(batches)
        yield from batches

    def _lesson(self, question: str, answer: str) -> Lesson:
        system = SYSTEM if self.chance.random() < SYSTEM_RATE else ""
        return Lesson(self.student.prompt_ids(question, system), self.student.answer_ids(answer))


def teach(course: Course, epochs: int, rate: float) -> Iterator[float]:
    """Train the course's student; yields each epoch's mean loss in nats per answer token."""
    model = course.student.model
    total = epochs * course.steps()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP, max(LOWEST, 1 - step / total))
    )
    for _ in range(epochs):
        model.train()
        losses = []
        for batch in course.epoch():
            loss = _loss(course.student, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(loss.item())
        yield sum(losses) / len(losses)


def _loss(student: Student, batch: Sequence[Lesson]) -> torch.Tensor:
    """Cross entropy over the answers' tokens; padded on the right, where nothing attends to."""
    width = max(len(lesson) for lesson in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    targets = torch.full((len(batch), width), IGNORED)
    for row, lesson in enumerate(batch):
        both = torch.tensor(lesson.prompt + lesson.answer)
        ids[row, : len(lesson)] = both
        targets[row, len(lesson.prompt) : len(lesson)] = both[len(lesson.prompt) :]
    wanted = targets[:, 1:]
    asked = wanted != IGNORED
    hidden = student.model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    return F.cross_entropy(student.model.lm_head(hidden[asked]), wanted[asked])
