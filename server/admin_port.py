"""The control process's port and HTTP server: from its address to its end by a signal."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from guard.server_life import server_pid
from server.errors import StartFault
from server.log import get_logger
from server.settings import Settings, is_loopback

# How long a connection may idle: longer than clients and proxies keep one, whose next request would
# else meet its end. httpx keeps them for 5 s, aiohttp for 15, nginx for 60.
KEEP_ALIVE_SECONDS = 75
_PARENT_POLL_SECONDS = 0.5
_DRAIN_SECONDS = 10

log = get_logger("control")


@contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """The socket of the admin API's address, closed at the end.

    Raises:
        StartFault: the address cannot be used.
    """
    host, port = settings.admin_host, settings.admin_port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise StartFault(f"cannot listen on {host}:{port}: {error.strerror}") from None
    with listener:
        yield listener


def uvicorn_server(app: object) -> uvicorn.Server:
    """The HTTP server of an ASGI app; it drains for some seconds when it is told to end."""
    return uvicorn.Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=_DRAIN_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    )


def announce(settings: Settings, listener: socket.socket) -> None:
    """Log where the admin API is and where its key comes from."""
    host, port = listener.getsockname()[:2]
    key = "from the settings" if settings.admin_key is not None else str(settings.admin_key_file)
    log.info("admin_api", host=host, port=port, admin_key=key)
    if not is_loopback(host):
        log.warning("admin_api_without_tls_is_reachable_from_other_machines", host=host)


def run_until_signal(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    uvicorn raises the signal again when it is done, so handlers that do nothing are put below it.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    server.run(sockets=[listener])


def watch_parent(server: uvicorn.Server) -> None:
    """End the server when the process that started this one is gone."""
    # It may have gone while this process was loading its code.
    parent = server_pid() or os.getppid()
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_SECONDS)
    log.warning("parent_is_gone")
    end(server)


def end(server: uvicorn.Server) -> None:
    """Tell the server to end."""
    server.should_exit = True
