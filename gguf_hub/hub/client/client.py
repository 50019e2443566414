"""The hub over huggingface_hub's own session: proxies, certificates, user agent, token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote as url_quote
from urllib.parse import urlencode

from gguf_hub.errors import (
    FileChangedError,
    GgufHubError,
    HubError,
    HubUnreachableError,
    UsageError,
)
from gguf_hub.hub.client import session
from gguf_hub.hub.client.endpoint import Endpoint, configured_endpoint, show_origin
from gguf_hub.hub.client.interface import (
    ByteStream,
    FileMetadata,
    RemoteFile,
    RepoListing,
    is_offline,
)
from gguf_hub.hub.client.listing import (
    Page,
    content_id,
    read_all,
    read_commit,
    read_files,
    read_repo_ids,
    require_distinct,
    whole_number,
)
from gguf_hub.hub.client.retry import Backoff
from gguf_hub.hub.client.translate import offline, translate_errors
from gguf_hub.hub.client.transport import TimeBudget, Transport, decode_body, redirect_target

RETRY_WAITS_S = (1.0, 2.0, 4.0)
STALL_S, STALL_BYTES = 30.0, 16_384
"""A connection that brings so little in so long is given up, though it is never silent."""

OTHER_SIZE_HINT = (
    "check that no login page of the network is in the way; otherwise the hub or a mirror is broken"
)
_NOTED_WAIT_S = 5.0
_USE_RANGES = "drop --engine: byte ranges work with every hub"

_T = TypeVar("_T")


class HfHub:
    """The Hugging Face Hub, or whatever speaks its API at ``HF_ENDPOINT``.

    Args:
        endpoint: Address; ``HF_ENDPOINT`` or huggingface.co when None.
        token: Access token; the saved one or ``HF_TOKEN`` when None.
        timeout_s: How long the server may be silent; ``HF_HUB_DOWNLOAD_TIMEOUT`` or 10 when None.
        retry_waits_s: Pauses between tries while the server is busy.
        note: Told when a pause is long, or the token is not sent.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float | None = None,
        retry_waits_s: tuple[float, ...] = RETRY_WAITS_S,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        where = Endpoint.parse(endpoint, "the endpoint") if endpoint else configured_endpoint()
        self.endpoint = where.url
        self.timeout_s = timeout_s or session.timeout_s()
        self._transport = Transport(where, token, self.timeout_s, note)
        self._retry_waits_s = retry_waits_s
        self._note = note

    def is_exposed(self) -> bool:
        """Return whether others can read and change what travels: plain http to another machine."""
        return self._transport.endpoint.is_exposed

    def sent_secret(self) -> str | None:
        """Return what requests carry: ``password``, ``token`` or None; raises as ``has_token``."""
        if self._transport.endpoint.authorization:
            return "password"
        return "token" if self.has_token() else None

    def has_token(self) -> bool:
        """Return whether there is a token (which is never shown).

        Raises:
            UsageError: What stands where a token should cannot be one.
        """
        return self._transport.has_token()

    def list_files(self, repo_id: str, revision: str = "main") -> RepoListing:
        """Return all files of a repository.

        Args:
            repo_id: ``"org/name"``.
            revision: Branch, tag or commit.

        Raises:
            RepoNotFoundError: No such repository, or a private one.
            RevisionNotFoundError: The repository has no such revision.
            HubUnreachableError: The hub does not answer.
            HubError: Its answer is not that of a hub, or does not end.
        """
        if ".." in revision.split("/") or revision.startswith("/"):
            raise UsageError(f"`{revision}` is not a branch, tag or commit", hint="try `main`")
        repo = f"{self.endpoint}/api/models/{self._validated(repo_id)}"
        budget = TimeBudget()

        def get(url: str) -> Page:
            return self._retry(lambda: self._page(url, budget), repo_id, revision)

        with self._translate_errors(repo_id, revision):
            commit = read_commit(get(f"{repo}/revision/{url_quote(revision, safe='')}").data)
            first = f"{repo}/tree/{commit}?recursive=true&expand=false"
            entries = read_all(get, first, self._transport.endpoint, read_files)
            files = tuple(file for file in entries if file is not None)
            require_distinct(files)
        return RepoListing(repo_id, revision, commit, files)

    def file_metadata(self, repo_id: str, path: str, revision: str = "main") -> FileMetadata:
        """Return where the bytes of one file are, asking the hub for a fresh link.

        Raises:
            GatedRepoError: The licence is not accepted, or there is no token.
            RemoteFileNotFoundError: The repository has no such file.
            HubUnreachableError: The hub does not answer.
        """

        def request() -> FileMetadata:
            with self._head(repo_id, path, revision) as response:
                return _read_metadata(repo_id, path, response)

        return self._retry(request, repo_id, revision, path)

    def listed_metadata(self, listing: RepoListing, file: RemoteFile) -> FileMetadata:
        """Return where the bytes of a listed file are, without asking: the link that redirects."""
        url = self._file_url(listing.repo_id, file.path, listing.commit)
        return FileMetadata(listing.repo_id, file.path, url, file.etag, file.size_bytes)

    def find_repos(self, text: str, *, owner: str | None = None, limit: int = 50) -> list[str]:
        """Return names of model repositories that hold a text, or all of an owner's.

        Raises:
            HubUnreachableError: The hub does not answer.
            HubError: Its answer is not that of a hub.
        """
        parameters = {"search": text, "author": owner, "limit": str(limit)}
        query = urlencode({name: value for name, value in parameters.items() if value})
        with self._translate_errors(None):
            page = self._page(f"{self.endpoint}/api/models?{query}", TimeBudget())
            return read_repo_ids(page.data, limit)

    @contextmanager
    def open_range(
        self,
        metadata: FileMetadata,
        start: int,
        stop: int | None = None,
        *,
        if_range: str | None = None,
        window_bytes: int | None = None,
    ) -> Iterator[ByteStream]:
        """Open the bytes of a file; the connection closes with the ``with`` block.

        Args:
            metadata: From ``file_metadata``.
            start: First byte.
            stop: Byte after the last one; None for the end of the file.
            if_range: ``etag`` of an earlier stream: the server sends the whole file from 0 when
                it is no longer the same.
            window_bytes: How much may be under way before anybody reads it; the system's own
                choice when None.

        Raises:
            LinkRefusedError: The link has expired, or is used by too many.
            HubUnreachableError: The connection failed, now or half-way, or the link has expired.
            HubError: The server answers with something else.
        """
        headers = {"Accept-Encoding": "identity"}  # packed bytes would make every offset wrong
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if if_range:
            headers["If-Range"] = if_range
        with (
            self._translate_errors(metadata.repo_id, path=metadata.path, is_api=False),
            self._transport.open("GET", metadata.url, headers, expected=(200, 206)) as response,
        ):
            if window_bytes:
                _narrow(response, window_bytes)
            yield _byte_stream(response, metadata, start, stop)

    def headers_for(self, metadata: FileMetadata) -> dict[str, str]:
        """Return what a request for a file's bytes must carry; a token only for the hub itself."""
        _check_online(self.endpoint)
        return self._transport.headers_for(metadata.url) | {"Accept-Encoding": "identity"}

    def fetch_xet(self, repo_id: str, path: str, revision: str, target: Path) -> None:
        """Fetch a whole file to ``target`` through hf_xet, as huggingface_hub does.

        Raises:
            HubError: The file is not in Hugging Face's chunk store, or hf_xet fails.
        """
        with self._translate_errors(repo_id, revision, path):
            session.huggingface_hub()
            from huggingface_hub.file_download import xet_get
            from huggingface_hub.utils import parse_xet_file_data_from_response

            with self._head(repo_id, path, revision) as response:
                file = parse_xet_file_data_from_response(response, endpoint=self.endpoint)
                size_bytes = _read_metadata(repo_id, path, response).size_bytes
            if file is None:
                raise HubError(
                    f"`{path}` of `{repo_id}` is not available through xet",
                    repo_id=repo_id,
                    hint=_USE_RANGES,
                )
            # where the token goes for leave to read the store
            self._require_own(file.refresh_route, repo_id)
            headers = self._transport.headers_for(file.refresh_route)
            try:
                xet_get(
                    incomplete_path=target,
                    xet_file_data=file,
                    headers=headers,
                    expected_size=size_bytes,
                    displayed_filename=path,
                )
            except RuntimeError as error:
                raise HubError(
                    f"`{path}`: hf_xet failed: {type(error).__name__}",
                    repo_id=repo_id,
                    hint=_USE_RANGES,
                ) from None

    def read_range(self, metadata: FileMetadata, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` to before ``stop``, fewer at the end of the file.

        Tried again as downloads are; what a broken connection brought is kept. Of a server that
        knows no ranges no more is read than up to ``stop``.

        Raises:
            FileChangedError: The file has another size than the hub listed.
            HubUnreachableError: As ``open_range``, too often.
            HubError: As ``open_range``.
        """
        data, backoff = bytearray(), Backoff(self._retry_waits_s)
        stop = stop if metadata.size_bytes is None else min(stop, metadata.size_bytes)
        while True:
            n_before = len(data)
            try:
                self._read_on(metadata, start, stop, data)
                return bytes(data)
            except HubUnreachableError as error:
                has_progress = len(data) - n_before >= STALL_BYTES
                self._pause(backoff, error, has_progress=has_progress)

    def _read_on(self, metadata: FileMetadata, start: int, stop: int, data: bytearray) -> None:
        """Add to ``data``, the bytes from ``start`` on, those that are missing before ``stop``."""
        seen_bytes, seen_s = len(data), time.monotonic()
        with self.open_range(metadata, start + len(data), stop) as stream:
            if stream.total_bytes is not None:
                _require_listed_size(metadata, stream.total_bytes)
            at = stream.start
            for chunk in stream.chunks:
                data += chunk[max(start + len(data) - at, 0) : max(stop - at, 0)]
                at += len(chunk)
                if len(data) >= stop - start:
                    return
                if time.monotonic() - seen_s > STALL_S:
                    if at - stream.start - seen_bytes < STALL_BYTES:
                        raise _stall_error(metadata, at - stream.start - seen_bytes)
                    seen_bytes, seen_s = at - stream.start, time.monotonic()
        if metadata.size_bytes is not None:
            raise HubUnreachableError(
                f"`{metadata.path}`: {len(data):,} of {stop - start:,} bytes came from the hub",
                repo_id=metadata.repo_id,
                retry_after_s=0.0,
                hint="try again; `gguf-hub doctor` checks the connection",
            )

    def ping(self, timeout_s: float = 3.0) -> GgufHubError | None:
        """Return None when a hub answers within ``timeout_s``, else what is wrong.

        A list of models is asked for: any server has a front page, and only hubs have this.
        """
        url, budget = f"{self.endpoint}/api/models?limit=1", TimeBudget(timeout_s)
        try:
            with self._translate_errors(None):
                read_repo_ids(self._page(url, budget, timeout_s=timeout_s).data, 1)
        except GgufHubError as error:
            return error
        return None

    def has_unsent_token(self) -> bool:
        """Return whether there is a token that the password in the hub's address displaces."""
        return self._transport.has_unsent_token()

    # --- helpers

    @contextmanager
    def _translate_errors(
        self,
        repo_id: str | None,
        revision: str = "main",
        path: str | None = None,
        *,
        is_api: bool = True,
    ) -> Iterator[None]:
        """Refuse in offline mode; turn whatever goes wrong into an error of ours."""
        _check_online(self.endpoint)
        with translate_errors(
            self._transport.endpoint, repo_id, revision=revision, path=path, is_api=is_api
        ):
            yield

    def _validated(self, repo_id: str) -> str:
        """Return a repository's name; raises ``UsageError`` when it is not one."""
        with self._translate_errors(repo_id):
            session.huggingface_hub()
            from huggingface_hub.utils import validate_repo_id

            validate_repo_id(repo_id)
        return repo_id

    def _file_url(self, repo_id: str, path: str, revision: str) -> str:
        name = "/".join(url_quote(part, safe="") for part in path.split("/"))
        return f"{self.endpoint}/{repo_id}/resolve/{url_quote(revision, safe='')}/{name}"

    def _head(self, repo_id: str, path: str, revision: str) -> AbstractContextManager[Any]:
        """Request the headers of a file, following redirects within the hub only."""
        url = self._file_url(self._validated(repo_id), path, revision)
        headers = {"Accept-Encoding": "identity"}  # the size of the file, not of its packing
        return self._transport.open("HEAD", url, headers, follow=self._transport.endpoint.owns)

    def _page(self, url: str, budget: TimeBudget, timeout_s: float | None = None) -> Page:
        headers = {"Accept-Encoding": "gzip"}
        with (
            budget.count_time(),
            self._transport.open("GET", url, headers, timeout_s=timeout_s) as response,
        ):
            data = self._transport.read_json(response, budget)
            return Page(str(response.url), data, response.headers.get("link", ""))

    def _require_own(self, url: str, repo_id: str) -> None:
        """Refuse to go where the hub sends us with the token, if that is not the hub.

        Raises:
            HubError: It is another origin.
        """
        if not self._transport.endpoint.owns(url):
            raise HubError(
                f"`{self.endpoint}` sends the token to {show_origin(url)}, which is another "
                "origin: refused",
                repo_id=repo_id,
                hint=_USE_RANGES,
            )

    def _retry(
        self, request: Callable[[], _T], repo_id: str, revision: str, path: str | None = None
    ) -> _T:
        """Send a request, again while the server says that it is busy."""
        backoff = Backoff(self._retry_waits_s)
        while True:
            try:
                with self._translate_errors(repo_id, revision, path):
                    return request()
            except HubUnreachableError as error:
                self._pause(backoff, error)

    def _pause(
        self, backoff: Backoff, error: HubUnreachableError, *, has_progress: bool = False
    ) -> None:
        """Wait before the next try; raises the error where nothing answers, or too often."""
        backoff.count(has_progress=has_progress)
        if error.retry_after_s is None:
            raise error
        wait_s = backoff.wait_s(error)
        if wait_s >= _NOTED_WAIT_S:
            self._note(f"{error.message}; trying again in {wait_s:.0f} s")
        time.sleep(wait_s)


def _check_online(endpoint: str) -> None:
    if is_offline():
        raise offline(endpoint)


def _read_metadata(repo_id: str, path: str, response: Any) -> FileMetadata:
    """Return what the headers of a file say.

    Source: huggingface_hub 2.4.0, file_download.py, get_hf_file_metadata.
    """
    headers, target = response.headers, redirect_target(response)
    length = None if target else headers.get("content-length")
    return FileMetadata(
        repo_id,
        path,
        target or str(response.url),
        content_id(headers.get("x-linked-etag") or headers.get("etag")),
        whole_number(headers.get("x-linked-size") or length),
    )


def _stall_error(metadata: FileMetadata, n_bytes: int) -> HubUnreachableError:
    return HubUnreachableError(
        f"`{metadata.path}`: the connection received only {n_bytes} bytes in {STALL_S:.0f} s",
        repo_id=metadata.repo_id,
        retry_after_s=0.0,
        hint="try again; `gguf-hub doctor` checks the connection",
    )


def _narrow(response: Any, window_bytes: int) -> None:
    """Keep the system from taking in megabytes that a limited reader has no use for yet."""
    import socket

    stream = response.extensions.get("network_stream")
    plain = stream and stream.get_extra_info("socket")
    if plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)


def _byte_stream(response: Any, metadata: FileMetadata, start: int, stop: int | None) -> ByteStream:
    """Return the bytes of a 200 or 206 response, checked to begin where they should."""
    headers = response.headers
    _require_no_page(response, metadata)
    is_range = response.status_code == 206
    content_range = headers.get("content-range", "")
    if is_range and not _is_requested(headers, metadata, start, stop):
        raise HubError(
            f"`{metadata.path}`: asked for bytes from {start}, got "
            f"`{content_range or 'no Content-Range'}`",
            repo_id=metadata.repo_id,
            hint="a proxy on the way is broken; try without it",
        )
    etag = headers.get("etag", "")
    # a weak validator does not promise equal bytes (RFC 9110 section 13.1.5)
    is_strong = etag and not etag.startswith("W/")
    total = content_range.rpartition("/")[2] if is_range else headers.get("content-length", "")
    return ByteStream(
        start=start if is_range else 0,
        is_whole=not is_range,
        total_bytes=whole_number(total),
        etag=etag if is_strong else None,
        chunks=decode_body(response),
    )


def _require_no_page(response: Any, metadata: FileMetadata) -> None:
    """Refuse a web page in place of a file; of unknown length, it would be taken for its start."""
    kind = response.headers.get("content-type", "").lower()
    if kind.startswith("text/html") and not metadata.path.lower().endswith((".html", ".htm")):
        raise HubError(
            f"`{metadata.path}`: {show_origin(str(response.url))} sends a web page instead",
            repo_id=metadata.repo_id,
            hint=OTHER_SIZE_HINT,
        )


def _is_requested(headers: Any, metadata: FileMetadata, start: int, stop: int | None) -> bool:
    """Return whether a 206 brings the range that was requested.

    Some proxies drop ``Content-Range``: the length of the body must do then.
    """
    if content_range := headers.get("content-range"):
        return bool(content_range.startswith(f"bytes {start}-"))
    end = min((each for each in (stop, metadata.size_bytes) if each is not None), default=None)
    length = whole_number(headers.get("content-length"))
    is_multipart = headers.get("content-type", "").lower().startswith("multipart/")
    return not is_multipart and (length is None or end is None or length == end - start)


def _require_listed_size(metadata: FileMetadata, total_bytes: int) -> None:
    """Refuse another file than the listed one: a login page, or what a mirror has of old."""
    if metadata.size_bytes not in (None, total_bytes):
        raise FileChangedError(
            other_size(metadata, metadata.size_bytes or 0, total_bytes),
            repo_id=metadata.repo_id,
            hint=OTHER_SIZE_HINT,
        )


def other_size(metadata: FileMetadata, listed_bytes: int, served_bytes: int) -> str:
    """Return the words for a file that is served with another size than it is listed with."""
    return (
        f"`{metadata.path}`: the hub lists {listed_bytes:,} bytes, but {show_origin(metadata.url)} "
        f"serves {served_bytes:,} bytes"
    )
