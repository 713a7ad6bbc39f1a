"""ASGI apps on loopback ports, each served by a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn

from server.admin_port import KEEP_ALIVE_SECONDS


def serve(app: Any, **options: Any) -> tuple[str, Callable[[], None]]:
    """The URL of an app that is served from now on, and what ends that; options are uvicorn's.

    Who connects before uvicorn accepts waits in the listener's queue.
    """
    # Longer than any client keeps a connection, whose next request would else meet its end.
    options = {"timeout_keep_alive": KEEP_ALIVE_SECONDS} | options
    server = uvicorn.Server(uvicorn.Config(app, **options))
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(10)
        listener.close()

    return url, stop
