"""What stands before the routes: keys, the size of bodies, counting."""

from __future__ import annotations

import hmac
from collections import Counter

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gguf_hub.server.replies import error

OPEN_PATHS = ("/health", "/", "/page/")
"""What needs no key: the page itself holds nothing; a path that ends with ``/`` is a folder."""


class Guard:
    """Refuses requests without the key and bodies that are too large, and counts replies.

    Args:
        app: What comes next.
        api_keys: Of which a request must bring one; none for an open server.
        max_body_bytes: Most bytes of a body.
        requests: (route, status) -> how many, counted up.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_keys: tuple[str, ...],
        max_body_bytes: int,
        requests: Counter[tuple[str, int]],
    ) -> None:
        self._app = app
        self._keys = tuple(key.encode() for key in api_keys)
        self._max_body_bytes = max_body_bytes
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                path = getattr(route, "path", "other")
                self._requests[path, message["status"]] += 1
            await send(message)

        if not self._is_allowed(scope, headers):
            reply = error(401, "expected the key of this server: `Authorization: Bearer KEY`",
                          "authentication_error")  # fmt: skip
            reply.headers["WWW-Authenticate"] = "Bearer"
            await reply(scope, receive, counting)
            return
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_body_bytes:
            await error(413, self._too_large_text)(scope, receive, counting)
            return
        await self._limited(scope, receive, counting)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; refuse a body whose length was not told once it is too large."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body_bytes:
                raise HTTPException(413, self._too_large_text)
            return message

        await self._app(scope, counted, send)

    @property
    def _too_large_text(self) -> str:
        return f"the body is too large: expected at most {self._max_body_bytes} bytes"

    def _is_allowed(self, scope: Scope, headers: Headers) -> bool:
        path = scope["path"]
        is_open = path in OPEN_PATHS or path.startswith("/page/")
        if not self._keys or is_open or scope["method"] == "OPTIONS":
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = headers.get("x-api-key", "")
        found = given.strip().encode("latin-1", errors="replace")
        # every key is compared, so that the time tells nothing
        matches = [hmac.compare_digest(found, key) for key in self._keys]
        return any(matches)
