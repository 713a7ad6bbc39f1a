"""Structured logs on standard error: what happened, to which request, never a text.

Callers pass ids, numbers and closed words as fields. For an unexpected exception use
`fault_fields`: its class and place, not its message, which may quote a client.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import TextIOBase
from numbers import Number
from pathlib import PurePath
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure_logging(
    level: str = "info", form: Literal["console", "json"] = "console", *, capture: bool = False
) -> None:
    """Set up logging for this process.

    `capture` also sends the standard library's records (uvicorn's, say) the same way; leave it
    off inside vLLM's process, which has a logging set-up of its own.
    """
    shared: list[structlog.typing.Processor] = [
        merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, _renderer(form)],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Unfailing(sys.stderr))),
        cache_logger_on_first_use=False,
    )
    if capture:
        _capture(shared, level, form)


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry `component=name`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return logger


@contextmanager
def bound_request(request_id: str | None, trace_id: str | None = None) -> Iterator[None]:
    """Put a request's ids, as far as there are any, on the lines of this task meanwhile."""
    ids = {"request_id": request_id, "trace_id": trace_id}
    with bound_contextvars(**{name: value for name, value in ids.items() if value is not None}):
        yield


def fault_fields(error: BaseException) -> dict[str, Any]:
    """Fields that describe an unexpected exception without its message."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{PurePath(frame.filename).name}:{frame.lineno}" for frame in frames[-3:]]
    return {"error": type(error).__name__, "where": " > ".join(places)}


class _Unfailing(TextIOBase):
    """A stream whose lines are lost where they cannot be written.

    Standard error may be a file on a full disk, or a pipe that nobody reads any more: whoever logs
    a fault must not meet another one by that.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write if it can be."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if it can be."""
        with suppress(OSError, ValueError):
            self._stream.flush()


class _WithoutTexts(logging.Filter):
    """The records of others: what they may quote of a request or an answer is only described.

    Of an exception class and place are told. Where an engine's code that reads requests and parses
    answers warns of something, all but numbers is what was read.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; none is dropped."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            fields = fault_fields(error)
            record.msg = "%s at %s, logged by %s:%s"
            record.args = (fields["error"], fields["where"], record.filename, record.lineno)
            record.exc_info = record.exc_text = None
        elif record.name == _ACCESS and isinstance(record.args, tuple):
            record.args = tuple(map(_without_query, record.args))
        elif record.args:
            hidden: type = object if _may_quote(record) else BaseException
            record.args = _all_described(record.args, hidden)
        return True


# vLLM's folders of what reads requests and parses answers.
_READERS = frozenset({"entrypoints", "renderers", "tool_parsers", "parser", "reasoning"})
_ACCESS = "uvicorn.access"


class _Closed(dict[str, object]):
    """A record's only argument, whose keys its message may name, or which it may show whole."""

    def __repr__(self) -> str:
        return "dict"


def _may_quote(record: logging.LogRecord) -> bool:
    parts = PurePath(record.pathname).parts
    return record.levelno >= logging.WARNING and not _READERS.isdisjoint(parts)


def _all_described(
    args: tuple[object, ...] | Mapping[str, object], hidden: type
) -> tuple[object, ...] | Mapping[str, object]:
    if isinstance(args, tuple):
        return tuple(_described(arg, hidden) for arg in args)
    if not issubclass(dict, hidden):
        return args
    return _Closed({key: _described(arg, hidden) for key, arg in args.items()})


def _described(arg: object, hidden: type) -> object:
    """A number as it is; of what is hidden the type's name."""
    if arg is None or isinstance(arg, Number) or not isinstance(arg, hidden):
        return arg
    return type(arg).__name__


def _without_query(arg: object) -> object:
    """A path as it is routed: a client may write anything behind it."""
    return arg.partition("?")[0] if isinstance(arg, str) else arg


def hide_texts(names: Sequence[str]) -> None:
    """Let the handlers of these loggers write nothing that may quote a request or an answer.

    Nor what writes the records of loggers that have none, asyncio's for one.
    """
    last = [] if logging.lastResort is None else [logging.lastResort]
    for handlers in (*(logging.getLogger(name).handlers for name in names), last):
        for handler in handlers:
            if not any(isinstance(known, _WithoutTexts) for known in handler.filters):
                handler.addFilter(_WithoutTexts())


def _renderer(form: str) -> structlog.typing.Processor:
    if form == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


def _capture(shared: list[structlog.typing.Processor], level: str, form: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _renderer(form),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(_LEVELS[level], logging.WARNING))
