"""From a request to its answer: which address means what, and who may ask.

Nothing here writes to a socket. Messages never repeat what the request said.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote

from gguf_hub.hub.mirror import answers
from gguf_hub.hub.mirror.ranges import parse_range
from gguf_hub.hub.mirror.repository_index import (
    BRANCH,
    OfferedFile,
    RepositoryIndex,
    Snapshot,
    open_unchanged,
)


@dataclass(frozen=True)
class Request:
    """A request as it came; names of ``headers`` in lower case, ``target`` still encoded."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class FileSlice:
    """Bytes of an open file, which whoever sends them must close."""

    file: BinaryIO
    start: int
    n_bytes: int


@dataclass(frozen=True)
class Response:
    """An answer; ``n_bytes`` is its length, also where a HEAD request gets no body."""

    status: int
    headers: Mapping[str, str]
    body: bytes | FileSlice
    n_bytes: int


ManifestOf = Callable[[Path], Any]


class HttpError(Exception):
    """An answer that is no success: a status, the hub's code for it, and why."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


_NOTHING = ("", "nothing is served at this address")


class Routes:
    """Answers requests about the files of an index.

    Args:
        index: What is offered.
        token: What a request must carry; None lets everybody ask who reaches the server.
        manifest_of: Returns the SHA-256 of each tensor of a file as JSON, where it was computed.
    """

    def __init__(
        self,
        index: RepositoryIndex,
        token: str | None = None,
        manifest_of: ManifestOf = lambda path: None,
    ) -> None:
        self._index = index
        self._token = token
        self._manifest_of = manifest_of

    def answer(self, request: Request) -> Response:
        """Return the answer to any request whatever."""
        try:
            self._authorize(request)
            return self._route(request)
        except HttpError as error:
            return _error_response(error)

    def _authorize(self, request: Request) -> None:
        if self._token is not None:
            authorization = request.headers.get("authorization", "").encode()
            if not hmac.compare_digest(authorization, f"Bearer {self._token}".encode()):
                raise HttpError(401, "", "a token is needed", WWW_Authenticate="Bearer")
        elif not _is_address(request.headers.get("host")):
            # a web page that makes a name of its own lead here must not read from it
            raise HttpError(421, "", "ask by address or as localhost")

    def _route(self, request: Request) -> Response:
        parts, query = _parse_target(request.target)
        if parts[:2] == ["api", "models"]:
            if request.method not in ("GET", "HEAD", "POST"):
                raise _wrong_method("GET, HEAD, POST")
            return _json(self._api(parts[2:], query, request))
        if request.method not in ("GET", "HEAD"):
            raise _wrong_method("GET, HEAD")
        for n in (2, 1):  # `org/name`, and the hub's oldest models that have no organisation
            if parts[n : n + 1] == ["resolve"] and len(parts) > n + 2:
                repo_id, path = "/".join(parts[:n]), "/".join(parts[n + 2 :])
                return self._file(repo_id, parts[n + 1], path, request)
        raise HttpError(404, *_NOTHING)

    # --- listings

    def _api(self, parts: list[str], query: Mapping[str, str], request: Request) -> Any:
        if not parts:
            return list(self._search(query))
        repo_id = next((i for n in (2, 1) if self._index.has(i := "/".join(parts[:n]))), None)
        if repo_id is None:
            raise _no_repo()
        what, *rest = parts[repo_id.count("/") + 1 :] or [""]
        if (request.method == "POST") != (what == "paths-info"):
            raise _wrong_method("POST" if what == "paths-info" else "GET, HEAD")
        if what in ("", "revision"):
            return answers.model_info(
                self._listing(repo_id, *rest[:1]), with_blobs=_is_true(query.get("blobs"))
            )
        if what == "refs":
            return answers.refs(self._listing(repo_id))
        if what == "paths-info" and rest:
            return answers.paths_info(self._listing(repo_id, rest[0]), _requested_paths(request))
        if what == "tree" and rest:
            return self._tree(repo_id, rest[0], "/".join(rest[1:]), query)
        if what == "manifest" and len(rest) > 1:
            return self._manifest(repo_id, rest[0], "/".join(rest[1:]))
        raise HttpError(404, *_NOTHING)

    def _manifest(self, repo_id: str, revision: str, path: str) -> Any:
        """Return the hashes of a file's tensors; the hub itself has no such thing."""
        offered = self._index.file(repo_id, revision, path)
        if offered is None:
            raise self._why_not(repo_id, revision)
        manifest = self._manifest_of(offered.entry.path)
        if manifest is None:
            raise HttpError(
                404, "EntryNotFound", "no manifest: `gguf-hub verify FILE --manifest` makes it"
            )
        return manifest

    def _search(self, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        for repo_id in self._index.repo_ids():
            listing = self._index.snapshot(repo_id)
            is_match = query.get("search", "").lower() in repo_id.lower()
            is_of_author = "author" not in query or repo_id.startswith(f"{query['author']}/")
            if listing and is_match and is_of_author:
                yield answers.model_info(listing)

    def _tree(
        self, repo_id: str, revision: str, folder: str, query: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        listing = self._listing(repo_id, revision)
        if revision not in (BRANCH, listing.commit):
            # clients keep the listing of a commit for good, and this would be only some of it
            raise HttpError(
                404, "RevisionNotFound", "the mirror cannot list a commit of the hub: ask for main"
            )
        is_recursive = _is_true(query.get("recursive"))
        entries = answers.tree(listing, folder, is_recursive=is_recursive)
        if folder and not entries:
            raise _no_entry()
        return entries

    def _listing(self, repo_id: str, revision: str = BRANCH) -> Snapshot:
        listing = self._index.snapshot(repo_id, revision)
        if listing is None:
            raise _no_revision()
        return listing

    # --- files

    def _file(self, repo_id: str, revision: str, path: str, request: Request) -> Response:
        offered = self._index.file(repo_id, revision, path)
        if offered is None:
            raise self._why_not(repo_id, revision)
        size_bytes, etag = offered.entry.size_bytes, f'"{offered.entry.sha256}"'
        headers = {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "ETag": etag,
            "X-Repo-Commit": offered.commit,
        }
        if request.method == "HEAD":
            return Response(200, headers, b"", size_bytes)
        byte_range = parse_range(
            request.headers.get("range"),
            size_bytes,
            if_range=request.headers.get("if-range"),
            etag=etag,
        )
        if byte_range is None:
            return _slice(200, headers, offered, 0, size_bytes)
        headers["Content-Range"] = byte_range.content_range
        if byte_range.start >= size_bytes:
            return Response(416, headers, b"", 0)
        return _slice(206, headers, offered, byte_range.start, byte_range.stop)

    def _why_not(self, repo_id: str, revision: str) -> HttpError:
        if not self._index.has(repo_id):
            return _no_repo()
        return _no_entry() if self._index.snapshot(repo_id, revision) else _no_revision()


def _slice(
    status: int, headers: Mapping[str, str], offered: OfferedFile, start: int, stop: int
) -> Response:
    file = open_unchanged(offered.entry)
    if file is None:
        raise _no_entry()
    return Response(status, headers, FileSlice(file, start, stop - start), stop - start)


def _parse_target(target: str) -> tuple[list[str], dict[str, str]]:
    """Return the decoded parts of a path and its query; each part is decoded once."""
    path, _, query = target.partition("?")
    if not path.startswith("/"):
        raise HttpError(404, *_NOTHING)
    try:
        parts = [unquote(part, errors="strict") for part in path[1:].split("/")]
        fields = parse_qs(query, max_num_fields=100)
    except ValueError as exc:
        raise HttpError(404, *_NOTHING) from exc
    return parts, {name: values[-1] for name, values in fields.items()}


def _requested_paths(request: Request) -> list[str]:
    """Return the paths of a form, as Python's client sends it, or of JSON, as JavaScript's."""
    try:
        if "json" in request.headers.get("content-type", ""):
            paths = json.loads(request.body)["paths"]
        else:
            paths = parse_qs(request.body.decode()).get("paths", [])
        return [str(path) for path in ([paths] if isinstance(paths, str) else paths)]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise HttpError(400, "", "expected a form or JSON with `paths`") from exc


def _is_address(host: str | None) -> bool:
    """Return whether a ``Host`` header is an address, or this machine's name for itself."""
    if host is None:
        return True  # not a browser
    name = host.rpartition("]")[0].lstrip("[") if "]" in host else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in ("1", "true")


def _json(value: Any) -> Response:
    body = json.dumps(value).encode()
    return Response(200, {"Content-Type": "application/json"}, body, len(body))


def _error_response(error: HttpError) -> Response:
    body = json.dumps({"error": str(error)}).encode()
    headers = {"Content-Type": "application/json", "X-Error-Message": str(error)}
    if error.code:
        headers["X-Error-Code"] = error.code
    return Response(error.status, headers | error.headers, body, len(body))


def _no_repo() -> HttpError:
    return HttpError(404, "RepoNotFound", "the mirror has no such repository")


def _no_revision() -> HttpError:
    return HttpError(404, "RevisionNotFound", "the mirror has no such revision: ask for main")


def _no_entry() -> HttpError:
    return HttpError(404, "EntryNotFound", "the mirror has no such file")


def _wrong_method(allowed: str) -> HttpError:
    return HttpError(405, "", "the mirror is read-only", Allow=allowed)
