"""What a router reads of a request: the model, and how long it stays loaded afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from gguf_hub.api.server.durations import duration_s
from gguf_hub.errors import UsageError

MAX_NAME_CHARACTERS = 1024


@dataclass(frozen=True)
class RoutedRequest:
    """What a request wants of a router.

    Attributes:
        model: The name of a model, or empty.
        keep_alive_s: How long it stays loaded afterwards; None where the request does not say.
        autoload: Whether it may be loaded for this request; None for the server's default.
        only_loads: Whether this is Ollama's request to load or unload a model, without a prompt.
        body: The bytes of the body.
    """

    model: str = ""
    keep_alive_s: float | None = None
    autoload: bool | None = None
    only_loads: bool = False
    body: bytes = b""


async def read_routed(request: Request) -> RoutedRequest:
    """Read a request to its end.

    Raises:
        UsageError: Its body is not JSON, or a field of it is invalid.
    """
    body = await request.body()
    fields = _fields(body)
    is_ollama = request.url.path.startswith("/api/")
    keep_alive = fields.get("keep_alive") if is_ollama else None
    query = request.query_params
    name = fields.get("model") or (fields.get("name") if is_ollama else None)
    return RoutedRequest(
        model=_name(name or query.get("model")),
        keep_alive_s=None if keep_alive in (None, "") else _keep_alive_s(keep_alive),
        autoload=_flag(query.get("autoload")),
        only_loads=not fields.get("prompt") and not fields.get("messages"),
        body=body,
    )


def _fields(body: bytes) -> Mapping[str, Any]:
    if not body:
        return {}
    try:
        fields = json.loads(body)
    except json.JSONDecodeError as exc:
        raise UsageError(f"the body is not JSON at character {exc.pos}") from exc
    except (ValueError, RecursionError) as exc:
        raise UsageError("the body is not JSON") from exc
    return fields if isinstance(fields, dict) else {}


def _name(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError("model: expected a name")
    if len(value) > MAX_NAME_CHARACTERS:
        raise UsageError(f"model: expected at most {MAX_NAME_CHARACTERS} characters")
    return value.strip()


def _keep_alive_s(value: Any) -> float:
    try:
        return duration_s(value)
    except UsageError as exc:
        raise UsageError(f"keep_alive: {exc}") from exc


def _flag(value: str | None) -> bool | None:
    """Return a flag of a query; None where there is none."""
    return None if value is None else value.lower() in ("1", "true", "yes", "on")
