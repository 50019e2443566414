"""Names in ``Host`` headers, and origins of pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.api.server.addresses import AllowedHosts, AllowedOrigins, host_name
from gguf_hub.errors import UsageError

OWN = ("localhost", "LOCALHOST:9", "localhost.", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:80",
       "[0:0:0:0:0:0:0:1]:8080")  # fmt: skip
FOREIGN = ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example",
           "127.0.0.1@evil.example", "evil.example#127.0.0.1", "evil.example/localhost",
           "[evil]", "a]b", "[::1", "::1", "", " ", "127.1", "2130706433", "0x7f.1", "0.0.0.0",
           "192.168.1.5", "[::1]evil", "localhost:80:80", "localhost:x",
           "[::ffff:8.8.8.8]")  # fmt: skip


@pytest.mark.parametrize("host", OWN)
def test_names_of_this_machine_are_allowed_with_any_port(host: str) -> None:
    assert AllowedHosts(["box.example"]).allows([host])


@pytest.mark.parametrize("host", FOREIGN)
def test_other_names_are_not(host: str) -> None:
    assert not AllowedHosts(["box.example", "127.0.0.1"]).allows([host])


def test_names_that_were_given_are_allowed() -> None:
    rule = AllowedHosts(["Box.Example", "192.168.1.5", "fe80::1", "proxy.example:443"])
    for host in ("box.example:8080", "192.168.1.5:1", "[fe80::1]:80", "PROXY.example"):
        assert rule.allows([host])
    assert AllowedHosts(["*"]).allows(["evil.example"])
    assert rule.allows([])  # HTTP/1.0: no browser


@pytest.mark.parametrize("name", ["", "http://x", "x/y", "a b", "user@x", "[x]"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="expected a host name"):
        AllowedHosts([name])


@pytest.mark.slow
@given(st.text(max_size=40))
def test_no_text_passes_for_this_machine_but_its_names(text: str) -> None:
    if AllowedHosts([]).allows([text]):
        name = host_name(text)
        assert name == "localhost" or name == "::1" or name.startswith("127.")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("origin", "site", "host", "is_allowed"),
    [
        (None, None, "127.0.0.1", True),  # curl, SDKs
        ("http://127.0.0.1:8080", None, "127.0.0.1:8080", True),
        ("http://127.0.0.1:8080", "same-origin", "127.0.0.1:8080", True),
        ("https://box.example", None, "box.example", True),  # a proxy has taken TLS off
        ("https://box.example", "same-origin", "127.0.0.1:8080", True),  # and has named us itself
        (None, "none", "127.0.0.1", True),  # a person's own doing
        ("https://friend.example", "cross-site", "127.0.0.1", True),
        ("https://Friend.example", None, "127.0.0.1", True),
        ("https://evil.example", None, "127.0.0.1", False),
        ("https://evil.example", "cross-site", "127.0.0.1", False),
        ("http://127.0.0.1:9000", None, "127.0.0.1:8080", False),  # another server's page
        ("http://127.0.0.1:9000", "same-site", "127.0.0.1:8080", False),
        ("null", None, "127.0.0.1", False),
        ("null", "cross-site", "127.0.0.1", False),
        ("", None, "", False),
        (None, "cross-site", "127.0.0.1", False),
        ("https://friend.example.evil.example", None, "127.0.0.1", False),
        ("http://[", None, "127.0.0.1", False),
    ],
)
def test_pages_of_other_origins_start_no_work(
    origin: str | None, site: str | None, host: str, is_allowed: bool
) -> None:
    rule = AllowedOrigins(["https://friend.example/"])
    origins = [] if origin is None else [origin]
    assert rule.allows(origins, site, host) is is_allowed
    assert AllowedOrigins(["*"]).allows(origins, site, host)


def test_one_origin_of_several_does_not_speak_for_the_others() -> None:
    origins = ["https://friend.example", "https://evil.example"]
    assert not AllowedOrigins(["https://friend.example"]).allows(origins, None, "127.0.0.1")
