"""Log lines: their form, and what is kept out of them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from server.log import (
    bound_request,
    configure_logging,
    fault_fields,
    get_logger,
    hide_exception_texts,
)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Put the process's logging back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
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
    hide_exception_texts(["an.engine"])
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
