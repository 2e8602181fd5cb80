"""A fake Hugging Face hub: models in memory, served over HTTP to the hub's own client."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub:
    """models: owner/name → {file: bytes}. gated, read_only: ids that may not be read, or not be written to.

    Uploads go the way of small files; that of large ones (LFS, xet) is not stood in for.
    """

    def __init__(self) -> None:
        self.models: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.read_only: set[str] = set()
        #: Bytes that files are said to have, whatever they have.
        self.sizes: dict[str, int] = {}
        self.private: dict[str, bool] = {}
        #: Ids at which every question is answered with this status.
        self.broken: dict[str, int] = {}
        self.asked: list[str] = []

    def put(self, name: str, folder: Path) -> None:
        self.models[name] = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}

    def sha(self, name: str) -> str:
        found = hashlib.sha1()
        for file, data in sorted(self.models[name].items()):
            found.update(file.encode() + data)
        return found.hexdigest()

    @contextmanager
    def serve(self) -> Iterator[str]:
        """The address at which it answers."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                hub._get(self, body=True)

            def do_HEAD(self) -> None:
                hub._get(self, body=False)

            def do_POST(self) -> None:
                hub._post(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            self.address = f"http://127.0.0.1:{server.server_port}"
            yield self.address
        finally:
            server.shutdown()
            server.server_close()

    def _get(self, to: BaseHTTPRequestHandler, body: bool) -> None:
        path = to.path.partition("?")[0].strip("/").split("/")
        self.asked.append(to.path)
        name = "/".join(path[2:4] if path[0] == "api" else path[:2])
        if name not in self.models:
            return _answer(to, 404, {"X-Error-Code": "RepoNotFound"})
        if name in self.broken:
            return _answer(to, self.broken[name], {})
        commit = {"X-Repo-Commit": self.sha(name)}
        if path[4:5] == ["tree"]:
            files = [{"type": "file", "path": f, "size": len(d), "oid": f} for f, d in self.models[name].items()]
            return _answer(to, 200, commit, json.dumps(files).encode())
        if path[0] == "api":
            files = [{"rfilename": f, "size": self.sizes.get(f, len(d))} for f, d in self.models[name].items()]
            found = {"id": name, "sha": self.sha(name), "siblings": files, "tags": []}
            found["private"] = self.private.get(name, False)
            return _answer(to, 200, commit, json.dumps(found).encode())
        if name in self.gated:
            return _answer(to, 403, {"X-Error-Code": "GatedRepo"})
        data = self.models[name].get("/".join(path[4:]))
        if data is None:
            return _answer(to, 404, {"X-Error-Code": "EntryNotFound", **commit})
        etag = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        return _answer(to, 200, commit | etag, data, send=body)

    def _post(self, to: BaseHTTPRequestHandler, data: bytes) -> None:
        path = to.path.partition("?")[0].strip("/").split("/")
        if path == ["api", "repos", "create"]:
            asked = json.loads(data)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.read_only:
                return _answer(to, 403, {}, b'{"error": "forbidden"}')
            if name in self.models:
                return _answer(to, 409, {}, json.dumps({"url": f"{self.address}/{name}"}).encode())
            self.models[name] = {}
            self.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
            return _answer(to, 200, {}, json.dumps({"url": f"{self.address}/{name}", "name": name}).encode())
        name, verb = "/".join(path[2:4]), path[4]
        if verb == "preupload":
            files = [f | {"uploadMode": "regular", "shouldIgnore": False} for f in json.loads(data)["files"]]
            return _answer(to, 200, {}, json.dumps({"files": files}).encode())
        for line in data.decode().splitlines():
            record = json.loads(line)
            if record["key"] == "file":
                self.models[name][record["value"]["path"]] = base64.b64decode(record["value"]["content"])
            elif record["key"] == "deletedFile":
                del self.models[name][record["value"]["path"]]
        answer = {"commitUrl": f"{self.address}/{name}/commit/{self.sha(name)}", "commitOid": self.sha(name)}
        return _answer(to, 200, {}, json.dumps(answer | {"pullRequestUrl": None}).encode())


def _answer(
    to: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes = b"", send: bool = True
) -> None:
    to.send_response(status)
    for key, value in {**headers, "Content-Length": str(len(data))}.items():
        to.send_header(key, value)
    to.end_headers()
    if send:
        to.wfile.write(data)
