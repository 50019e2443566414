"""Names in ``Host`` headers, and origins of pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import UsageError
from gguf_hub.server.addresses import HostRule, OriginRule, host_name

OWN = ("localhost", "LOCALHOST:9", "localhost.", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:80",
       "[0:0:0:0:0:0:0:1]:8080")  # fmt: skip
FOREIGN = ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example",
           "127.0.0.1@evil.example", "evil.example#127.0.0.1", "evil.example/localhost",
           "[evil]", "a]b", "[::1", "::1", "", " ", "127.1", "2130706433", "0x7f.1", "0.0.0.0",
           "192.168.1.5", "[::1]evil", "localhost:80:80", "localhost:x",
           "[::ffff:8.8.8.8]")  # fmt: skip


@pytest.mark.parametrize("host", OWN)
def test_names_of_this_machine_are_admitted_with_any_port(host: str) -> None:
    assert HostRule(["box.example"]).admits([host])


@pytest.mark.parametrize("host", FOREIGN)
def test_other_names_are_not(host: str) -> None:
    assert not HostRule(["box.example", "127.0.0.1"]).admits([host])


def test_names_that_were_given_are_admitted() -> None:
    rule = HostRule(["Box.Example", "192.168.1.5", "fe80::1", "proxy.example:443"])
    for host in ("box.example:8080", "192.168.1.5:1", "[fe80::1]:80", "PROXY.example"):
        assert rule.admits([host])
    assert HostRule(["*"]).admits(["evil.example"])
    assert rule.admits([])  # HTTP/1.0: no browser


@pytest.mark.parametrize("name", ["", "http://x", "x/y", "a b", "user@x", "[x]"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="expected a name"):
        HostRule([name])


@given(st.text(max_size=40))
def test_no_text_passes_for_this_machine_but_its_names(text: str) -> None:
    if HostRule([]).admits([text]):
        name = host_name(text)
        assert name == "localhost" or name == "::1" or name.startswith("127.")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("origin", "site", "host", "is_admitted"),
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
    origin: str | None, site: str | None, host: str, is_admitted: bool
) -> None:
    rule = OriginRule(["https://friend.example/"])
    origins = [] if origin is None else [origin]
    assert rule.admits(origins, site, host) is is_admitted
    assert OriginRule(["*"]).admits(origins, site, host)


def test_one_origin_of_several_does_not_speak_for_the_others() -> None:
    origins = ["https://friend.example", "https://evil.example"]
    assert not OriginRule(["https://friend.example"]).admits(origins, None, "127.0.0.1")
