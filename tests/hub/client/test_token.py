"""A token is cleaned or refused by the name of where it stands, and never told."""

from __future__ import annotations

import traceback
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import errors
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import GgufHubError, UsageError
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.client.token import clean_token
from tests.hub_server import HubServer

REPO = "org/gated"
TOKEN = "hf_member"
PAINT = ["{}\n", "{}\r\n", "\r{}", "\ufeff{}", "\ufeff {}\t\n", "  {}  ", "\u00a0{}", "{}"]
BAD = ["hf_sec\nret", "hf_sec\rret", "hf_sec ret", "hf_sec\tret", "hf_secr\u00e9t", "hf_sec\x7fret",
       "hf_sec\x1bret", "hf_sec\ufeffret", "Bearer hf_secret", "hf_secret\nX-Evil: 1"]  # fmt: skip
BLANK = ["", " ", "\r\n", "\ufeff"]


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {"a.gguf": b"a"}, gated=True)
    return hub_server


@pytest.fixture
def token_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where ``hf auth login`` would put the token."""
    import huggingface_hub.constants

    path = tmp_path / "token"
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(path))
    return path


def put(by: str, text: str, monkeypatch: pytest.MonkeyPatch, token_file: Path) -> HfHub:
    """Have the token stand somewhere."""
    if by == "file":
        token_file.write_bytes(text.encode())
    elif by != "argument":
        monkeypatch.setenv(by, text)
    return HfHub(token=text if by == "argument" else None, retry_waits_s=())


WHERE = {
    "argument": "--token",
    "HF_TOKEN": "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN": "HUGGING_FACE_HUB_TOKEN",
    "file": "token`",
}


@pytest.mark.parametrize("by", WHERE)
def test_what_stands_around_a_token_is_taken_away(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, token_file: Path, by: str
) -> None:
    for paint in PAINT:
        client = put(by, paint.format(TOKEN), monkeypatch, token_file)
        assert client.has_token()
        assert client.file_metadata(REPO, "a.gguf").size_bytes == 1
    assert {r.headers["authorization"] for r in server.requests} == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("by", WHERE)
def test_what_is_no_token_is_refused_by_name_and_not_sent(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, token_file: Path, by: str
) -> None:
    for text in [*BAD, *(BLANK if by == "argument" else ())]:
        client = put(by, text, monkeypatch, token_file)
        for ask in (client.has_token, partial(client.list_files, REPO), client.ping):
            try:
                told = str(ask())
            except UsageError as error:
                told = f"{error.message} {error.hint}"
                assert "hf_sec" not in "".join(traceback.format_exception(error))
            assert WHERE[by] in told
            assert "hf_sec" not in told
    assert server.requests == []


@pytest.mark.parametrize("by", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "file"])
@pytest.mark.parametrize("text", BLANK)
def test_a_blank_variable_or_file_is_no_token(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, token_file: Path, by: str, text: str
) -> None:
    server.add_repo("org/open", {"a.gguf": b"a"})
    client = put(by, text, monkeypatch, token_file)
    assert not client.has_token()
    assert client.list_files("org/open").files
    if by != "file":
        token_file.write_text(TOKEN)
        assert client.has_token()


@pytest.mark.parametrize(
    ("data", "words"),
    [("hf_x".encode("utf-16"), "not text in UTF-8"),
     (b"\xff", "not text in UTF-8"), (None, "cannot be read")],
    ids=["utf-16", "bytes", "folder"],
)  # fmt: skip
def test_a_token_file_that_is_none_is_named(
    server: HubServer, token_file: Path, data: bytes | None, words: str
) -> None:
    if data is None:
        token_file.mkdir()
    else:
        token_file.write_bytes(data)
    with pytest.raises(UsageError, match=words) as caught:
        HfHub().list_files(REPO)
    assert str(token_file) in caught.value.message


@pytest.mark.skipif(
    not hasattr(errors, "OIDCError"), reason="this huggingface_hub has no logins by OIDC"
)
def test_a_login_service_that_fails_is_an_error_of_ours(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_OIDC_RESOURCE", "org/x")
    with pytest.raises(GgufHubError, match="HF_OIDC_RESOURCE cannot be had"):
        HfHub().list_files(REPO)


@given(st.text(max_size=30))
def test_a_token_is_fit_for_a_header_or_refused_unseen(text: str) -> None:
    try:
        token = clean_token(text, "it")
    except UsageError as error:
        inner = text.strip().strip("\ufeff").strip()
        assert not inner or not inner.isascii() or not inner.isprintable() or " " in inner
        assert error.message.startswith("it is ")
        return
    assert token
    assert all("!" <= letter <= "~" for letter in token)
    assert token in text


@pytest.mark.slow
def test_the_command_line_refuses_a_token_unseen(
    server: HubServer, gguf_hub: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for command in ("download", "inspect", "list", "pick"):
        code, out, err = gguf_hub(command, f"{REPO}/a.gguf" if command == "inspect" else REPO,
                                  "--token", "hf_sec\nret")  # fmt: skip
        assert (code, "--token" in err) == (2, True), (command, err)
        assert "sec" not in out + err
    monkeypatch.setenv("HF_TOKEN", "hf_sec\nret")
    code, out, err = gguf_hub("doctor")
    assert (code, "the token in HF_TOKEN is not usable" in err) == (1, True)
    assert "sec" not in out + err.replace("seconds", "")


def test_a_password_in_the_address_displaces_the_token_and_it_is_told_once(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    notes: list[str] = []
    client = HfHub(server.endpoint.replace("//", "//me:word@"), note=notes.append)
    assert (client.sent_secret(), client.has_unsent_token()) == ("password", True)
    assert client.list_files(REPO).files
    with pytest.raises(GgufHubError, match="gated and wants a token, and got") as caught:
        client.file_metadata(REPO, "a.gguf")
    assert "take `USER:PASSWORD@` out of HF_ENDPOINT" in str(caught.value.hint)
    assert ["sent instead of the token" in note for note in notes] == [True]
    assert not HfHub(server.endpoint).has_unsent_token()
    monkeypatch.delenv("HF_TOKEN")
    assert not client.has_unsent_token()
