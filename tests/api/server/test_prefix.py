"""A path in front of all paths of a server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gguf_hub.api.server.offers import Offers
from gguf_hub.api.server.prefix import check_prefix
from gguf_hub.errors import UsageError
from tests.api.server.running import Running
from tests.api.server.test_targets import ask


def test_all_paths_are_under_the_prefix(serve: Callable[..., Running]) -> None:
    server = serve({"offers": Offers(prefix="/a/b"), "hosts": (), "api_keys": ("key",)})
    key = {"Authorization": "Bearer key"}
    assert server.http.get("/a/b/v1/models", headers=key).status_code == 200
    assert server.http.get("/a/b/v1/models").status_code == 401  # checked as without a prefix
    assert server.http.get("/a/b/health").json() == {"status": "ok"}
    assert server.http.head("/a/b/health").status_code == 200
    body = {"prompt": "Once", "max_tokens": 2, "stream": True}
    reply = server.http.post("/a/b/v1/completions", json=body, headers=key)
    assert reply.text.endswith("data: [DONE]\n\n")
    for path in ("/health", "/a", "/a/bc/health", "/", "/a//b/health"):
        reply = server.http.get(path)
        assert reply.status_code == 404 and "begin with /a/b/" in reply.text
    assert ask(server, "http://localhost/a/b/health", "Host: x")[0] == 200
    assert ask(server, "/a/b/health", "Host: evil.example")[0] == 421


def test_the_page_finds_its_files_under_the_prefix(serve: Callable[..., Running]) -> None:
    server = serve({"offers": Offers(prefix="/a")})
    reply = server.http.get("/a")
    assert (reply.status_code, reply.headers["location"]) == (307, "/a/")
    text = server.http.get("/a/").text
    names = [part.split('"')[0] for part in text.split('="page/')[1:]]
    assert {"style.css", "main.js"} <= set(names) and '="/' not in text
    for name in (*names, "api.js"):
        assert server.http.get(f"/a/page/{name}").status_code == 200


@pytest.mark.parametrize("text", ["a", "/a b", "/a/../b", "/a?b", "//a", "/a\n", "/.."])
def test_a_prefix_is_a_path(text: str) -> None:
    with pytest.raises(UsageError, match="--api-prefix"):
        check_prefix(text)


def test_a_slash_at_the_end_of_a_prefix_does_not_count() -> None:
    found = [check_prefix(text) for text in ("", "/", "/a/", "/a/b-c.d")]
    assert found == ["", "", "/a", "/a/b-c.d"]
