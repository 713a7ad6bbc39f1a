"""A node's HTTP client of the control process: the leader among several addresses."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from server.errors import (
    CertificateNotTrusted,
    ControlRefused,
    ControlUnreachable,
    NotFound,
    StartFault,
)
from server.nodes.wire import PREFIX, Listing, NodeCounts, NodeReport, Orders
from server.settings import Settings, is_loopback

_CONNECT_SECONDS = 5.0
# Between two pieces of an answer.
_READ_SECONDS = 5.0
_LONGEST_ANSWER = 64 * 1024 * 1024

Answer = TypeVar("Answer", bound=BaseModel)


class Link:
    """Calls one of the addresses, and the next one after a failure. Not for several threads."""

    def __init__(self, settings: Settings, node_id: str) -> None:
        """Nothing is connected yet.

        Raises:
            StartFault: there is no key, or the certificates cannot be read.
        """
        if settings.node_key is None:
            raise StartFault("a node needs a key: set LETHEGATE_NODE_KEY")
        key = settings.node_key.get_secret_value()
        self._urls, self._at = settings.control_urls, 0
        self._node = f"{PREFIX}/nodes/{node_id}"
        self._http = httpx.Client(
            headers={"authorization": f"Bearer {key}", "accept-encoding": "identity"},
            timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
            verify=_trusted(settings.control_ca_file),
            trust_env=False,  # forget text and the key are not for a proxy
            follow_redirects=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def orders(self, etag: str, wait_seconds: float) -> tuple[Orders, str] | None:
        """The orders and their tag; None if they are those of `etag` still, after the wait.

        Raises:
            ControlUnreachable, ControlRefused: there is no answer, or one that cannot be used.
        """
        with self._asked():
            response = self._http.get(
                self._url(f"{self._node}/orders"),
                params={"wait": wait_seconds},
                headers={"if-none-match": etag},
                timeout=httpx.Timeout(_READ_SECONDS + wait_seconds, connect=_CONNECT_SECONDS),
            )
            if response.status_code == 304:
                return None
            return _parsed(response, Orders), response.headers.get("etag", "")

    def report(self, report: NodeReport) -> Orders:
        """Say how the node is; gives its orders.

        Raises:
            ControlUnreachable, ControlRefused: as `orders`.
        """
        with self._asked():
            return _parsed(self._put(self._node, report), Orders)

    def count(self, counts: NodeCounts) -> None:
        """Say what the gateways here have counted.

        Raises:
            ControlUnreachable, ControlRefused: as `orders`.
            NotFound: the control process has not heard of this node.
        """
        with self._asked():
            _check(self._put(f"{self._node}/counts", counts))

    def listing(self, path: str) -> Listing:
        """The files of an index or assistant.

        Raises:
            ControlUnreachable, ControlRefused: as `orders`.
            NotFound: it is not in force any more.
        """
        with self._asked():
            return _parsed(self._http.get(self._url(f"{PREFIX}/{path}")), Listing)

    def small(self, path: str) -> bytes:
        """A whole file that is not long.

        Raises:
            ControlUnreachable, ControlRefused, NotFound: as `listing`.
        """
        with self._asked(), self._http.stream("GET", self._url(f"{PREFIX}/{path}")) as response:
            _check(response)
            content = bytearray()
            for piece in response.iter_bytes():
                content += piece
                if len(content) > _LONGEST_ANSWER:
                    raise ControlRefused("an answer is too long")
            return bytes(content)

    @contextmanager
    def pieces(self, path: str, first: int) -> Iterator[tuple[bool, Iterator[bytes]]]:
        """A file from a byte on, as it comes; the first value is whether it begins there.

        Raises:
            ControlUnreachable, ControlRefused, NotFound: as `listing`, also while it is read.
        """
        headers = {"range": f"bytes={first}-"} if first else {}
        url = self._url(f"{PREFIX}/{path}")
        with self._asked(), self._http.stream("GET", url, headers=headers) as response:
            _check(response)
            yield response.status_code == 206, response.iter_bytes(1 << 18)

    def _put(self, path: str, message: BaseModel) -> httpx.Response:
        headers = {"content-type": "application/json"}
        content = message.model_dump_json().encode()
        return self._http.put(self._url(path), content=content, headers=headers)

    def _url(self, path: str) -> str:
        return self._urls[self._at % len(self._urls)] + path

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Errors as ours; after one that another address may not have, that one is next."""
        try:
            yield
        except httpx.HTTPError as error:
            self._at += 1
            raise _unreachable(error) from None
        except ControlUnreachable:
            self._at += 1
            raise


def warn_of_clear_text(addresses: Iterable[str]) -> list[str]:
    """The hosts to which what is sent would go unencrypted over a network."""
    urls = map(httpx.URL, addresses)
    return [url.host for url in urls if url.scheme == "http" and not is_loopback(url.host)]


def _unreachable(error: BaseException) -> ControlUnreachable:
    """An error of the connection as ours; TLS's own sentence says what a certificate lacks."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateNotTrusted(cause.verify_message)
        cause = cause.__cause__ or cause.__context__
    return ControlUnreachable(type(error).__name__)


def _trusted(file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if file is None else str(file))
    except (OSError, ssl.SSLError):
        raise StartFault(f"control_ca_file: cannot read certificates from {file}") from None


def _parsed(response: httpx.Response, kind: type[Answer]) -> Answer:
    _check(response)
    try:
        return kind.model_validate_json(response.content)
    except ValidationError:
        raise ControlRefused("an answer cannot be read") from None


def _check(response: httpx.Response) -> None:
    status = response.status_code
    if status == 404:
        raise NotFound("That is not in force.")
    if status >= 500:  # one that stands by, or starts
        raise ControlUnreachable(f"status {status}")
    if status not in (200, 206):
        raise ControlRefused(f"status {status}")
