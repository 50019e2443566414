"""The hub over huggingface_hub's own session: proxies, certificates, user agent, token."""

from __future__ import annotations

import functools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from gguf_hub.errors import GgufHubError, HubError, HubUnreachableError, UsageError
from gguf_hub.hub.interface import (
    ByteStream,
    FileFacts,
    RemoteFile,
    RepoListing,
    default_endpoint,
    is_offline,
)
from gguf_hub.hub.translate import offline, refusal, translated

RETRY_WAITS_S = (1.0, 2.0, 4.0)
LONGEST_WAIT_S = 60.0
_IMPORTING = threading.Lock()

_T = TypeVar("_T")


class HfHub:
    """The Hugging Face Hub, or whatever speaks its API at ``HF_ENDPOINT``.

    Args:
        endpoint: Address; ``HF_ENDPOINT`` or huggingface.co when None.
        token: Access token; the saved one or ``HF_TOKEN`` when None.
        timeout_s: How long the server may be silent; ``HF_HUB_DOWNLOAD_TIMEOUT`` or 10 when None.
        retry_waits_s: Pauses between tries while the server is busy.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float | None = None,
        retry_waits_s: tuple[float, ...] = RETRY_WAITS_S,
    ) -> None:
        self.endpoint = (endpoint or default_endpoint()).rstrip("/")
        self.timeout_s = timeout_s or float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or 10)
        self._token = token
        self._retry_waits_s = retry_waits_s

    def is_exposed(self) -> bool:
        """Tell whether others can read and change what travels: plain http to another machine."""
        parts = urlsplit(self.endpoint)
        return parts.scheme == "http" and not _is_loopback(parts.hostname or "")

    def has_token(self) -> bool:
        """Tell whether requests carry a token (which is never shown)."""
        from huggingface_hub import get_token

        return bool(self._token or get_token())

    def list_files(self, repo_id: str, revision: str = "main") -> RepoListing:
        """Return all files of a repository.

        Args:
            repo_id: ``"org/name"``.
            revision: Branch, tag or commit.

        Raises:
            RepoNotFoundError: No such repository, or a private one.
            RevisionNotFoundError: The repository has no such revision.
            HubUnreachableError: The hub does not answer.
        """
        if ".." in revision.split("/") or revision.startswith("/"):
            raise UsageError(f"`{revision}` is no branch, tag or commit", hint="try `main`")

        def resolve() -> str:
            info = self._api().model_info(repo_id, revision=revision, timeout=self.timeout_s)
            return _commit(info)

        commit = self._retrying(resolve, repo_id, revision)
        with translated(self.endpoint, repo_id, revision=revision):
            # this call has retries of its own
            tree = self._api().list_repo_tree(repo_id, revision=commit, recursive=True)
            files = tuple(_remote_file(entry) for entry in tree if hasattr(entry, "blob_id"))
        return RepoListing(repo_id, revision, commit, files)

    def file_facts(self, repo_id: str, path: str, revision: str = "main") -> FileFacts:
        """Return where the bytes of one file are, asking the hub for a fresh link.

        Raises:
            GatedRepoError: The licence is not accepted, or there is no token.
            RemoteFileNotFoundError: The repository has no such file.
            HubUnreachableError: The hub does not answer.
        """

        def ask() -> FileFacts:
            url, meta = self._head(repo_id, path, revision)
            return FileFacts(repo_id, path, urljoin(url, meta.location), meta.etag, meta.size)

        return self._retrying(ask, repo_id, revision, path)

    def listed_facts(self, listing: RepoListing, file: RemoteFile) -> FileFacts:
        """Return where the bytes of a listed file are, without asking: the link that redirects."""
        path = "/".join(quote(part) for part in file.path.split("/"))
        url = f"{self.endpoint}/{listing.repo_id}/resolve/{listing.commit}/{path}"
        return FileFacts(listing.repo_id, file.path, url, file.etag, file.size_bytes)

    def find_repos(self, text: str, *, owner: str | None = None, limit: int = 50) -> list[str]:
        """Return names of model repositories that hold a text, or all of an owner's.

        Raises:
            HubUnreachableError: The hub does not answer.
        """
        with translated(self.endpoint, None):
            found = self._api().list_models(search=text or None, author=owner, limit=limit)
            return [str(info.id) for info in found]

    @contextmanager
    def open_range(
        self,
        facts: FileFacts,
        start: int,
        stop: int | None = None,
        *,
        if_range: str | None = None,
        window_bytes: int | None = None,
    ) -> Iterator[ByteStream]:
        """Open the bytes of a file; the connection closes with the ``with`` block.

        Args:
            facts: From ``file_facts``.
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
        headers = self.headers_for(facts)
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if if_range:
            headers["If-Range"] = if_range
        with translated(self.endpoint, facts.repo_id, path=facts.path, is_api=False):
            session = _session()
            with session.stream(
                "GET", facts.url, headers=headers, timeout=self.timeout_s
            ) as response:
                if response.status_code not in (200, 206):
                    raise refusal(response, facts, self.endpoint)
                if window_bytes:
                    _narrow(response, window_bytes)
                yield _byte_stream(response, facts, start)

    def headers_for(self, facts: FileFacts) -> dict[str, str]:
        """Return what a request for a file's bytes must carry; a token only for the hub itself."""
        _check_online(self.endpoint)
        from huggingface_hub.utils import build_hf_headers

        is_own = _origin(facts.url) == _origin(self.endpoint)
        headers: dict[str, str] = build_hf_headers(
            token=self._token if is_own else False, library_name="gguf-hub"
        )
        # compressed bytes would make every offset wrong
        return headers | {"Accept-Encoding": "identity"}

    def fetch_xet(self, repo_id: str, path: str, revision: str, target: Path) -> None:
        """Fetch a whole file to ``target`` through hf_xet, as huggingface_hub does.

        Raises:
            HubError: The file is not in Hugging Face's chunk store, or hf_xet fails.
        """
        _check_online(self.endpoint)
        with translated(self.endpoint, repo_id, revision=revision, path=path):
            _, meta = self._head(repo_id, path, revision)
            if meta.xet_file_data is None:
                raise HubError(
                    f"`{path}` of `{repo_id}` is not to be had through xet",
                    repo_id=repo_id,
                    hint="leave --engine away: ranges work with every hub",
                )
            from huggingface_hub.file_download import xet_get
            from huggingface_hub.utils import build_hf_headers

            xet_get(
                incomplete_path=target,
                xet_file_data=meta.xet_file_data,
                headers=build_hf_headers(token=self._token, library_name="gguf-hub"),
                expected_size=meta.size,
                displayed_filename=path,
            )

    def read_range(self, facts: FileFacts, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` to before ``stop``, fewer at the end of the file.

        Raises:
            HubError: The server does not send ranges, or anything ``open_range`` raises.
        """
        with self.open_range(facts, start, stop) as stream:
            if stream.start != start:
                raise HubError(
                    f"the server of `{facts.path}` sends no byte ranges",
                    repo_id=facts.repo_id,
                    hint="download the whole file with `gguf-hub download`",
                )
            data = bytearray()
            for chunk in stream.chunks:
                data += chunk
                if len(data) >= stop - start:
                    break
        return bytes(data[: stop - start])

    def ping(self, timeout_s: float = 3.0) -> str | None:
        """Return None when the hub answers within ``timeout_s``, else the reason why not."""
        try:
            _check_online(self.endpoint)
            with translated(self.endpoint, None):
                response = _session().head(self.endpoint, timeout=timeout_s, follow_redirects=False)
        except GgufHubError as error:
            return error.message
        status = response.status_code
        return f"`{self.endpoint}` answers {status}" if status >= 500 else None

    # --- helpers

    def _api(self) -> Any:
        _check_online(self.endpoint)
        hf = _huggingface_hub()
        return hf.HfApi(endpoint=self.endpoint, token=self._token, library_name="gguf-hub")

    def _url(self, url: str) -> str:
        """Put our endpoint in front: the library froze its own when it was imported."""
        return self.endpoint + urlsplit(url).path

    def _head(self, repo_id: str, path: str, revision: str) -> tuple[str, Any]:
        """Ask for the facts of a file; return the link that was asked and what came."""
        _check_online(self.endpoint)
        hf = _huggingface_hub()
        url = self._url(hf.hf_hub_url(repo_id, path, revision=revision))
        meta = hf.get_hf_file_metadata(
            url,
            token=self._token,
            timeout=self.timeout_s,
            endpoint=self.endpoint,
            library_name="gguf-hub",
        )
        return url, meta

    def _retrying(
        self, ask: Callable[[], _T], repo_id: str, revision: str, path: str | None = None
    ) -> _T:
        """Ask, and ask again while the server says that it is busy."""
        for wait_s in (*self._retry_waits_s, None):
            try:
                with translated(self.endpoint, repo_id, revision=revision, path=path):
                    return ask()
            except HubUnreachableError as error:
                asked_s = error.retry_after_s
                if wait_s is None or asked_s is None or asked_s > LONGEST_WAIT_S:
                    raise
                time.sleep(max(wait_s, asked_s))
        raise AssertionError("the last turn returns or raises")


def _huggingface_hub() -> Any:
    # what warnings are shown is one setting for all threads: only one of them may touch it
    with _IMPORTING:
        return _import_quietly()


@functools.cache
def _import_quietly() -> Any:
    import warnings

    with warnings.catch_warnings():
        # it warns at import of HF_HUB_ENABLE_HF_TRANSFER, which the command line explains itself
        warnings.simplefilter("ignore", FutureWarning)
        import huggingface_hub

        return huggingface_hub


def _session() -> Any:
    _huggingface_hub()
    from huggingface_hub.utils import get_session

    return get_session()


def _is_loopback(host: str) -> bool:
    """Tell whether a host is this machine; a name that only begins like an address is not."""
    import ipaddress

    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default


def _check_online(endpoint: str) -> None:
    if is_offline():
        raise offline(endpoint)


def _commit(info: Any) -> str:
    """Return the commit of a model's info, which becomes the name of a folder."""
    if not re.fullmatch(r"[0-9a-f]{40}", str(info.sha)):
        raise ValueError("no commit in the answer")
    return str(info.sha)


def _remote_file(entry: Any) -> RemoteFile:
    """Return one file of a listing; its ids, which become names of files, must be plain hex."""
    sha256 = entry.lfs.sha256 if entry.lfs else None
    for digest in filter(None, (sha256, entry.blob_id)):
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest):
            raise ValueError("an id that is no hash")
    return RemoteFile(entry.path, int(entry.size), sha256, entry.blob_id)


def _narrow(response: Any, window_bytes: int) -> None:
    """Keep the system from taking in megabytes that a limited reader has no use for yet."""
    import socket

    stream = response.extensions.get("network_stream")
    plain = stream and stream.get_extra_info("socket")
    if plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)


def _byte_stream(response: Any, facts: FileFacts, start: int) -> ByteStream:
    """Return the bytes of a 200 or 206 response, checked to begin where they should."""
    headers = response.headers
    is_range = response.status_code == 206
    found = headers.get("content-range", "no Content-Range")
    if is_range and not found.startswith(f"bytes {start}-"):
        raise HubError(
            f"`{facts.path}`: asked for bytes from {start}, got `{found}`",
            repo_id=facts.repo_id,
            hint="a proxy on the way is broken; try without it",
        )
    etag = headers.get("etag", "")
    # a weak validator does not promise equal bytes (RFC 9110 section 13.1.5)
    is_strong = etag and not etag.startswith("W/")
    total = found.rpartition("/")[2] if is_range else headers.get("content-length", "")
    return ByteStream(
        start=start if is_range else 0,
        is_whole=not is_range,
        total_bytes=int(total) if total.isdigit() else None,
        etag=etag if is_strong else None,
        # chunks as they arrive: with a size of their own, what a cut connection brought is lost
        chunks=response.iter_bytes() if "content-encoding" in headers else response.iter_raw(),
    )
