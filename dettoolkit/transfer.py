"""Fetch one large file over HTTP: resumable, tried again when the line breaks, with a progress bar."""

from __future__ import annotations

import hashlib
import http.client
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tqdm import tqdm

TIMEOUT_S = 60.0  # without a byte
RETRIES = 8  # in a row that bring nothing new
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
BLOCK_BYTES = 1 << 16
PASSING_TROUBLES = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP answers worth another try


class DownloadError(RuntimeError):
    """A file cannot be fetched or unpacked; the text says what to do."""


class _BrokenTransferError(Exception):
    """A transfer stopped early and may be tried again."""


def fetch(url: str, target: Path) -> None:
    """Transfer `url` into the file `target`, going on after the bytes that are there already.

    A broken transfer is tried again after growing waits, until `RETRIES` tries in a row bring nothing new.
    `target` keeps what has come.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is not a web address: it must start with http:// or https://")
    failures, most = 0, size_of(target)
    while True:
        try:
            _transfer(url, target)
            return
        except _BrokenTransferError as error:
            size = size_of(target)
            failures = 0 if size > most else failures + 1
            most = max(most, size)
            if failures > RETRIES:
                raise DownloadError(
                    f"{url}: {error}. {RETRIES} retries failed. The {size:,} bytes downloaded so far are "
                    f"kept in {target}; run the same command again to continue"
                ) from error
            wait = min(FIRST_WAIT_S * 2**failures, LONGEST_WAIT_S)
            tqdm.write(f"{url}: {error}; trying again in {wait:.0f} s")
            time.sleep(wait)


def md5_of(path: Path) -> str:
    """Return the md5 of the file as hexadecimal digits, reading it in blocks."""
    digest = hashlib.md5(usedforsecurity=False)
    with (
        path.open("rb") as file,
        progress(f"checking {path.name.removesuffix('.part')}", size_of(path)) as bar,
    ):
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Return the size of the file in bytes, 0 when there is none."""
    return path.stat().st_size if path.is_file() else 0


def progress(name: str, total: int | None, start: int = 0, unit: str = "B") -> Any:
    """Return a progress bar; in a log file, where each update is a line, it speaks once a minute."""
    seconds = 0.1 if sys.stderr.isatty() else 60.0
    return tqdm(desc=name, total=total, initial=start, unit=unit, unit_scale=True, mininterval=seconds)


def _transfer(url: str, target: Path) -> None:
    start = size_of(target)
    response = _open(url, start)
    if response is None:
        return
    with response:
        start = _agreed_start(response, url, target, start)
        length = response.headers["Content-Length"]
        total = start + int(length) if length else None
        with (
            target.open("ab" if start else "wb") as file,
            progress(url.rpartition("/")[2], total, start) as bar,
        ):
            for block in _blocks(response):
                file.write(block)
                bar.update(len(block))
    if total is not None and size_of(target) < total:
        raise _BrokenTransferError(f"the transfer was interrupted at {size_of(target):,} of {total:,} bytes")


def _open(url: str, start: int) -> http.client.HTTPResponse | None:
    """Ask for the bytes from `start` on; None when the server says that it has none."""
    headers = {"User-Agent": "dettoolkit"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        )
        return response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return None  # stopped between the last byte and the check; the checksum tells
        answer = f"the server responded {error.code} {error.reason}"
        if error.code in PASSING_TROUBLES:
            raise _BrokenTransferError(answer) from error
        raise DownloadError(
            f"{url}: {answer}. Open the address in a browser to see whether it is right; another server "
            f"with the same files can be set with --base-url"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenTransferError(f"no connection ({getattr(error, 'reason', error)})") from error


def _agreed_start(response: http.client.HTTPResponse, url: str, target: Path, start: int) -> int:
    """Return where the answer begins: `start`, or 0 from a server that ignores Range.

    An answer that cannot be the same file is refused, so that it does not replace what has come so far.
    """
    if response.headers.get_content_type() == "text/html":
        raise DownloadError(
            f"{url}: the server sent a web page instead of a file; does the network require signing in first?"
        )
    partial = response.status == HTTPStatus.PARTIAL_CONTENT
    span = response.headers["Content-Range"] or ""
    if partial and not span.startswith(f"bytes {start}-"):
        raise DownloadError(
            f"{url}: asked from byte {start:,} on, got {span!r}; delete {target} to start over"
        )
    length = response.headers["Content-Length"]
    if not partial and length and int(length) < start:
        raise DownloadError(
            f"{url}: the server has {int(length):,} bytes, and {start:,} are in {target}: not the same file. "
            f"Delete it to start over"
        )
    return start if partial else 0


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what arrives, at once: read1 waits for no whole block, so nothing is lost with the line."""
    while True:
        try:
            block = response.read1(BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenTransferError(f"the connection was lost ({error})") from error
        if not block:
            return
        yield block
