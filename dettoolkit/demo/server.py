"""A server for trying a demo on this computer, with the headers that give WebAssembly its threads."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"  # nobody else sees it
HEADERS = {
    # Cross-origin isolation: without it browsers give pages no shared memory, so no threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # a demo that was exported again is seen at once
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


# Said here, since what the system's tables say differs and browsers refuse scripts of other types.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    "": "application/octet-stream",
}


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = TYPES

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with suppress(ConnectionError):  # the page was left or closed meanwhile
            super().copyfile(source, outputfile)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Make a server of a demo's folder on this computer only; `serve_forever` runs it.

    Args:
        folder: as `export-demo` wrote it.
        port: 0 takes any that is free.

    Raises:
        ValueError: the folder holds no demo, or the port is taken.
    """
    if not (folder / "demo.json").is_file() or not (folder / "index.html").is_file():
        raise ValueError(
            f"{folder} holds no demo (no index.html with a demo.json): give a folder that export-demo wrote"
        )
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise ValueError(
            f"port {port} cannot be used ({error.strerror}): name another, such as --port {port + 1}"
        ) from None


def address(server: ThreadingHTTPServer) -> str:
    """Give the page's address; browsers treat `localhost` as safe enough for a camera."""
    return f"http://localhost:{server.server_address[1]}/"
