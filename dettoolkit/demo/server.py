"""A server for trying a demo on this computer, with the headers that give WebAssembly its threads."""

from __future__ import annotations

import logging
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"  # reachable from this computer only
PORTS = range(65536)
SECONDS = 60.0
"""From a connection to its end; a page is loaded within one or two."""
HEADERS = {
    # Cross-origin isolation: without it browsers give pages no shared memory, so no threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # a demo that was exported again is seen at once
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


# The system's own tables differ, and browsers refuse scripts of other types.
TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json", ".wasm": "application/wasm",
    ".svg": "image/svg+xml", ".jpg": "image/jpeg", "": "application/octet-stream",
}  # fmt: skip


class _Server(ThreadingHTTPServer):
    """Serve each connection in a thread, and end those that last longer than SECONDS."""

    def __init__(self, port: int, folder: Path) -> None:
        self.begun: dict[Any, float] = {}  # connections
        super().__init__((HOST, port), partial(_Handler, directory=str(folder)))

    def process_request(self, request: Any, client_address: Any) -> None:
        self.begun[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.begun.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End what is too slow; its thread then meets the end of the connection."""
        for request, begun in list(self.begun.items()):
            if time.monotonic() - begun > SECONDS:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log defects only, not clients that have gone."""
        if not isinstance(sys.exception(), OSError):
            logger.exception("no response was sent to the request from %s", client_address)


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = TYPES

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def send_head(self) -> Any:
        try:
            return super().send_head()
        except ValueError:  # an address that cannot be a file's, such as /%00
            return self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Build a server of a demo's folder for this computer only; port 0 takes any that is free."""
    if not (folder / "demo.json").is_file() or not (folder / "index.html").is_file():
        raise ValueError(
            f"{folder} contains no demo (no index.html with a demo.json): use a folder that export-demo wrote"
        )
    if port not in PORTS:
        raise ValueError(f"port {port} cannot be used: a port is a number from 0 to {PORTS[-1]}")
    try:
        return _Server(port, folder)
    except OSError as error:
        raise ValueError(
            f"port {port} cannot be used ({error.strerror}): choose another, such as --port "
            f"{port % PORTS[-1] + 1}"
        ) from None


def address(server: ThreadingHTTPServer) -> str:
    """Return the page's address; browsers treat `localhost` as safe enough for a camera."""
    return f"http://localhost:{server.server_address[1]}/"
