"""Documents on their way into an index: a file of JSON lines, until their job is done.

Lines are checked as they arrive, so an upload is refused whole, with the line's number, before
anything is stored. The file is its owner's only and is deleted when the job has ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from server.errors import BodyTooLarge, InvalidField, MalformedBody
from server.provenance.schemas import UploadLine
from server.request_body import parse_object
from server.schemas import DocumentIn, field_path
from tracing.document import Document

_PLAIN = {"missing": "is required", "extra_forbidden": "is not a field"}


@dataclass(frozen=True, slots=True)
class UploadedDocument:
    """A document of an upload, and the SHA-256 of its text."""

    document: Document
    sha256: str


class UploadWriter:
    """Writes one upload. Use as a context: an upload that is not kept is deleted."""

    def __init__(self, directory: Path, limit: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.name = uuid.uuid4().hex
        self._path = directory / self.name
        self._limit = limit
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        # The line that has begun, in the pieces in which it came.
        self._begun: list[bytes] = []
        self._bytes = 0
        self._lines = 0
        self._kept = False
        self.count = 0

    def __enter__(self) -> UploadWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._kept:
            self._path.unlink(missing_ok=True)

    def feed(self, data: bytes) -> None:
        """Take more bytes of JSON lines.

        Raises:
            BodyTooLarge: there are more than the limit.
            InvalidField: a line is not a document; the message has its number.
        """
        self._bytes += len(data)
        if self._bytes > self._limit:
            raise BodyTooLarge(f"The upload is longer than {self._limit} bytes.")
        end, *lines = data.split(b"\n")
        self._begun.append(end)
        for line in lines:
            self._take(b"".join(self._begun))
            self._begun = [line]

    def add(self, documents: Sequence[DocumentIn]) -> None:
        """Take documents that were checked already."""
        for document in documents:
            self._write(document)

    def keep(self) -> str:
        """The upload is complete and durable; gives its name.

        Raises:
            InvalidField: the last line is not a document, or there was none at all.
        """
        self._take(b"".join(self._begun))
        if not self.count:
            raise InvalidField("documents: must not be empty", param="documents")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._kept = True
        return self.name

    def _take(self, line: bytes) -> None:
        self._lines += 1
        if not line.strip():
            return
        try:
            self._write(UploadLine.model_validate(parse_object(line)))
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            path = field_path(problem["loc"])
            reason = _PLAIN.get(problem["type"], problem["msg"])
            raise InvalidField(f"line {self._lines}: {path}: {reason}", param=path) from None
        except MalformedBody as error:
            reason = str(error).removeprefix("The body ")
            raise InvalidField(f"line {self._lines}: {reason}", param="documents") from None

    def _write(self, document: BaseModel) -> None:
        self._file.write(document.model_dump_json().encode() + b"\n")
        self.count += 1


def read_upload(path: Path) -> Iterator[UploadedDocument]:
    """The documents of an upload, in order."""
    with path.open("rb") as file:
        for line in file:
            fields = json.loads(line)
            document = Document(fields["text"], fields["source"], fields["metadata"])
            digest = hashlib.sha256(document.text.encode()).hexdigest()
            yield UploadedDocument(document, digest)
