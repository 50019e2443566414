"""What stands before the routes: hosts, origins, keys, the size of bodies, counting."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gguf_hub.server.addresses import ANY, HostRule, OriginRule
from gguf_hub.server.api_keys import ApiKeys
from gguf_hub.server.replies import Json, error

OPEN_PATHS = ("/health", "/", "/page/")
"""What needs no key: the page itself holds nothing; a path that ends with ``/`` is a folder."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # they start no work


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        keys: Of which a request must have one.
        hosts: Names by which the server may be asked.
        origins: Pages that may start work.
    """

    keys: ApiKeys = field(default_factory=ApiKeys)
    hosts: HostRule = field(default_factory=lambda: HostRule([ANY]))
    origins: OriginRule = field(default_factory=lambda: OriginRule([]))


class Guard:
    """Refuses requests that may not be made and bodies that are too large, and counts replies.

    Args:
        app: What comes next.
        access: Who may ask.
        max_body_bytes: Most bytes of a body.
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

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                path = getattr(route, "path", "other")
                self._requests[path, message["status"]] += 1
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            if "expect" not in headers:  # such a client sends its body only when told to
                await self._drain(receive)
            await refusal(scope, receive, counting)
            return
        await self._limited(scope, receive, counting)

    def _refusal(self, scope: Scope, headers: Headers) -> Json | None:
        """Return the reply to a request that may not be made, or None."""
        return (
            self._wrong_host(headers)
            or self._wrong_origin(scope, headers)
            or self._wrong_key(scope, headers)
            or _wrong_type(scope, headers)
            or self._wrong_length(headers)
        )

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; refuse a body whose length was not told once it is too large."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body_bytes:
                await self._drain(receive)
                raise HTTPException(413, self._too_large_text)
            return message

        await self._app(scope, counted, send)

    async def _drain(self, receive: Receive) -> None:
        """Read what comes of a body that is not wanted, but no more than one that would be.

        Many clients look for the reply only when they have sent all, and never see it where the
        connection is closed before.
        """
        seen, has_more = 0, True
        while has_more and seen <= self._max_body_bytes:
            message = await receive()
            seen += len(message.get("body", b""))
            has_more = message.get("more_body", False)

    @property
    def _too_large_text(self) -> str:
        return f"the body is too large: expected at most {self._max_body_bytes} bytes"

    def _wrong_host(self, headers: Headers) -> Json | None:
        hosts = headers.getlist("host")
        if len(hosts) > 1:
            return error(400, f"expected one `Host` header, found {len(hosts)}")
        if self._access.hosts.admits(hosts):
            return None
        return error(421, "this server may not be asked by the name in the `Host` header: use "
                     "localhost, or allow the name with --allowed-host")  # fmt: skip

    def _wrong_origin(self, scope: Scope, headers: Headers) -> Json | None:
        origins = headers.getlist("origin")
        site, host = headers.get("sec-fetch-site"), headers.get("host")
        if scope["method"] in _SAFE_METHODS or self._access.origins.admits(origins, site, host):
            return None
        return error(403, "pages of another origin may not ask this server: allow it with --cors",
                     "permission_error")  # fmt: skip

    def _wrong_key(self, scope: Scope, headers: Headers) -> Json | None:
        path, keys = scope["path"], self._access.keys
        is_open = path in OPEN_PATHS or path.startswith("/page/") or scope["method"] == "OPTIONS"
        given = headers.get("authorization", ""), headers.get("x-api-key", "")
        if not keys or is_open or keys.has(*given):
            return None
        reply = error(401, "expected the key of this server: `Authorization: Bearer KEY`",
                      "authentication_error")  # fmt: skip
        reply.headers["WWW-Authenticate"] = "Bearer"
        return reply

    def _wrong_length(self, headers: Headers) -> Json | None:
        length = headers.get("content-length", "")
        is_number = length.isascii() and length.isdigit()
        # a number of thousands of digits is not worth reading
        if is_number and (len(length) > 18 or int(length) > self._max_body_bytes):
            return error(413, self._too_large_text)
        return None


def _wrong_type(scope: Scope, headers: Headers) -> Json | None:
    """Refuse bodies that are not said to be JSON: those alone pages can send without asking."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if scope["method"] != "POST" or kind == "application/json" or kind.endswith("+json"):
        return None
    return error(415, "expected the header `Content-Type: application/json`")
