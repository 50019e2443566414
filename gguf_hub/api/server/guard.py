"""Checks before the routes: hosts, origins, keys, content types and sizes of bodies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gguf_hub.api.server.addresses import ANY, AllowedHosts, AllowedOrigins
from gguf_hub.api.server.api_keys import ApiKeys
from gguf_hub.api.server.replies import Json, error
from gguf_hub.api.server.targets import in_origin_form
from gguf_hub.api.server.unpacking import ENCODINGS, Unpacker

OPEN_PATHS = ("/health", "/v1/health", "/", "/page/")
"""Paths without a key: the page itself has no data; a path that ends with ``/`` is a folder."""

MAX_VALUES = 300_000
"""Most commas of a body: twice the tokens of the longest contexts; as many are read in 40 ms."""

_SAFE_METHODS = ("GET", "OPTIONS")  # they do no work, but for
_MAY_LOAD = ("/slots", "/props", "/lora-adapters")  # which may load a model among several


@dataclass(frozen=True)
class Access:
    """Who may send requests.

    Attributes:
        keys: API keys.
        hosts: Host names that requests may be addressed to.
        origins: Origins of pages that may do work.
    """

    keys: ApiKeys = field(default_factory=ApiKeys)
    hosts: AllowedHosts = field(default_factory=lambda: AllowedHosts([ANY]))
    origins: AllowedOrigins = field(default_factory=lambda: AllowedOrigins([]))


class Guard:
    """Refuses requests that are not allowed and bodies that are too large, and counts replies.

    Args:
        app: The application behind it.
        access: Who may send requests.
        max_body_bytes: Maximum size of a body.
        requests: (route, status) -> how many, counted up.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        max_body_bytes: int,
        requests: Counter[tuple[str, int]],
    ) -> None:
        self._app = app
        self._access = access
        self._max_body_bytes = max_body_bytes
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = in_origin_form(scope)

        async def counting(message: Message) -> None:
            """Count the answer by its route and status as it starts."""
            if message["type"] == "http.response.start":
                route = scope.get("route")
                path = getattr(route, "path", "other")
                self._requests[path, message["status"]] += 1
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            if "expect" not in headers:  # such a client waits for the reply before it sends
                await self._drain(receive)
            await refusal(scope, receive, counting)
            return
        unpacker = Unpacker(self._max_body_bytes) if _encoding(headers) else None
        _describe_body(scope)
        await self._limited(scope, receive, counting, unpacker)

    def _refusal(self, scope: Scope, headers: Headers) -> Json | None:
        """Return the reply to a request that is not allowed, or None."""
        return (
            self._wrong_host(scope, headers)
            or self._wrong_origin(scope, headers)
            or self._wrong_key(scope, headers)
            or self._wrong_type(scope, headers)
            or self._wrong_encoding(scope, headers)
            or self._wrong_length(scope, headers)
        )

    async def _limited(
        self, scope: Scope, receive: Receive, send: Send, unpacker: Unpacker | None
    ) -> None:
        """Pass a request on; refuse a body once it has too many bytes or values, unpacked."""
        size_bytes = n_values = 0

        async def counted() -> Message:
            """Return the next part of the body, unpacked and within the limits."""
            nonlocal size_bytes, n_values
            message = await receive()
            body = message.get("body", b"")
            if unpacker is not None and message["type"] == "http.request":
                body = unpacker.feed(body, is_last=not message.get("more_body", False))
                message = {**message, "body": body}
            size_bytes += len(body)
            n_values += body.count(b",")
            if n_values > MAX_VALUES:  # reading them would hold up all other requests
                raise HTTPException(413, f"expected at most {MAX_VALUES:,} values in the body")
            if size_bytes > self._max_body_bytes:
                if message.get("more_body"):
                    await self._drain(receive)
                raise HTTPException(413, self._too_large_text)
            return message

        await self._app(scope, counted, send)

    async def _drain(self, receive: Receive) -> None:
        """Discard the body of a refused request, up to the maximum size of a body.

        Many clients read the reply only after they have sent everything, and never see it if the
        connection is closed before.
        """
        size_bytes, has_more = 0, True
        while has_more and size_bytes <= self._max_body_bytes:
            message = await receive()
            size_bytes += len(message.get("body", b""))
            has_more = message.get("more_body", False)

    @property
    def _too_large_text(self) -> str:
        return f"the body is too large: expected at most {self._max_body_bytes} bytes"

    def _wrong_host(self, scope: Scope, headers: Headers) -> Json | None:
        path, hosts = scope["path"], headers.getlist("host")
        if len(hosts) > 1:
            return error(path, 400, f"expected one `Host` header, found {len(hosts)}")
        if self._access.hosts.allows(hosts):
            return None
        return error(path, 421, "the host name in the `Host` header is not allowed: use localhost, "
                     "or start the server with --allowed-host")  # fmt: skip

    def _wrong_origin(self, scope: Scope, headers: Headers) -> Json | None:
        origins = headers.getlist("origin")
        site, host = headers.get("sec-fetch-site"), headers.get("host")
        is_safe = scope["method"] in _SAFE_METHODS and scope["path"] not in _MAY_LOAD
        if is_safe or self._access.origins.allows(origins, site, host):
            return None
        return self._foreign_origin(scope)

    def _foreign_origin(self, scope: Scope) -> Json:
        return error(scope["path"], 403, "requests from pages of another origin are not allowed: "
                     "start the server with --cors to allow one")  # fmt: skip

    def _wrong_key(self, scope: Scope, headers: Headers) -> Json | None:
        path, keys = scope["path"], self._access.keys
        is_open = path in OPEN_PATHS or path.startswith("/page/") or scope["method"] == "OPTIONS"
        credentials = headers.get("authorization", ""), headers.get("x-api-key", "")
        if not keys or is_open or keys.has(*credentials):
            return None
        text = "expected the key of this server: `Authorization: Bearer KEY` or `x-api-key: KEY`"
        reply = error(path, 401, text)
        reply.headers["WWW-Authenticate"] = "Bearer"
        return reply

    def _wrong_length(self, scope: Scope, headers: Headers) -> Json | None:
        length = headers.get("content-length", "")
        is_number = length.isascii() and length.isdigit()
        # a number of thousands of digits is not worth reading
        if is_number and (len(length) > 18 or int(length) > self._max_body_bytes):
            return error(scope["path"], 413, self._too_large_text)
        return None

    def _wrong_type(self, scope: Scope, headers: Headers) -> Json | None:
        """Refuse bodies that cannot be JSON, and those of pages that are not said to be.

        Browsers let any page send such bodies without asking the server first; those that name no
        origin with them still name the page.
        """
        kind = _content_type(headers)
        if scope["method"] != "POST" or _is_json(kind):
            return None
        pages = headers.getlist("referer")
        if not self._access.origins.allows(pages, None, headers.get("host")):
            return self._foreign_origin(scope)
        if kind.startswith("multipart/"):
            text = "expected the header `Content-Type: application/json`"
            return error(scope["path"], 415, text)
        return None

    def _wrong_encoding(self, scope: Scope, headers: Headers) -> Json | None:
        encoding = _encoding(headers)
        if not encoding or encoding in ENCODINGS:
            return None
        reply = error(scope["path"], 415, f"Content-Encoding: expected gzip or none, found "
                      f"`{encoding:.40}`")  # fmt: skip
        reply.headers["Accept-Encoding"] = ENCODINGS[0]
        return reply


def _encoding(headers: Headers) -> str:
    """Return how a body is compressed; empty for none."""
    encoding = headers.get("content-encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def _content_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _is_json(kind: str) -> bool:
    return kind == "application/json" or kind.endswith("+json")


def _describe_body(scope: Scope) -> None:
    """Say of a body that it is JSON, as every one here is and in llama-server, and not packed."""
    headers = Headers(scope=scope)
    left_out, added = set[bytes](), []
    if _encoding(headers):
        left_out |= {b"content-encoding", b"content-length"}
    if scope["method"] == "POST" and not _is_json(_content_type(headers)):
        left_out.add(b"content-type")
        added = [(b"content-type", b"application/json")]
    if left_out:
        others = [header for header in scope["headers"] if header[0] not in left_out]
        scope["headers"] = [*others, *added]
