"""A Hugging Face Hub on loopback: a real HTTP/1.1 server that the real client talks to.

It serves model info, search, tree (paged), paths-info, refs and resolve (HEAD and ranged GET) as
the hub does, with gated and private repositories, a redirect to a "CDN" of another origin, faults
that a test sets, and a log of all requests::

    hub = HubServer()
    hub.add_repo("org/name", {"a.gguf": b"..."})
    hub.faults.append(Fault("GET", "*/resolve/*", drop_after=1000, times=1))
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

CHUNK = 64 * 1024
ENDLESS_BYTES = 1 << 30  # a client that takes so much will not stop by itself


@dataclass
class Fault:
    """What goes wrong, for requests whose method and path match.

    Args:
        method: HTTP method, or ``"*"``.
        path: Glob over the decoded path, e.g. ``"*/resolve/*"``, ``"/cdn/*"``, ``"/api/*"``.
        origin: Only requests that come to this origin: the hub's own, or the file host's.
        times: How many requests it hits; None for all.
        status: Answer with this status instead.
        headers: More headers (they replace those of the same name; None takes one away).
        body: Send this body instead.
        drop_after: Cut the connection after so many bytes of body.
        ends_after: Close it in good order after so many; with no ``Content-Length`` nothing shows
            that more was to come.
        stall_s: Wait so long before the body.
        meeting: Send bodies only when so many requests wait for theirs.
        bytes_per_s: Send the body this slowly.
        flip_at: Flip the lowest bit of the byte at this offset of the file.
        ignore_range: Answer 200 with the whole file to a ranged request.
        endless: Send this over and over, with no length, until the client goes.
        goes_on: Say that a listing goes on, each time at a page that was not there before.

    ``{authorization}`` in ``headers`` and ``body`` is what the request had as that header,
    ``{target}`` in ``headers`` its path and query.
    """

    method: str
    path: str
    origin: str | None = None
    times: int | None = None
    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    drop_after: int | None = None
    ends_after: int | None = None
    stall_s: float = 0.0
    meeting: threading.Barrier | None = None
    bytes_per_s: float | None = None
    flip_at: int | None = None
    ignore_range: bool = False
    endless: bytes | None = None
    goes_on: bool = False

    def hits(self, method: str, path: str, origin: str) -> bool:
        """Tell whether the fault is meant for this request, and count it if so."""
        is_meant = self.method in ("*", method) and fnmatchcase(path, self.path)
        if self.times == 0 or not is_meant or self.origin not in (None, origin):
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class Request:
    """One request as it was seen, and how it was answered."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    origin: str
    client_port: int  # the same for requests over one connection
    status: int = 0
    sent_bytes: int = 0


@dataclass
class Repo:
    """A model repository: commits of files, and names of commits."""

    repo_id: str
    gated: bool = False
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit_of(self, revision: str) -> str | None:
        """Return the commit that a branch or a commit id names."""
        return revision if revision in self.commits else self.refs.get(revision)


def sha256(data: bytes) -> str:
    """SHA-256 in hex: the hub's id of a large file."""
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    """Git's blob id: the hub's id of a small file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubServer:
    """The hub, listening as soon as it is made.

    Args:
        redirect: Send large files from the second origin (a "CDN") by 302, as the hub does.
        page_size: Tree entries per page.
        prefix: Folder of the address that everything lies under, as behind a reverse proxy.

    ``endpoint`` is what ``HF_ENDPOINT`` takes. The token ``hf_reader`` is known to the hub, and
    ``hf_member`` may also read gated and private repositories.
    """

    def __init__(self, *, redirect: bool = False, page_size: int = 1000, prefix: str = "") -> None:
        self.redirect = redirect
        self.page_size = page_size
        self.prefix = prefix
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.errors: list[str] = []
        self._lock = threading.Lock()
        self._servers = [_Server(self), _Server(self)]
        self.endpoint, self.cdn = (server.origin + prefix for server in self._servers)

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        revision: str = "main",
        gated: bool = False,
        private: bool = False,
    ) -> str:
        """Add a commit of ``files`` as ``revision`` and return its id."""
        repo = self.repos.setdefault(repo_id, Repo(repo_id, gated, private))
        text = repr((repo_id, revision, sorted((p, sha256(d)) for p, d in files.items())))
        commit = hashlib.sha1(text.encode()).hexdigest()
        repo.commits[commit] = dict(files)
        repo.refs[revision] = commit
        return commit

    def body_requests(self) -> list[Request]:
        """Return the requests for the content of files (not HEAD, not the listing)."""
        return [r for r in self.requests if r.method == "GET" and not r.path.startswith("/api/")]

    def take_fault(self, method: str, path: str, origin: str) -> Fault | None:
        """Return the first fault that hits, counted."""
        with self._lock:
            return next((f for f in self.faults if f.hits(method, path, origin)), None)

    def close(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.stop()

    def __enter__(self) -> HubServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, hub: HubServer) -> None:
        self.hub = hub
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.origin = f"http://127.0.0.1:{self.server_port}"
        # a short poll, so that closing takes no half second
        self._thread = threading.Thread(target=self.serve_forever, args=(0.005,), daemon=True)
        self._thread.start()

    def handle_error(self, request: object, client_address: object) -> None:
        import sys
        import traceback

        if not isinstance(sys.exc_info()[1], ConnectionError):
            self.hub.errors.append(traceback.format_exc())

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)


class _Refused(Exception):
    """An answer that is no success: status, the hub's error code, its message."""

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message} | (headers or {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every small answer waits 40 ms for the client's ACK
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the log is ``HubServer.requests``."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, parts = self.server.hub, urlsplit(self.path)
        path = unquote(parts.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.form = self.rfile.read(int(headers.get("content-length", 0))).decode()
        self.record = Request(
            self.command,
            path,
            parse_qs(parts.query),
            headers,
            self.server.origin,
            self.client_address[1],
        )
        hub.requests.append(self.record)
        self.fault = hub.take_fault(self.command, path, self.server.origin) or Fault("*", "*")
        try:
            if self.fault.status is not None:
                raise _Refused(self.fault.status, "", "injected fault")
            self._route(self._below(path).strip("/").split("/"), self._below(parts.path))
        except _Refused as refused:
            self._send(refused.status, refused.headers, str(refused).encode())

    def _below(self, path: str) -> str:
        """Return a path below the prefix; that of a cached file is that of the file."""
        prefix = self.server.hub.prefix
        if not path.startswith(f"{prefix}/"):
            raise _Refused(404, "", f"nothing lies outside of {prefix}")
        path = path.removeprefix(prefix)
        if path.startswith("/api/resolve-cache/") and "etag" not in self.record.query:
            raise _Refused(400, "", "no etag")
        return path.removeprefix("/api/resolve-cache")

    def _route(self, parts: list[str], raw_path: str) -> None:
        match parts:
            case ["cdn", sha]:
                self._serve_cdn(sha)
            case ["api", "models"]:
                self._serve_search()
            case ["api", "models", owner, name]:
                self._serve_info(f"{owner}/{name}", "main")
            case ["api", "models", owner, name, "revision", *revision]:
                self._serve_info(f"{owner}/{name}", "/".join(revision))
            case ["api", "models", owner, name, "tree", revision, *folder]:
                self._serve_tree(f"{owner}/{name}", revision, "/".join(folder), raw_path)
            case ["api", "models", owner, name, "paths-info", revision]:
                self._serve_paths_info(f"{owner}/{name}", revision)
            case ["api", "models", owner, name, "refs"]:
                self._serve_refs(f"{owner}/{name}")
            case [owner, name, "resolve", revision, *path] if path:
                # a revision with slashes comes as one quoted part
                revision = unquote(raw_path.strip("/").split("/")[3])
                skip = len(revision.split("/")) - 1
                self._serve_file(f"{owner}/{name}", revision, "/".join(path[skip:]))
            case _:
                raise _Refused(404, "", f"no such page: {'/'.join(parts)}")

    # --- the api

    def _serve_search(self) -> None:
        text = self.record.query.get("search", [""])[0].lower()
        owner = self.record.query.get("author", [""])[0]
        found = [
            repo_id
            for repo_id, repo in self.server.hub.repos.items()
            if text in repo_id.lower() and not repo.private
            if not owner or repo_id.split("/")[0] == owner
        ]
        self._send_json([{"id": repo_id, "modelId": repo_id} for repo_id in found])

    def _serve_info(self, repo_id: str, revision: str) -> None:
        repo, commit = self._find(repo_id, revision)
        with_blobs = self.record.query.get("blobs", [""])[0].lower() == "true"
        siblings: list[dict[str, object]] = []
        for path, data in repo.commits[commit].items():
            entry: dict[str, object] = {"rfilename": path}
            if with_blobs:
                entry |= {"size": len(data), "blobId": git_sha1(data)}
                if _is_large(path):
                    lfs = {"sha256": sha256(data), "size": len(data), "pointerSize": 134}
                    entry["lfs"] = lfs
            siblings.append(entry)
        gated = "manual" if repo.gated else False
        info = {"id": repo_id, "sha": commit, "gated": gated, "private": repo.private}
        self._send_json(info | {"siblings": siblings, "tags": [], "downloads": 0})

    def _serve_tree(self, repo_id: str, revision: str, folder: str, raw_path: str) -> None:
        repo, commit = self._find(repo_id, revision)
        is_recursive = self.record.query.get("recursive", ["false"])[0].lower() == "true"
        rows = list(_tree(repo.commits[commit], folder, is_recursive))
        start, size = int(self.record.query.get("cursor", ["0"])[0]), self.server.hub.page_size
        headers = {}
        if start + size < len(rows) or self.fault.goes_on:
            flags = f"recursive={is_recursive}&cursor={start + size}"
            headers["Link"] = (
                f'<{self.server.origin}{self.server.hub.prefix}{raw_path}?{flags}>; rel="next"'
            )
        self._send_json(rows[start : start + size], headers)

    def _serve_paths_info(self, repo_id: str, revision: str) -> None:
        repo, commit = self._find(repo_id, revision)
        files = repo.commits[commit]
        wanted = parse_qs(self.form).get("paths", [])
        self._send_json([_tree_entry(path, files[path]) for path in wanted if path in files])

    def _serve_refs(self, repo_id: str) -> None:
        repo, _ = self._find(repo_id, "main")
        rows = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in repo.refs.items()
        ]
        self._send_json({"branches": rows, "tags": [], "converts": []})

    def _find(self, repo_id: str, revision: str) -> tuple[Repo, str]:
        repo = self.server.hub.repos.get(repo_id)
        token = self.record.headers.get("authorization", "").removeprefix("Bearer ")
        if repo is None or (repo.private and token != "hf_member"):
            # the hub does not tell strangers what exists
            status = 404 if token else 401
            raise _Refused(status, "RepoNotFound", "Repository not found")
        commit = repo.commit_of(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, commit

    # --- files

    def _serve_file(self, repo_id: str, revision: str, path: str) -> None:
        repo, commit = self._find(repo_id, revision)
        token = self.record.headers.get("authorization", "").removeprefix("Bearer ")
        if repo.gated and token != "hf_member":
            status = 403 if token else 401
            raise _Refused(status, "GatedRepo", f"Access to model {repo_id} is restricted")
        headers = {"X-Repo-Commit": commit}
        data = repo.commits[commit].get(path)
        if data is None:
            raise _Refused(404, "EntryNotFound", "Entry not found", headers)
        if self.server.hub.redirect and _is_large(path):
            digest = sha256(data)
            query = f"sig={digest[:8]}&name={quote(path)}"
            headers |= {
                "Location": f"{self.server.hub.cdn}/cdn/{digest}?{query}",
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(data)),
            }
            self._send(302, headers, b"")
            return
        headers["ETag"] = f'"{sha256(data) if _is_large(path) else git_sha1(data)}"'
        self._send_file(data, headers)

    def _serve_cdn(self, digest: str) -> None:
        if self.record.query.get("sig") != [digest[:8]]:
            raise _Refused(403, "", "wrong signature")
        for repo in self.server.hub.repos.values():
            for files in repo.commits.values():
                for data in files.values():
                    if sha256(data) == digest:
                        self._send_file(data, {"ETag": f'"{digest}"'})
                        return
        raise _Refused(404, "", "no such object")

    def _send_file(self, data: bytes, headers: dict[str, str]) -> None:
        if self.fault.flip_at is not None:
            at = self.fault.flip_at
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        headers["Accept-Ranges"] = "bytes"
        asked = self.record.headers.get("range")
        condition = self.record.headers.get("if-range")
        if asked and not self.fault.ignore_range and condition in (None, headers.get("ETag")):
            start, stop = _parse_range(asked, len(data))
            if start >= len(data):
                headers["Content-Range"] = f"bytes */{len(data)}"
                self._send(416, headers, b"")
                return
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            self._send(206, headers, data[start:stop])
        else:
            self._send(200, headers, data)

    # --- the wire

    def _send_json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self._send(200, {"Content-Type": "application/json", **(headers or {})}, body)

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        sent = self.record.headers.get("authorization", "")
        if self.fault.body is not None:
            body = self.fault.body.replace(b"{authorization}", sent.encode())
        length = {"Content-Length": str(len(body))}
        said = {name: text and text.replace("{target}", self.path)
                for name, text in self.fault.headers.items()}  # fmt: skip
        merged = {**length, **headers, **said}
        if self.fault.endless:
            merged["Content-Length"] = None
        if self.fault.ends_after is not None:
            body = body[: self.fault.ends_after]
        if self.fault.endless or self.fault.ends_after is not None:
            self.close_connection = True
        self.record.status = status
        self.send_response(status)
        for name, value in merged.items():
            if value is not None:
                said = (text.replace("{authorization}", sent) for text in (name, value))
                self.send_header(*said)
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(body)

    def _send_endless(self, piece: bytes) -> None:
        chunk = piece * (CHUNK // len(piece) + 1)
        with contextlib.suppress(OSError):
            while self.record.sent_bytes < ENDLESS_BYTES:
                self.wfile.write(chunk)
                self.record.sent_bytes += len(chunk)

    def _send_body(self, body: bytes) -> None:
        time.sleep(self.fault.stall_s)
        if self.fault.meeting:
            self.fault.meeting.wait(60)
        if self.fault.endless:
            self._send_endless(self.fault.endless)
            return
        drop_after = self.fault.drop_after
        rate = self.fault.bytes_per_s
        step = max(int(rate / 20), 1) if rate else CHUNK
        for start in range(0, len(body), step):
            chunk = body[start : start + step]
            if drop_after is not None:
                chunk = chunk[: drop_after - start]
            self.wfile.write(chunk)
            self.record.sent_bytes += len(chunk)
            if rate:
                time.sleep(len(chunk) / rate)
            if drop_after is not None and self.record.sent_bytes >= drop_after:
                self._cut()
                return

    def _cut(self) -> None:
        """End the connection with a reset, as a network does that goes away."""
        self.wfile.flush()
        time.sleep(0.02)  # let what was sent be read before the reset overtakes it
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True


def _is_large(path: str) -> bool:
    """Tell whether the hub would keep the file in its large file storage."""
    return path.endswith((".gguf", ".bin", ".safetensors"))


def _tree_entry(path: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(data)}
    entry["oid"] = git_sha1(data)
    if _is_large(path):
        entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return entry


def _tree(
    files: Mapping[str, bytes], folder: str, is_recursive: bool
) -> Iterator[dict[str, object]]:
    """Yield the entries below ``folder``: files, and folders before what is in them."""
    base, seen = f"{folder}/" if folder else "", set()
    for path in sorted(p for p in files if p.startswith(base)):
        parts = path[len(base) :].split("/")
        for depth in range(1, len(parts) if is_recursive else min(len(parts), 2)):
            inner = base + "/".join(parts[:depth])
            if inner not in seen:
                seen.add(inner)
                oid = hashlib.sha1(inner.encode()).hexdigest()
                yield {"type": "directory", "path": inner, "oid": oid, "size": 0}
        if is_recursive or len(parts) == 1:
            yield _tree_entry(path, files[path])


def _parse_range(text: str, size: int) -> tuple[int, int]:
    """Return the half-open range of ``bytes=a-b``, ``bytes=a-`` or ``bytes=-n``."""
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size
