"""A path in front of all paths of a server: ``--api-prefix``."""

from __future__ import annotations

import re

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gguf_hub.api.server.replies import error
from gguf_hub.api.server.targets import in_origin_form
from gguf_hub.errors import UsageError

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_DOTS = re.compile(r"/\.{1,2}(/|$)")


class Prefixed:
    """Passes on what stands under a prefix, without it; anything else is not found.

    Args:
        app: The application behind it.
        prefix: As ``check_prefix`` returns it, not empty.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            scope = in_origin_form(scope)
            path: str = scope["path"]
            if path == self._prefix:  # the page has links relative to its folder
                await RedirectResponse(f"{self._prefix}/")(scope, receive, send)
                return
            if not path.startswith(f"{self._prefix}/"):
                text = f"{path:.200}: all paths of this server begin with {self._prefix}/"
                await error(path, 404, text)(scope, receive, send)
                return
            n, raw_path = len(self._prefix), scope.get("raw_path") or path.encode()
            scope = {**scope, "path": path[n:], "raw_path": raw_path[n:]}
        await self._app(scope, receive, send)


def check_prefix(text: str) -> str:
    """Return a prefix without a slash at its end; empty for none.

    Raises:
        UsageError: It is no path.
    """
    prefix = text.rstrip("/")
    if prefix and (not _PREFIX.fullmatch(prefix) or _DOTS.search(prefix)):
        raise UsageError(f"--api-prefix {text:.60}: expected a path of letters, digits and . _ ~ -",
                         hint="write `--api-prefix /models`")  # fmt: skip
    return prefix
