"""Many targets as JSON lines: read and checked line by line, as they come."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from server.errors import BodyTooLarge, InvalidField, MalformedBody, ServerError
from server.explain import explained
from server.request_body import parse_object
from server.schemas import TargetIn

MAX_BYTES = 256 * 1024 * 1024
MAX_TARGETS = 100_000
# Problems that are told; what is wrong beyond them is counted.
MAX_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class LineProblem:
    """What is wrong with a line; lines count from 1."""

    line: int
    param: str | None
    message: str


class TargetLines:
    """Reads targets from JSON lines. `targets` has them by line, `problems` the first faults."""

    def __init__(self) -> None:
        self.targets: dict[int, TargetIn] = {}
        self.problems: list[LineProblem] = []
        self.num_problems = 0
        self._ids: set[str] = set()
        # The line that has begun, in the pieces in which it came.
        self._begun: list[bytes] = []
        self._bytes = 0
        self._line = 0

    def feed(self, data: bytes) -> None:
        """Take more bytes.

        Raises:
            BodyTooLarge: there are more bytes or targets than the limits.
        """
        self._bytes += len(data)
        if self._bytes > MAX_BYTES:
            raise BodyTooLarge(f"The upload is longer than {MAX_BYTES} bytes.")
        end, *lines = data.split(b"\n")
        self._begun.append(end)
        for line in lines:
            self._take(b"".join(self._begun))
            self._begun = [line]

    def end(self) -> None:
        """There is nothing more.

        Raises:
            InvalidField: there was nothing at all.
        """
        self._take(b"".join(self._begun))
        self._begun = []
        if not self.targets and not self.num_problems:
            raise InvalidField("targets: must not be empty", param="targets")

    def note(self, line: int, fault: ServerError) -> None:
        """Something is wrong with a line."""
        self.num_problems += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(LineProblem(line, fault.param, str(fault)))

    def refuse_problems(self) -> None:
        """Refuse all for what is wrong with one.

        Raises:
            InvalidField: naming the first line that cannot be taken.
        """
        if not self.num_problems:
            return
        first = min(self.problems, key=lambda problem: problem.line)
        more = f" (and {self.num_problems - 1} more)" if self.num_problems > 1 else ""
        message = f"line {first.line}: {first.message}{more}"
        raise InvalidField(message, param=first.param)

    def _take(self, line: bytes) -> None:
        self._line += 1
        if not line.strip():
            return
        if len(self.targets) >= MAX_TARGETS:
            raise BodyTooLarge(f"There are more than {MAX_TARGETS} targets.")
        try:
            target = TargetIn.model_validate(parse_object(line))
        except ValidationError as error:
            self.note(self._line, explained(error))
        except MalformedBody as error:
            reason = str(error).removeprefix("The body ")
            self.note(self._line, InvalidField(reason))
        else:
            if target.id in self._ids:
                self.note(self._line, InvalidField("id: is repeated", param="id"))
            self._ids.add(target.id)
            self.targets[self._line] = target
