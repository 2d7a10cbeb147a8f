"""A server in the layout of the hub, and of a plain one such as OpenAI's, on this machine: for the tests of fetch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
PAGE = 5
"""Files that a page of a listing holds."""
LARGE = 200
"""From this size on, in bytes, a file is kept by git LFS, and its SHA-256 is published."""

MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b"{}" * 40,
    "model.safetensors": os.urandom(4000),
    "pytorch_model.bin": b"the same" * 50,
    "README.md": b"read me",
    "onnx/model.onnx": b"o" * 500,
    "original/params.json": b"{}",
}
SCOPE = {
    f"layer_{layer}/width_16k/average_l0_{l0}/params.npz": os.urandom(1000)
    for layer, l0 in ((0, 105), (1, 40), (1, 102), (2, 141))
}


@dataclass
class Hub:
    """What it holds, what it was asked for, and how it misbehaves."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    plain: dict[str, bytes] = field(default_factory=dict)
    """Files of the plain server, by path."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and range of the requests for files."""
    damaged: set[str] = field(default_factory=set)
    """Paths whose first byte is sent wrong."""
    stalls: dict[str, int] = field(default_factory=dict)
    """Paths of which so many bytes are sent, and then nothing until `go_on`."""
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def etag(self, path: str) -> str:
        """Of a file of the plain server: changes with its content."""
        return f'"{hashlib.md5(self.plain[path], usedforsecurity=False).hexdigest()}"'

    def fetched(self) -> list[tuple[str, str | None]]:
        """Path and range of every GET for a file."""
        return [(path, span) for method, path, span in self.asked if method == "GET"]


def serve(hub: Hub) -> ThreadingHTTPServer:
    """Starts the server on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            api = r"/api/(?:model|dataset)s/(.+?)(?:/(revision|tree|auth-check)(?:/([^/]+))?)?"
            if match := re.fullmatch(api, path):
                self._api(match[1], match[2], match[3], int(parse_qs(url.query).get("cursor", ["0"])[0]))
            elif match := re.fullmatch(r"/(?:datasets/)?(.+?)/resolve/([^/]+)/(.+)", path):
                content = hub.repos.get(match[1], {}).get(match[3])
                if content is None:
                    self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
                else:
                    self._file(match[3], content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT})
            elif path[1:] in hub.plain:
                self._file(path[1:], hub.plain[path[1:]], {"ETag": hub.etag(path[1:])})
            else:
                self._json(404, {}, {})

        def _api(self, repo: str, what: str | None, revision: str | None, start: int) -> None:
            if repo not in hub.repos:
                self._json(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            elif what == "auth-check":
                allowed = repo not in hub.gated or self.headers.get("Authorization") == "Bearer right"
                self._json(200 if allowed else 403, {}, {} if allowed else {"X-Error-Code": "GatedRepo"})
            elif revision not in (None, "main", "v2", COMMIT):
                self._json(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            elif what == "tree":
                files = sorted(hub.repos[repo].items())
                more = f"{hub.url}{urlsplit(self.path).path}?recursive=True&expand=False&cursor={start + PAGE}"
                link = {"Link": f'<{more}>; rel="next"'} if start + PAGE < len(files) else {}
                self._json(200, [_entry(name, content) for name, content in files[start : start + PAGE]], link)
            else:
                self._json(200, {"id": repo, "sha": COMMIT, "gated": "manual" if repo in hub.gated else False}, {})

        def _json(self, status: int, value: object, headers: dict[str, str]) -> None:
            body = json.dumps(value).encode()
            self._head(status, {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))})
            self.wfile.write(body if self.command == "GET" else b"")

        def _file(self, name: str, content: bytes, headers: dict[str, str]) -> None:
            span = self.headers.get("Range")
            hub.asked.append((self.command, name, span))
            if name in hub.damaged:
                content = bytes([content[0] ^ 1]) + content[1:]
            total, start, status = len(content), 0, 200
            if span and self.headers.get("If-Range") in (None, headers["ETag"]):
                start, status = int(re.fullmatch(r"bytes=(\d+)-", span)[1]), 206  # type: ignore[index]
                headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
            self._head(status, {**headers, "Content-Length": str(total - start)})
            if self.command == "GET" and name in hub.stalls and start < hub.stalls[name]:
                self.wfile.write(content[start : hub.stalls[name]])
                self.wfile.flush()
                hub.stalled.set()
                hub.go_on.wait(60)
            elif self.command == "GET":
                self.wfile.write(content[start:])

        def _head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def _oid(content: bytes) -> str:
    """What the hub names a file by: SHA-256 of large ones, the name in git of others."""
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
    if len(content) >= LARGE:
        entry |= {"oid": "0" * 40, "lfs": {"oid": _oid(content), "size": len(content), "pointerSize": 130}}
    return entry
