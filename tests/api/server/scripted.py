"""Answers that are given: grammars that hold a text, and what different clients make of it."""

from __future__ import annotations

import json
from typing import Any

from tests.api.server.running import Running

THOUGHT = "<think>I wonder.</think>\n"
CALL = '{"name":"tell","arguments":{"a":1}}'
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}


def saying(text: str) -> str:
    """Return the grammar of one text."""
    return f"root ::= {json.dumps(text)}"


def post(server: Running, path: str, status: int = 200, **body: Any) -> Any:
    reply = server.http.post(path, json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


def named_events(server: Running, path: str, **body: Any) -> list[dict[str, Any]]:
    """Return the events of a stream whose names are their types."""
    with server.http.stream("POST", path, json={**body, "stream": True}) as reply:
        assert reply.status_code == 200, reply.read()
        assert reply.headers["content-type"].startswith("text/event-stream")
        blocks = reply.read().decode().strip().split("\n\n")
    events = []
    for block in blocks:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events
