"""HEAD, as health checks and ``curl -I`` ask: what GET answers, without its body."""

from __future__ import annotations

import pytest

from tests.api.server.running import Running

PATHS = ["/", "/page/main.js", "/page/nothing.js", "/health", "/v1/health", "/v1/models", "/models",
         "/v1/models/stories", "/v1/models/other", "/props", "/slots", "/lora-adapters",
         "/api/version", "/api/tags", "/api/ps", "/v1/responses/none", "/openapi.json",
         "/nothing", "/v1/completions"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_head_is_that_of_get_without_the_body(server: Running, path: str) -> None:
    got, head = server.http.get(path), server.http.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}


def test_every_route_that_has_get_has_head(server: Running) -> None:
    paths = server.http.get("/openapi.json").json()["paths"]
    readable = [path for path, methods in paths.items() if "get" in methods]
    assert len(readable) > 10
    for path in readable:
        assert server.http.head(path).status_code not in (405, 501), path


def test_a_head_counts_as_its_route(server: Running) -> None:
    def count() -> int:
        lines = server.http.get("/metrics").text.splitlines()
        start = 'gguf_hub_requests_total{route="/slots",status="200"} '
        return sum(int(line.removeprefix(start)) for line in lines if line.startswith(start))

    before = count()
    server.http.head("/slots")
    assert count() == before + 1
