"""The hub's JSON, believed in nothing: each value has its type and its bounds, or is refused.

Knows answers as data, and nothing about connections.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from gguf_hub.hub.client.endpoint import DEFAULT_ENDPOINT, Endpoint, origin_of, show_origin
from gguf_hub.hub.client.interface import RemoteFile
from gguf_hub.hub.client.transport import FormatError

MAX_PAGES = 2_000
MAX_ENTRIES = 200_000
MAX_PATH_CHARS = 4_096
MAX_SIZE_BYTES = 2**63 - 1

_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REPO_ID = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?", re.ASCII)
_LINK = re.compile(r"<([^<>]*)>([^<>]*)")
_NEXT = re.compile(r""";\s*rel\s*=\s*["']?next["']?\s*(?:[;,]|$)""", re.IGNORECASE)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Page:
    """One page of a listing: where it came from, its JSON, and its ``Link`` header."""

    url: str
    data: Any
    link: str = ""


def read_all(
    get: Callable[[str], Page], url: str, endpoint: Endpoint, read: Callable[[Any], Sequence[_T]]
) -> list[_T]:
    """Read a listing page by page.

    Args:
        get: Gets a page.
        url: The first one.
        endpoint: The hub.
        read: Reads the JSON of one.

    Raises:
        FormatError: It does not end, or goes on at another origin; as ``read`` says.
    """
    entries: list[_T] = []
    urls: set[str] = set()
    following: str | None = url
    while following is not None:
        if following in urls:
            raise FormatError("its listing goes in circles: a page comes a second time")
        if len(urls) == MAX_PAGES:
            raise FormatError(f"its listing has more than {MAX_PAGES:,} pages")
        urls.add(following)
        page = get(following)
        _require(page.data, list, "a page of its listing")
        entries += read(page.data)
        if len(entries) > MAX_ENTRIES:
            raise FormatError(f"its listing has more than {MAX_ENTRIES:,} entries")
        following = next_url(page, endpoint)
    return entries


def next_url(page: Page, endpoint: Endpoint) -> str | None:
    """Return where a listing goes on, or None at its end.

    Raises:
        FormatError: That is another origin than the hub's and the page's.

    Source: RFC 8288 (Web Linking).
    """
    targets = [url for url, rest in _LINK.findall(page.link) if _NEXT.search(rest)]
    if not targets:
        return None
    try:
        target: str = urljoin(page.url, targets[0])
    except ValueError:
        target = ""
    if origin_of(target) == origin_of(DEFAULT_ENDPOINT):
        # mirrors pass on what huggingface.co wrote: the same page is theirs, too
        target = endpoint.url + urlsplit(target)._replace(scheme="", netloc="").geturl()
    if origin_of(target) not in (origin_of(endpoint.url), origin_of(page.url)):
        raise FormatError(
            f"its listing continues at {show_origin(target)}, which is another origin: refused"
        )
    return target


def read_commit(data: Any) -> str:
    """Return the commit of a repository's info; it becomes the name of a folder."""
    info = _require(data, dict, "its info about the repository")
    commit = _require(info.get("sha"), str, "the commit")
    if not _SHA1.fullmatch(commit):
        raise FormatError(f"the commit is {_clip(commit)}, expected 40 hex digits")
    return commit


def read_files(entries: list[Any]) -> list[RemoteFile | None]:
    """Return the files of a page of a tree; None for each folder, which counts as an entry."""
    return [_read_entry(entry) for entry in entries]


def require_distinct(files: Sequence[RemoteFile]) -> None:
    """Refuse a listing in which a path stands twice."""
    paths: set[str] = set()
    for file in files:
        if file.path in paths:
            raise FormatError(f"its listing has {_clip(file.path)} twice")
        paths.add(file.path)


def read_repo_ids(entries: list[Any], limit: int) -> list[str]:
    """Return the names of repositories that a search has found."""
    names = []
    for entry in entries[:limit]:
        name = _require(_require(entry, dict, "a found repository").get("id"), str, "its name")
        if not _REPO_ID.fullmatch(name):
            raise FormatError(f"a repository is called {_clip(name)}, expected `org/name`")
        names.append(name)
    return names


def content_id(text: str | None) -> str | None:
    """Return the hash that an ``ETag`` holds; None where it holds something else."""
    text = (text or "").removeprefix("W/").strip('"')
    return text if _GIT_ID.fullmatch(text) else None


def whole_number(text: str | None) -> int | None:
    """Return the number that a header holds, or None; at most what a file can be long."""
    if not re.fullmatch(r"[0-9]{1,19}", text or ""):
        return None
    number = int(text or "")
    return number if number <= MAX_SIZE_BYTES else None


def _read_entry(data: Any) -> RemoteFile | None:
    entry = _require(data, dict, "an entry of its listing")
    kind = _require(entry.get("type"), str, "the type of an entry")
    path = _require(entry.get("path"), str, "the path of an entry")
    if len(path) > MAX_PATH_CHARS:
        raise FormatError(f"a path has {len(path):,} characters, at most {MAX_PATH_CHARS:,}")
    if kind != "file":
        return None
    where = f"of {_clip(path)}"
    size_bytes = _require(entry.get("size"), int, f"the size {where}")
    if not 0 <= size_bytes <= MAX_SIZE_BYTES:
        raise FormatError(f"the size {where} is {_clip(size_bytes)}, expected 0 to 2^63 - 1")
    blob_id = _digest(entry.get("oid"), _GIT_ID, f"the id {where}")
    sha256 = None
    if entry.get("lfs") is not None:
        lfs = _require(entry["lfs"], dict, f"`lfs` {where}")
        sha256 = _digest(lfs.get("oid"), _SHA256, f"the SHA-256 {where}")
    return RemoteFile(path, size_bytes, sha256, blob_id)


def _digest(value: Any, form: re.Pattern[str], what: str) -> str:
    text = _require(value, str, what)
    if not form.fullmatch(text):
        raise FormatError(f"{what} is {_clip(text)}, expected a hash in hex")
    return text


def _require(value: Any, kind: type[_T], what: str) -> _T:
    # True is an int for Python, and no size
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise FormatError(f"{what} is {_clip(value)}, expected {_KINDS[kind]}")
    return value


_KINDS: dict[type, str] = {
    dict: "a JSON object", list: "a JSON array", str: "a text", int: "a whole number",
}  # fmt: skip


def _clip(value: Any) -> str:
    """Return a value as a message may quote it."""
    if isinstance(value, (dict, list)):
        return "a JSON object" if isinstance(value, dict) else "a JSON array"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of many digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
