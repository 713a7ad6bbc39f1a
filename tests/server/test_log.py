"""Log lines: their form, and what is kept out of them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import numpy as np
import pytest
import structlog

from server.log import (
    bound_request,
    configure_logging,
    fault_fields,
    get_logger,
    hide_texts,
)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Put the process's logging back as it was."""
    root = logging.getLogger()
    handlers, level, lines = root.handlers, root.level, structlog.get_config()
    yield
    root.handlers, root.level = handlers, level
    structlog.configure(**lines)
    structlog.contextvars.clear_contextvars()


def test_json_lines_carry_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    """A line has event, level, time, component and the request's id, on standard error."""
    configure_logging("info", "json")
    with bound_request("r-1", "ab" * 16):
        get_logger("jobs").info("policy_active", generation=3)
        get_logger("jobs").debug("not_shown")
    line = json.loads(capsys.readouterr().err)

    assert line.pop("timestamp")
    assert line == {
        "event": "policy_active",
        "level": "info",
        "component": "jobs",
        "generation": 3,
        "request_id": "r-1",
        "trace_id": "ab" * 16,
    }
    with bound_request(None):
        get_logger("jobs").info("another")
    assert not {"request_id", "trace_id"} & json.loads(capsys.readouterr().err).keys()


def test_captured_records(capsys: pytest.CaptureFixture[str]) -> None:
    """Records of the standard library come out in the same form."""
    configure_logging("info", "json", capture=True)
    logging.getLogger("a.library").warning("something")
    line = json.loads(capsys.readouterr().err)

    assert (line["event"], line["level"]) == ("something", "warning")


def test_faults_without_their_message() -> None:
    """An exception is described by class and place."""
    try:
        raise ValueError("Port Sorrel")
    except ValueError as error:
        fields = fault_fields(error)

    assert fields["error"] == "ValueError"
    assert fields["where"].startswith("test_log.py:")
    assert "Port Sorrel" not in str(fields)


def test_exceptions_of_others_are_logged_without_their_texts() -> None:
    """With a traceback, as an argument, or formatted into the message."""
    out = io.StringIO()
    logger = logging.getLogger("an.engine")
    logger.propagate = False
    logger.handlers = [logging.StreamHandler(out)]
    hide_texts(["an.engine"])
    try:
        raise ValueError("John Smith")
    except ValueError as error:
        logger.exception("a chunk failed")
        logger.exception(f"a chunk failed: {error}")
        logger.error("a chunk failed: %s", error)
    logger.warning("%s chunks of %d", "some", 7)

    assert "John" not in out.getvalue()
    assert out.getvalue().count("ValueError") == 3
    assert "test_log.py" in out.getvalue()
    assert "some chunks of 7" in out.getvalue()


def test_loggers_without_handlers_quote_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio tells so of a task whose exception nobody asked for."""
    out = io.StringIO()
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler(out))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    hide_texts(["an.engine"])
    error = ValueError("John Smith")
    logging.getLogger("nobodys").error("a task failed", exc_info=error)

    assert "ValueError at" in out.getvalue()
    assert "John" not in out.getvalue()


def _written(record: logging.LogRecord) -> str:
    """What a handler of an engine's logger writes of a record."""
    out = io.StringIO()
    logger = logging.getLogger("another.engine")
    logger.handlers = [logging.StreamHandler(out)]
    hide_texts(["another.engine"])
    logger.handlers[0].handle(record)
    return out.getvalue()


@pytest.mark.parametrize(
    ("place", "args", "told"),
    [
        # As vLLM warns of an output that it cannot parse, of a model that is not there, of a part.
        ("tool_parsers/a.py", ("{John Smith",), "x str"),
        ("entrypoints/openai/serving.py", (["John Smith"],), "x list"),
        ("renderers/chat_utils.py", ({"John": "Smith"},), "x dict"),
        ("parser/a.py", (7,), "x 7"),
        ("parser/a.py", (np.float32(0.5),), "x 0.5"),
        ("engine/core.py", ("a queue",), "x a queue"),
        ("engine/core.py", ({"queue": 3},), "x {'queue': 3}"),
        ("engine/core.py", (ValueError("John Smith"),), "x ValueError"),
    ],
)
def test_warnings_of_what_reads_texts_quote_none(
    place: str, args: tuple[object, ...], told: str
) -> None:
    """Numbers are told, and what other parts of an engine say."""
    path = f"/lib/engine/{place}"
    record = logging.LogRecord("vllm.a", logging.WARNING, path, 1, "x %s", args, None)

    assert _written(record) == f"{told}\n"


def test_what_others_only_inform_of_is_left() -> None:
    """An engine's arguments at its start, say; and a message may name its argument's keys."""
    path = "/lib/engine/entrypoints/a.py"
    info = logging.LogRecord("vllm.a", logging.INFO, path, 1, "x %s", ("args",), None)
    named = logging.LogRecord(
        "vllm.a", logging.ERROR, path, 1, "%(a)s %(b)d", ({"a": "John", "b": 2},), None
    )

    assert _written(info) == "x args\n"
    assert _written(named) == "str 2\n"


def test_of_a_request_its_path_is_logged() -> None:
    """Not what the client wrote behind it."""
    args = ("127.0.0.1:9", "GET", "/v1/models?who=John+Smith", "1.1", 200)
    message = '%s - "%s %s HTTP/%s" %d'
    record = logging.LogRecord("uvicorn.access", logging.INFO, "u.py", 1, message, args, None)

    assert _written(record) == '127.0.0.1:9 - "GET /v1/models HTTP/1.1" 200\n'


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("closed")])
def test_a_line_that_cannot_be_written_harms_nobody(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Standard error may be on a full disk: whoever tells of a fault must not meet another."""

    class Full:
        def write(self, text: str) -> int:
            raise error

        def flush(self) -> None:
            raise error

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr("sys.stderr", Full())
    configure_logging()

    get_logger("test").error("something failed", error="RuntimeError")
