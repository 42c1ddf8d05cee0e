"""A stand-in of Hugging Face's hub on loopback: what its library asks for a model, a download and a commit.

Files are in the commit itself, as small ones are on the hub; a revision is "main" or a commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

Files = dict[str, bytes]


class HubServer(ThreadingHTTPServer):
    """The hub's repositories, each a list of commits, and the files that were asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, list[tuple[str, Files]]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        """Return where it is."""
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, name: str, files: Files) -> str:
        """Add files to a repository; return the commit."""
        commits = self.repositories.setdefault(name, [])
        whole = {**(commits[-1][1] if commits else {}), **files}
        sha = hashlib.sha1(f"{name} {len(commits)}".encode()).hexdigest()
        commits.append((sha, whole))
        return sha


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def log_message(self, *_args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            found = self._commit("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
            if found is not None:
                sha, files = found
                tree = [
                    {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
                    for path, content in files.items()
                ]
                siblings = [{"rfilename": path} for path in files]
                model = {"id": "/".join(parts[2:4]), "sha": sha, "siblings": siblings}
                self._answer(tree if parts[4:5] == ["tree"] else model)
            return
        found = self._commit("/".join(parts[:2]), parts[3])
        if found is None:
            return
        sha, files = found
        path = "/".join(parts[4:])
        self.server.asked.append(path)
        if path not in files:
            self._refuse("EntryNotFound")
            return
        headers = {"ETag": f'"{_oid(files[path])}"', "X-Repo-Commit": sha}
        self._send(200, files[path], headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            there = name in self.server.repositories
            if not there:
                self.server.repositories[name] = [("0" * 40, {})]
                self.server.private[name] = wanted.get("visibility") == "private" or bool(
                    wanted.get("private")
                )
            self._answer({"url": f"{self.server.address}/{name}"}, 409 if there else 200)
        elif self.path == "/api/validate-yaml":
            yaml.safe_load(json.loads(body)["content"].split("---")[1])
            self._answer({})
        elif parts[4] == "preupload":
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            content = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            name = "/".join(parts[2:4])
            sha = self.server.commit(name, content)
            url = f"{self.server.address}/{name}/commit/{sha}"
            self._answer({"success": True, "commitOid": sha, "commitUrl": url})

    def _commit(self, name: str, revision: str) -> tuple[str, Files] | None:
        """Find a commit, or answer that there is none."""
        if name not in self.server.repositories:
            self._refuse("RepoNotFound")
            return None
        commits = self.server.repositories[name]
        found = [each for each in commits if revision in (each[0], "main")]
        if not found:
            self._refuse("RevisionNotFound")
            return None
        return found[-1]

    def _refuse(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code})

    def _answer(self, content: object, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serve an empty hub."""
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
